"""Transitions that are made while training: rings in memory or on a device, and batches drawn from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goskill import _core
from goskill.data.arguments import LARGEST_SEED, MOST_STEPS, checked_integer
from goskill.data.buffers import TORCH_DTYPES, checked_device
from goskill.data.columns import Columns, cast_numbers, checked_columns
from goskill.data.loading import refuse_workers
from goskill.data.normalization import Normalization
from goskill.data.sampler import Batch
from goskill.errors import InputError

_ADDED = "added"
_LEAST_ROOM = 4096  # rows
_EVERY = frozenset(("observations", "actions", "rewards", "next_observations", "terminated"))
Values = npt.ArrayLike | Tensor


class ReplayBuffer:
    """The last ``capacity`` transitions, or those of each task: ``rings`` [tasks, capacity] in one object.

    Each transition is a row of its own, with both of its states: rows of many environments may come in any order. A
    row holds what batches of :class:`TransitionSampler` hold: ``observations``, ``next_observations`` float32
    [observation_dim], ``actions`` float32 [action_dim], ``rewards``, ``discount`` float32, ``terminated`` bool, and
    the declared ``columns``. In host memory a buffer grows with what is added; on another device it takes its whole
    space at once, so that rows stay where a CUDA graph found them.

    Parameters
    ----------
    capacity: rows of each ring.
    observation_dim, action_dim: sizes of one observation and one action.
    tasks: number of rings; None for one that all transitions share.
    columns: further columns by name, as NumPy dtypes: ``{"skill": ("f4", 10), "option": "i8"}``.
    device: where the rows live.

    Raises InputError for wrong arguments.
    """

    def __init__(
        self,
        capacity: int,
        observation_dim: int,
        action_dim: int,
        *,
        tasks: int | None = None,
        columns: Mapping[str, npt.DTypeLike] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.capacity = checked_integer("capacity", capacity, 1, MOST_STEPS)
        self.observation_dim = checked_integer("observation_dim", observation_dim, 1, MOST_STEPS)
        self.action_dim = checked_integer("action_dim", action_dim, 1, MOST_STEPS)
        self.tasks = None if tasks is None else checked_integer("tasks", tasks, 1, MOST_STEPS)
        self.device = checked_device(device)
        self._types = self._fields(checked_columns("columns", columns, texts=False))
        self._added = np.zeros(self.tasks or 1, dtype=np.int64)  # rows that each ring was ever given
        self._room = 0 if self.device.type == "cpu" else self.capacity  # rows that each ring has memory for
        self._rows = self._allocated(self._room)

    def _fields(self, columns: Columns) -> Columns:
        fields: Columns = {
            "observations": np.dtype(("<f4", (self.observation_dim,))),
            "actions": np.dtype(("<f4", (self.action_dim,))),
            "rewards": np.dtype("<f4"),
            "next_observations": np.dtype(("<f4", (self.observation_dim,))),
            "terminated": np.dtype("|b1"),
            "discount": np.dtype("<f4"),
        }
        for name, type_ in columns.items():
            if name in fields or name == _ADDED:
                raise InputError(
                    f"columns: expected names that transitions do not have already, got {name!r}"
                )
            if type_.base.kind == "u" and type_.base.itemsize > 1:
                raise InputError(
                    f"columns: {name!r}: expected integers with a sign, or uint8, got {type_.base}"
                )
        return {**fields, **columns}

    def _allocated(self, room: int) -> dict[str, Tensor]:
        """Memory for rows, as one axis: ring r has those from r * room on."""
        rows = len(self._added) * room
        return {
            name: torch.zeros((rows, *type_.shape), dtype=TORCH_DTYPES[type_.base], device=self.device)
            for name, type_ in self._types.items()
        }

    def _grow(self, needed: int) -> None:
        if needed <= self._room:
            return
        old, rows = self._room, self._rows
        self._room = min(max(needed, 2 * old, _LEAST_ROOM), self.capacity)
        self._rows = self._allocated(self._room)
        for ring, size in enumerate(self.sizes.tolist()):
            for name, values in rows.items():
                self._rows[name][ring * self._room :][:size] = values[ring * old :][:size]

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Rows in each ring, int64 [tasks] (one without tasks)."""
        return np.minimum(self._added, self.capacity)

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def add(
        self,
        *,
        observations: Values,
        actions: Values,
        rewards: Values,
        next_observations: Values,
        terminated: Values,
        discount: Values = 1.0,
        task: int | npt.ArrayLike | None = None,
        **columns: Values,
    ) -> None:
        """Append n transitions, which take the place of the oldest ones of their rings.

        All are [n, ...]; ``discount`` and ``columns`` may be one entry for all. ``terminated``: whether the episode
        ended for good, not by a time limit. ``task``: int or [n], with rings of tasks only.

        Raises InputError that names the argument, and nothing is added: for shapes, and for values that the column's
        type cannot hold, or that are not finite. Values of tensors on a device are not looked at, which would wait
        for it; their types are.
        """
        given: dict[str, Values] = {
            "observations": observations,
            "actions": actions,
            "rewards": rewards,
            "next_observations": next_observations,
            "terminated": terminated,
            "discount": discount,
            **columns,
        }
        if given.keys() != self._types.keys():
            wrong = sorted(given.keys() ^ self._types.keys())
            raise InputError(
                f"columns: expected {', '.join(self._types)}, got others in {', '.join(wrong):.80}"
            )
        if np.ndim(rewards) != 1:
            raise InputError("rewards: expected one for each transition [n]")
        count = len(rewards)  # type: ignore[arg-type]
        values = {name: self._checked(name, value, count) for name, value in given.items()}
        kept, ring, place, counts = self._places(self._checked_task(task, count))
        self._grow(int(np.minimum(self._added + counts, self.capacity).max()))
        index = torch.from_numpy(ring * self._room + place).to(self.device)
        source = torch.from_numpy(kept).to(self.device)
        for name, value in values.items():
            self._rows[name].index_copy_(0, index, value.index_select(0, source))
        self._added += counts

    def _checked(self, name: str, value: Values, count: int) -> Tensor:
        type_ = self._types[name]
        tensor = _cast(name, value, type_).to(self.device)
        single = name not in _EVERY
        shape = (count, *type_.shape)
        if single and tuple(tensor.shape) == type_.shape:
            return tensor.expand(shape)
        if tuple(tensor.shape) != shape:
            raise InputError(f"{name}: expected shape {list(shape)}, got {list(tensor.shape)}")
        return tensor

    def _checked_task(self, task: int | npt.ArrayLike | None, count: int) -> npt.NDArray[np.int64]:
        if (task is None) != (self.tasks is None):
            wanted = (
                "none, since the buffer has one ring" if self.tasks is None else "the task of each transition"
            )
            raise InputError(f"task: expected {wanted}, got {task!r:.80}")
        array = np.asarray(0 if task is None else task)
        if array.dtype.kind not in "iu" or array.shape not in ((), (count,)):
            raise InputError(
                f"task: expected an integer or {count} of them, got dtype {array.dtype} and shape {list(array.shape)}"
            )
        tasks = np.broadcast_to(array.astype(np.int64), (count,))
        if count and not 0 <= tasks.min() <= tasks.max() < len(self._added):
            raise InputError(
                f"task: expected integers in [0, {len(self._added)}), got {tasks.min()} to {tasks.max()}"
            )
        return tasks

    def _places(
        self, tasks: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Which of the new transitions are kept, their rings and places in them, and how many each ring is given."""
        counts = np.bincount(tasks, minlength=len(self._added)).astype(np.int64)
        order = np.argsort(tasks, kind="stable")
        first = np.cumsum(counts) - counts
        turn = np.empty(len(tasks), dtype=np.int64)  # of each among those of its ring
        turn[order] = np.arange(len(tasks)) - first[tasks[order]]
        kept = np.flatnonzero(turn >= counts[tasks] - self.capacity)
        ring = tasks[kept]
        return kept, ring, (self._added[ring] + turn[kept]) % self.capacity, counts

    def clear(self, task: int | None = None) -> None:
        """Forget the transitions of a task, or all."""
        if task is None:
            self._added[:] = 0
        else:
            self._added[checked_integer("task", task, 0, len(self._added) - 1)] = 0

    def gather(self, rows: Tensor) -> Batch:
        """The transitions in ``rows`` int64 [...], on the device: each [..., *entry]. Usable inside a CUDA graph.

        Row ``ring * capacity + place``, wherever it lies in memory.
        """
        flat = rows.reshape(-1)
        flat = flat // self.capacity * self._room + flat % self.capacity
        return {
            name: values.index_select(0, flat).view(*rows.shape, *values.shape[1:])
            for name, values in self._rows.items()
        }

    def _held(self, name: str) -> list[Tensor]:
        """The rows of each ring, as views."""
        return [self._rows[name][i * self._room :][:size] for i, size in enumerate(self.sizes.tolist())]

    def state_dict(self) -> dict[str, Tensor]:
        """All rows that are held, ring by ring, and how many each ring was ever given (``added``).

        Those of one ring are views: save or copy them before more is added.
        """
        rows = {name: self._held(name) for name in self._types}
        joined = {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in rows.items()}
        return {_ADDED: torch.from_numpy(self._added.copy()), **joined}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Hold what :meth:`state_dict` of a buffer with the same settings gave.

        Raises InputError that names what does not fit, and nothing changes.
        """
        if not isinstance(state, Mapping) or state.keys() != {_ADDED, *self._types}:
            names = sorted(state)[:20] if isinstance(state, Mapping) else state
            raise InputError(f"state: expected {_ADDED}, {', '.join(self._types)}, got {names!r:.200}")
        added = state[_ADDED]
        fits = isinstance(added, Tensor) and added.dtype == torch.int64 and added.shape == self._added.shape
        if not fits or bool((added < 0).any()):
            raise InputError(f"state: expected 'added' to be {len(self._added)} counts, got {added!r:.80}")
        counts = added.cpu().numpy().copy()
        sizes = np.minimum(counts, self.capacity)
        for name, type_ in self._types.items():
            tensor, shape = state[name], (int(sizes.sum()), *type_.shape)
            known = isinstance(tensor, Tensor) and tensor.dtype == TORCH_DTYPES[type_.base]
            if not known or tuple(tensor.shape) != shape:
                got = f"{tensor.dtype} {list(tensor.shape)}" if isinstance(tensor, Tensor) else repr(tensor)
                raise InputError(
                    f"state: expected {name!r} to be {TORCH_DTYPES[type_.base]} {list(shape)}, got {got:.80}"
                )
        self._added = np.zeros_like(counts)
        self._grow(int(sizes.max()))
        self._added = counts
        for name in self._types:
            for held, part in zip(self._held(name), torch.split(state[name], sizes.tolist()), strict=True):
                held.copy_(part)


def _cast(name: str, value: Values, type_: np.dtype[Any]) -> Tensor:
    """The values in a column's type; floats may be rounded. Raises InputError for what it cannot hold."""
    dtype = TORCH_DTYPES[type_.base]
    if not isinstance(value, Tensor):
        return torch.as_tensor(cast_numbers(name, np.asarray(value), type_))
    if value.device.type != "cpu":
        if not torch.can_cast(value.dtype, dtype):
            raise InputError(f"{name}: expected values that fit {dtype}, got {value.dtype}")
        return value.detach().to(dtype)
    known = value.detach().float() if value.dtype == torch.bfloat16 else value.detach()
    return torch.as_tensor(cast_numbers(name, known.numpy(), type_))


class ReplaySampler:
    """Transitions of a :class:`ReplayBuffer`, uniform over what it holds at the time; an endless iterator of batches.

    Batches hold the buffer's columns, [B, ...], or [tasks, B, ...] of a buffer with rings of tasks: B of each. The
    random numbers are Philox4x64-10 of (seed, step, sample): with the states of buffer and sampler a stream goes on
    exactly. The workers of a DataLoader cannot read it: they would copy the buffer as it was when they began.

    Parameters
    ----------
    buffer: what is drawn from.
    batch_size: B.
    tasks: the rings that are drawn from, in this order; all by default.
    normalize: a Normalization of both states.
    seed: of the random numbers. rank: ranks draw different numbers of one stream.

    Raises InputError for wrong arguments, and when a batch is wanted of an empty ring.
    """

    resident = True  # batches are gathered where the rows live

    def __init__(
        self,
        buffer: ReplayBuffer,
        batch_size: int,
        *,
        tasks: Sequence[int] | None = None,
        normalize: Normalization | None = None,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        if not isinstance(buffer, ReplayBuffer):
            raise InputError(f"buffer: expected a ReplayBuffer, got {buffer!r:.80}")
        if tasks is not None and buffer.tasks is None:
            raise InputError("tasks: expected none, since the buffer has one ring")
        self._buffer = buffer
        self._batch_size = checked_integer("batch_size", batch_size, 1, MOST_STEPS)
        rings = range(buffer.tasks or 1) if tasks is None else tasks
        self._rings = np.array(
            [checked_integer("tasks", ring, 0, (buffer.tasks or 1) - 1) for ring in rings], dtype=np.int64
        )
        self._mean = self._std = None
        if normalize is not None:
            self._mean = torch.from_numpy(np.array(normalize.mean, dtype=np.float32)).to(buffer.device)
            self._std = torch.from_numpy(np.array(normalize.std, dtype=np.float32)).to(buffer.device)
        self._seed = checked_integer("seed", seed, 0, LARGEST_SEED)
        self._rank = checked_integer("rank", rank, 0)
        self._step = 0

    @property
    def device(self) -> torch.device:
        """Where the rows live."""
        return self._buffer.device

    def places(self, step: int) -> Batch:
        """The ``rows`` of one step's batch, int64 [B] or [tasks, B], on the buffer's device."""
        sizes = self._buffer.sizes[self._rings]
        if not sizes.all():
            ring = int(self._rings[int(np.argmin(sizes))])
            raise InputError(f"buffer: there is nothing to draw from in ring {ring}")
        first = self._rank * len(self._rings) * self._batch_size
        drawn = _core.draw_below(self._seed, step, first, sizes, self._batch_size)
        rows = torch.from_numpy(drawn + self._rings[:, None] * self._buffer.capacity)
        return {"rows": (rows[0] if self._buffer.tasks is None else rows).to(self._buffer.device)}

    def gather(self, places: Batch) -> Batch:
        """The batch of some :meth:`places`, without a look at the host: usable inside a CUDA graph."""
        batch = self._buffer.gather(places["rows"])
        if self._mean is not None and self._std is not None:
            for name in ("observations", "next_observations"):
                batch[name] = (batch[name] - self._mean) / self._std
        return batch

    def batch(self, step: int) -> Batch:
        """The batch of one step, from what the buffer holds now."""
        return self.gather(self.places(step))

    def __iter__(self) -> Iterator[Batch]:
        refuse_workers(self)
        return self

    def __next__(self) -> Batch:
        return self.gather(self.next_places())

    def next_places(self) -> Batch:
        """The next batch's :meth:`places`."""
        places = self.places(self._step)
        self._step += 1
        return places

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands: ``step`` (of the next batch) and ``seed``. The buffer has a state of its own."""
        return {"step": self._step, "seed": self._seed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a state of :meth:`state_dict`. Raises InputError for anything else."""
        for name in ("step", "seed"):
            if not isinstance(state, Mapping) or name not in state:
                raise InputError(f"state: expected 'step' and 'seed', as state_dict gives, got {state!r:.80}")
        step = checked_integer("step", state["step"], 0, LARGEST_SEED)
        self._seed = checked_integer("seed", state["seed"], 0, LARGEST_SEED)
        self._step = step
