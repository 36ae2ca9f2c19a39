"""What samplers over an episode store share: endless streams, decided by (seed, step, sample) alone."""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from goskill import _core
from goskill.data import loading
from goskill.data.arguments import (
    LARGEST_SEED,
    MOST_STEPS,
    checked_flag,
    checked_indices,
    checked_integer,
    checked_store,
)
from goskill.data.buffers import ArraySpec, BatchBuffers, checked_device
from goskill.data.normalization import Normalization
from goskill.data.resident import ResidentColumns
from goskill.data.store import EpisodeStore
from goskill.errors import InputError

Batch = dict[str, Tensor]
NativeSampler = (
    _core.SegmentSampler | _core.VariableSegmentSampler | _core.TransitionSampler | _core.ContextSampler
)


def _checked_normalization(value: bool | Normalization, store: EpisodeStore) -> Normalization | None:
    """How observations are normalised, or None. InputError for what no observation can be divided by."""
    if not isinstance(value, Normalization):
        if not isinstance(value, (bool, np.bool_)):
            raise InputError(f"normalize: expected True, False or a Normalization, got {value!r:.80}")
        return store.normalization() if value else None
    for name, column in (("mean", value.mean), ("std", value.std)):
        array = np.asarray(column)
        if array.dtype.kind != "f" or array.shape != (store.observation_dim,):
            raise InputError(
                f"normalize: expected a {name} of {store.observation_dim} dimensions in floating point, "
                f"got dtype {array.dtype} and shape {list(array.shape)}"
            )
        with np.errstate(over="ignore"):
            values = array.astype(np.float32)  # as samples are normalised
        valid = np.isfinite(values) & ((values > 0) | (name == "mean"))
        if not valid.all():
            wanted = "finite values" if name == "mean" else "finite values above 0"
            place = int(np.flatnonzero(~valid)[0])
            raise InputError(f"normalize: expected a {name} of {wanted}, got {array[place]} at {place}")
    return value


class SamplingOptions(TypedDict, total=False):
    """What all samplers of a store take, with the meaning and the defaults that :class:`SegmentSampler` tells."""

    normalize: bool | Normalization
    seed: int
    threads: int
    episodes: npt.ArrayLike | None
    rank: int
    world_size: int
    device: str | torch.device
    pin_memory: bool
    resident: bool


class StoreSampler(IterableDataset[Batch]):
    """What samplers share: position in the stream, parts of ranks, buffers."""

    _native: NativeSampler

    def __init__(
        self,
        store: EpisodeStore,
        batch_size: int,
        labels: str | None,
        task_weights: Mapping[str, float] | None = None,
        *,
        normalize: bool | Normalization = False,
        seed: int = 0,
        threads: int = 1,
        episodes: npt.ArrayLike | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
        pin_memory: bool = False,
        resident: bool = False,
    ) -> None:
        super().__init__()
        self._store = checked_store(store)
        self._batch_size = checked_integer("batch_size", batch_size, 1, MOST_STEPS)
        self._labels = labels
        self._seed = checked_integer("seed", seed, 0, LARGEST_SEED)
        self._threads = checked_integer("threads", threads, 0, 2**31 - 1) or len(os.sched_getaffinity(0))
        self._world_size = checked_integer("world_size", world_size, 1)
        self._rank = checked_integer("rank", rank, 0)
        if self._rank >= self._world_size:
            raise InputError(f"rank: expected less than world_size {world_size}, got {rank}")
        self._normalization = _checked_normalization(normalize, store)
        self._episodes = None if episodes is None else checked_indices("episodes", episodes, store)
        self._task_weights = [] if task_weights is None else self._checked_weights(task_weights)
        self._device = checked_device(device)
        self._pin_memory = checked_flag("pin_memory", pin_memory)
        if self._pin_memory and not torch.cuda.is_available():
            raise InputError("pin_memory: expected a CUDA device to pin memory for, got none")
        self._resident = checked_flag("resident", resident)
        self._step = 0
        self.loader_state = loading.LoaderState()
        self._create()

    def _create(self) -> None:
        """Build the native sampler, the buffers, and the columns on the device if they are to live there."""
        self._native = self._build()
        specs = self._place_specs() if self._resident else self._place_specs() + self._gathered_specs()
        self._buffers = BatchBuffers(specs, self._device, self._pin_memory)
        self._columns = self._load_columns() if self._resident else None

    def _load_columns(self) -> ResidentColumns:
        return ResidentColumns(
            self._store, self._device, self._column_names(), self._labels, self._normalization
        )

    def _build(self) -> NativeSampler:
        raise NotImplementedError

    def _place_specs(self) -> list[ArraySpec]:
        """Arrays that say where samples come from."""
        raise NotImplementedError

    def _gathered_specs(self) -> list[ArraySpec]:
        """All other arrays of a batch."""
        raise NotImplementedError

    def _column_names(self) -> list[str]:
        """Columns besides the observations that batches are made of."""
        raise NotImplementedError

    def _gather(self, columns: ResidentColumns, places: Batch) -> Batch:
        raise NotImplementedError

    def _checked_weights(self, weights: Mapping[str, float]) -> list[float]:
        if not isinstance(weights, Mapping):
            raise InputError(f"task_weights: expected weights by task name, got {weights!r}")
        result = [0.0] * len(self._store.tasks)
        for task, weight in weights.items():
            if not isinstance(weight, numbers.Real) or not 0 <= weight < float("inf"):
                raise InputError(
                    f"task_weights: expected finite weights of at least 0, got {weight!r} for {task!r}"
                )
            result[self._store.task_index(task)] = float(weight)
        return result

    def _shared(self) -> dict[str, Any]:
        """The native sampler's arguments that all kinds have."""
        normalization = self._normalization
        return {
            "store": self._store.native,
            "labels": None if self._labels is None else self._store.label_column(self._labels),
            "episodes": self._episodes,
            "task_weights": self._task_weights,
            "mean": None if normalization is None else normalization.mean.tolist(),
            "std": None if normalization is None else normalization.std.tolist(),
            "seed": self._seed,
            "threads": self._threads,
        }

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_native", "_buffers", "_columns")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._create()

    @property
    def store(self) -> EpisodeStore:
        """The store that is sampled."""
        return self._store

    @property
    def batch_size(self) -> int:
        """Samples in a batch of this rank."""
        return self._batch_size

    @property
    def resident(self) -> bool:
        """Whether the columns are kept on the device."""
        return self._resident

    def batch(self, step: int) -> Batch:
        """The batch of one step, whatever the position of the stream."""
        if self._columns is not None:
            return self.gather(self.places(step))
        host = self._buffers.take()
        first = self._rank * self._batch_size
        self._native.fill(step, self._world_size * self._batch_size, first, host.arrays)
        return self._buffers.deliver(host)

    def places(self, step: int) -> Batch:
        """Where the samples of a resident sampler's batch lie, on the device: what :meth:`gather` takes.

        Raises InputError for samplers that are not resident.
        """
        self._check_resident()
        host = self._buffers.take()
        first = self._rank * self._batch_size
        self._native.locate(step, self._world_size * self._batch_size, first, host.arrays)
        return self._buffers.deliver(host)

    def gather(self, places: Batch) -> Batch:
        """The batch of some :meth:`places`, without a look at the host: usable inside a CUDA graph.

        Raises InputError for samplers that are not resident.
        """
        return self._gather(self._check_resident(), places)

    def _check_resident(self) -> ResidentColumns:
        if self._columns is None:
            raise InputError(
                "resident: expected a sampler with resident=True, got one that fills its batches"
            )
        return self._columns

    def __iter__(self) -> Iterator[Batch]:
        """The stream from here on. Workers of a DataLoader take turns, so that its consumer sees the same stream.

        :meth:`state_dict` counts what the consumer took, not what its workers read ahead. A loop that fetches a batch
        before it uses the last one, as Lightning's and accelerate's, has taken it.
        """
        return loading.SampleStream(self)

    def __next__(self) -> Batch:
        """The next batch."""
        batch = self.batch(self._step)
        self._step += 1
        return batch

    def next_places(self) -> Batch:
        """The next batch's :meth:`places`."""
        places = self.places(self._step)
        self._step += 1
        return places

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands: ``step`` (of the next batch) and ``seed``."""
        return {"step": self._step, "seed": self._seed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a state of :meth:`state_dict`, at any distance, at once.

        Raises InputError for anything else than such a state.
        """
        for name in ("step", "seed"):
            if not isinstance(state, Mapping) or name not in state:
                raise InputError(f"state: expected 'step' and 'seed', as state_dict gives, got {state!r:.80}")
        step, seed = (
            checked_integer("step", state["step"], 0, 2**63 - 1),
            checked_integer("seed", state["seed"], 0, LARGEST_SEED),
        )
        if seed != self._seed:
            self._seed = seed
            self._create()
        self._step = step


class Gathering(Protocol):
    """A sampler whose batches are gathered from their places."""

    def next_places(self) -> Batch: ...

    def state_dict(self) -> dict[str, int]: ...

    def load_state_dict(self, state: Mapping[str, int]) -> None: ...


class PlaceStream:
    """The stream of a resident sampler before anything is gathered: what :meth:`StoreSampler.gather` takes.

    It moves the sampler on; its state is the sampler's.
    """

    def __init__(self, sampler: Gathering) -> None:
        self._sampler = sampler

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self._sampler.next_places()

    def state_dict(self) -> dict[str, int]:
        """The sampler's."""
        return self._sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Move the sampler."""
        self._sampler.load_state_dict(state)


loading.WATCHED = loading.watch_loaders(StoreSampler)
