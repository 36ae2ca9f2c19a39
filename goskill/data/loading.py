"""The stream of a sampler in a DataLoader: what its consumer has taken, and what its workers read ahead.

A loader's workers each hold a copy of the sampler and read ahead of the loop that takes their batches, so only the
loop's process knows how far the stream has come. There the loader's iterator says what it hands out (`watch_loaders`),
and the sampler's position follows. Workers learn where an epoch begins when they start, or, if they persist, from
shared memory. torchdata's StatefulDataLoader keeps the states of its workers instead; those that a worker resumed from
reach the loop's process through the same memory.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.data import dataloader, get_worker_info

from goskill.data.arguments import LARGEST_SEED, checked_integer
from goskill.errors import InputError

if TYPE_CHECKING:
    from goskill.data.sampler import Batch, StoreSampler

MOST_WORKERS = 512
FETCHING_AHEAD = ("accelerate", "lightning", "pytorch_lightning")
_BASE, _SEED, _RESUMED = 0, 1, 2  # cells of the shared memory; of each worker a stamp and a step follow


class LoaderState:
    """What a sampler's process and the workers of its loaders share: where epochs begin.

    Copies that are pickled for a worker process share the memory; all other copies have their own.
    """

    def __init__(self, cells: Tensor | None = None) -> None:
        self._cells = _shared(
            torch.zeros(_RESUMED + 2 * MOST_WORKERS, dtype=torch.int64) if cells is None else cells
        )
        self._epochs: WeakKeyDictionary[Any, _Epoch] = WeakKeyDictionary()
        self._begun = False  # whether this worker process has begun an epoch

    def __reduce__(self) -> tuple[Any, ...]:
        return LoaderState, (self._cells,)

    # In the process of the loop

    def begin(self, iterator: Any, loader: Any, sampler: StoreSampler) -> None:
        """An iterator of a loader with workers begins an epoch."""
        warn_of_fetching_ahead()
        if not getattr(loader, "in_order", True):
            warnings.warn(
                "DataLoader: with in_order=False batches come as workers finish them, not in the order of the stream, "
                "and a resumed run repeats some and misses others",
                RuntimeWarning,
                stacklevel=4,
            )
        state = sampler.state_dict()
        self._cells[_BASE], self._cells[_SEED] = state["step"], state["seed"]
        first = iterator not in self._epochs
        self._epochs[iterator] = _Epoch(state["step"], may_resume=first, fault=_fault(loader))

    def check(self, iterator: Any, sampler: StoreSampler) -> None:
        """Before a batch is handed out: nothing else may have moved the stream, which the workers would not know."""
        epoch = self._epochs.get(iterator)
        if epoch is None:
            return
        if epoch.fault is not None:
            raise InputError(f"DataLoader: {epoch.fault}")
        step = sampler.state_dict()["step"]
        if step != epoch.next:
            raise InputError(
                f"DataLoader: the sampler was moved from step {epoch.next} to {step} while workers were reading it: "
                "begin again with iter(loader)"
            )

    def taken(self, iterator: Any, sampler: StoreSampler) -> None:
        """A batch was handed out."""
        epoch = self._epochs.get(iterator)
        if epoch is None:
            return
        if epoch.may_resume:
            epoch.may_resume = False
            resumed = self._resumed_at(iterator._base_seed, iterator._num_workers)
            epoch.next = epoch.next if resumed is None else resumed
        epoch.next += 1
        sampler.load_state_dict({**sampler.state_dict(), "step": epoch.next})

    def _resumed_at(self, stamp: int, workers: int) -> int | None:
        """The least step that this iterator's workers resumed at; None unless all of them did."""
        cells = self._cells[_RESUMED : _RESUMED + 2 * workers].view(-1, 2)
        return int(cells[:, 1].min()) if bool((cells[:, 0] == stamp).all()) else None

    # In a worker

    def base(self, state: Mapping[str, int]) -> Mapping[str, int]:
        """Where this epoch begins: a worker is started with the ``state``, and told of later epochs."""
        begun, self._begun = self._begun, True
        if not begun:
            return state
        if not self._cells.is_shared():  # type: ignore[no-untyped-call]
            raise InputError(
                "DataLoader: persistent workers need shared memory, which this system does not give"
            )
        return {"step": int(self._cells[_BASE]), "seed": int(self._cells[_SEED])}

    def note_resumption(self, worker: Any, step: int) -> None:
        """A worker goes on from a loader's state."""
        if worker.id >= MOST_WORKERS:
            return  # refused with the first batch
        cell = _RESUMED + 2 * worker.id
        self._cells[cell + 1] = step
        self._cells[cell] = worker.seed - worker.id  # the loader's own seed, new for each of its iterators


@dataclass
class _Epoch:
    next: int
    may_resume: bool  # whether its workers may have resumed elsewhere, noted by the first batch
    fault: str | None


def _fault(loader: Any) -> str | None:
    """Why a loader cannot be read; said with its first batch, since torch cannot clean up what fails before."""
    if loader.batch_size not in (None, 1):
        return (
            "expected batch_size=None, since the sampler makes batches: with workers, batches of "
            f"{loader.batch_size} of its batches would not follow one another"
        )
    if loader.num_workers > MOST_WORKERS:
        return f"expected at most {MOST_WORKERS} workers, got {loader.num_workers}"
    return None


class SampleStream:
    """The batches of a sampler from where it stands, in this process or in a DataLoader's worker; endless.

    Workers take turns. ``state_dict`` is that of the sampler; in a worker it counts this worker's own batches.
    """

    def __init__(self, sampler: StoreSampler) -> None:
        self._sampler = sampler
        self._worker = get_worker_info()
        self._next = 0
        if self._worker is None:
            warn_of_fetching_ahead()
        else:
            self._begin_in_worker(self._worker)

    def _begin_in_worker(self, worker: Any) -> None:
        fault = _why_unwatched(self._sampler, worker)
        if fault is None:
            self._sampler.load_state_dict(self._sampler.loader_state.base(self._sampler.state_dict()))
        else:
            warnings.warn(f"{type(self._sampler).__name__}: {fault}", RuntimeWarning, stacklevel=4)
        self._next = self._sampler.state_dict()["step"] + worker.id

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._worker is None:
            return next(self._sampler)
        batch = self._sampler.batch(self._next)
        self._next += self._worker.num_workers
        return batch

    def state_dict(self) -> dict[str, int]:
        """Where this stream stands."""
        if self._worker is None:
            return self._sampler.state_dict()
        return {**self._sampler.state_dict(), "step": self._next, "workers": self._worker.num_workers}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a state of :meth:`state_dict`.

        Raises InputError for anything else, and for a state of another number of workers.
        """
        if self._worker is None:
            self._sampler.load_state_dict(state)
            return
        workers = state.get("workers") if isinstance(state, Mapping) else None
        if workers != self._worker.num_workers:
            raise InputError(
                f"DataLoader: expected the state of a loader with {self._worker.num_workers} workers, "
                f"got one of {workers}"
            )
        step = checked_integer("step", state["step"], 0, LARGEST_SEED)
        position = self._sampler.state_dict()["step"]
        self._sampler.load_state_dict({**state, "step": position})
        self._next = step
        self._sampler.loader_state.note_resumption(self._worker, step)


def _why_unwatched(sampler: StoreSampler, worker: Any) -> str | None:
    """What keeps the loop's process from knowing what is taken of a sampler in a worker; None if nothing does."""
    if worker.dataset is not sampler:
        return (
            "read by another dataset in a DataLoader's workers, which hides what the loop takes: every epoch begins at "
            "the same batch. Give the sampler itself to the DataLoader and change its batches in collate_fn"
        )
    if not WATCHED:
        return (
            "this version of torch does not say what a DataLoader hands out: every epoch with workers begins at the "
            "same batch. Move the sampler with load_state_dict before each"
        )
    return None


def warn_of_fetching_ahead() -> None:
    """Warn where a package's loop reads a stream that takes a batch before it has used the last one."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package in FETCHING_AHEAD:
            warnings.warn(
                f"{package} fetches a batch before the last one is used, and state_dict() counts what is fetched: keep "
                "{**state, 'step': state['step'] - 1}, or a resumed run misses a batch",
                RuntimeWarning,
                stacklevel=3,
            )
            return


def refuse_workers(sampler: object) -> None:
    """For samplers whose copies in a DataLoader's workers would all give the same batches. Raises InputError in one."""
    if get_worker_info() is not None:
        raise InputError(
            f"{type(sampler).__name__}: expected to be read by the loop itself, got a DataLoader's worker, whose copy "
            "knows nothing of the batches that others take: use num_workers=0"
        )


def _shared(cells: Tensor) -> Tensor:
    try:
        return cells if cells.is_shared() else cells.share_memory_()  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError):  # no shared memory here: only workers that persist need it
        return cells


def watch_loaders(samplers: type) -> bool:
    """Have the iterators of DataLoaders tell datasets of these types what they hand out. False if torch has changed.

    The loop's process runs no other code of a dataset that workers read, so this goes around two methods of torch's
    iterators. Those of other datasets behave as before.
    """
    iterators: Any = getattr(dataloader, "_BaseDataLoaderIter", None)
    if not hasattr(iterators, "_reset"):
        return False
    reset, following = iterators._reset, iterators.__next__

    def watched(iterator: Any) -> bool:
        return isinstance(iterator._dataset, samplers) and iterator._num_workers > 0

    @functools.wraps(reset)
    def begin(iterator: Any, loader: Any, *arguments: Any, **settings: Any) -> Any:
        if watched(iterator):
            iterator._dataset.loader_state.begin(iterator, loader, iterator._dataset)
        return reset(iterator, loader, *arguments, **settings)

    @functools.wraps(following)
    def hand_out(iterator: Any) -> Any:
        if not watched(iterator):
            return following(iterator)
        sampler = iterator._dataset
        sampler.loader_state.check(iterator, sampler)
        batch = following(iterator)
        sampler.loader_state.taken(iterator, sampler)
        return batch

    iterators._reset, iterators.__next__ = begin, hand_out
    return True


WATCHED = False  # until `watch_loaders` was called
