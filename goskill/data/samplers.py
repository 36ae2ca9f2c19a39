"""Samplers over an episode store: endless streams of batches, decided by (seed, step, sample) alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from goskill import _core
from goskill.data.buffers import ArraySpec, BatchBuffers
from goskill.data.resident import ResidentColumns
from goskill.data.statistics import Normalization
from goskill.data.store import EpisodeStore
from goskill.errors import InputError

Batch = dict[str, Tensor]

_PROMPTS_PER_TASK = 4  # as in the published data


def _integer(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name}: expected an integer of at least {least}, got {value!r}")
    return int(value)


def _indices(name: str, value: npt.ArrayLike, store: EpisodeStore) -> list[int]:
    array = np.asarray(value)
    if array.size == 0:
        return []
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"{name}: expected integers [n], got dtype {array.dtype} and shape {list(array.shape)}"
        )
    for index in (array.min(), array.max()):
        if not 0 <= index < store.num_episodes:
            raise InputError(f"{name}: expected indices in [0, {store.num_episodes}), got {index}")
    return [int(i) for i in array]


class _Sampler(IterableDataset[Batch]):
    """What both samplers share: position in the stream, shards of ranks and workers, buffers."""

    _native: _core.SegmentSampler | _core.ContextSampler

    def __init__(
        self,
        store: EpisodeStore,
        batch_size: int,
        labels: str | None,
        normalize: bool | Normalization,
        seed: int,
        threads: int,
        episodes: npt.ArrayLike | None,
        task_weights: Mapping[str, float] | None,
        rank: int,
        world_size: int,
        device: str | torch.device,
        pin_memory: bool,
        resident: bool,
    ) -> None:
        super().__init__()
        if store.num_episodes == 0:
            raise InputError(f"store: {store.path} has no episodes to sample from")
        self._store = store
        self._batch_size = _integer("batch_size", batch_size, 1)
        self._labels = labels
        self._seed = _integer("seed", seed, 0)
        if self._seed >= 1 << 63:
            raise InputError(f"seed: expected less than 2**63, got {seed}")
        self._threads = _integer("threads", threads, 0) or len(os.sched_getaffinity(0))
        self._world_size = _integer("world_size", world_size, 1)
        self._rank = _integer("rank", rank, 0)
        if self._rank >= self._world_size:
            raise InputError(f"rank: expected less than world_size {world_size}, got {rank}")
        if isinstance(normalize, Normalization):
            self._normalization: Normalization | None = normalize
        else:
            self._normalization = store.normalization() if normalize else None
        if self._normalization is not None and len(self._normalization.mean) != store.observation_dim:
            raise InputError(
                f"normalize: expected {store.observation_dim} dimensions, got {len(self._normalization.mean)}"
            )
        self._episodes = None if episodes is None else _indices("episodes", episodes, store)
        self._task_weights = [] if task_weights is None else self._checked_weights(task_weights)
        self._device = self._checked_device(device)
        self._pin_memory = bool(pin_memory)
        if self._pin_memory and not torch.cuda.is_available():
            raise InputError("pin_memory: expected a CUDA device to pin memory for, got none")
        self._resident = bool(resident)
        self._step = 0
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

    def _build(self) -> _core.SegmentSampler | _core.ContextSampler:
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

    @staticmethod
    def _checked_device(device: str | torch.device) -> torch.device:
        try:
            result = torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise InputError(f"device: expected a torch device, got {device!r}") from error
        if result.type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"device: expected a device of this machine, got {device!r} without CUDA")
        return result

    def _checked_weights(self, weights: Mapping[str, float]) -> list[float]:
        result = [0.0] * len(self._store.tasks)
        for task, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise InputError(
                    f"task_weights: expected finite weights of at least 0, got {weight!r} for {task!r}"
                )
            result[self._store.task_index(task)] = float(weight)
        return result

    def _shared(self) -> dict[str, Any]:
        """The native sampler's arguments that both kinds have."""
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

    def batch(self, step: int) -> Batch:
        """The batch of one step, whatever the position of the stream."""
        arrays, packed = self._buffers.take()
        first = self._rank * self._batch_size
        if self._columns is None:
            self._native.fill(step, self._world_size * self._batch_size, first, arrays)
            return self._buffers.tensors(arrays, packed)
        self._native.locate(step, self._world_size * self._batch_size, first, arrays)
        return self._gather(self._columns, self._buffers.tensors(arrays, packed))

    def __iter__(self) -> Iterator[Batch]:
        """The stream from here on. Workers of a DataLoader take turns, so that it sees the same stream."""
        worker = get_worker_info()
        if worker is not None:
            self._step += worker.id
        stride = 1 if worker is None else worker.num_workers
        while True:
            batch = self.batch(self._step)
            self._step += stride
            yield batch

    def __next__(self) -> Batch:
        """The next batch."""
        batch = self.batch(self._step)
        self._step += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands: ``step`` (of the next batch) and ``seed``."""
        return {"step": self._step, "seed": self._seed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a state of :meth:`state_dict`, at any distance, at once."""
        step, seed = _integer("step", state["step"], 0), _integer("seed", state["seed"], 0)
        if seed != self._seed:
            self._seed = seed
            self._create()
        self._step = step


class SegmentSampler(_Sampler):
    """Windows of H consecutive steps, the start uniform over the steps of the episodes.

    An endless iterable of batches; each is a dict of tensors:

    - ``observations`` float32 [B, H + 1, observation_dim]: rows 0 … H-1 are the window's states; row H is
      always the goal state s(min(start + H, T));
    - ``actions`` float32 [B, H, action_dim];
    - ``mask`` bool [B, H]: False in rows past the end of the episode, which are zero (also when normalised);
    - ``start``, ``episode``, ``task`` int64 [B]: where the window came from;
    - ``skill`` int64 [B]: the label at the start, if ``labels`` is given.

    A batch may be kept and changed freely; its memory is used again only when no tensor looks at it any more.

    Parameters
    ----------
    store: the open store.
    horizon: H >= 1.
    batch_size: B, per rank.
    balance: "task" (sample g of the stream belongs to task g mod the number of tasks that have episodes),
        "transition" (uniform over all steps) or "skill" (sample g belongs to class g mod the number of
        classes that occur, uniform over its steps; needs ``labels``).
    labels: name of a label column.
    normalize: normalise observations by the store's own statistics (True), or by a given Normalization.
    seed: the random numbers are Philox4x64-10 of (seed, step, sample): any number of threads, ranks and
        workers gives the same stream.
    threads: threads that fill a batch, 0 for all cores.
    episodes: indices of the episodes to sample from; all by default.
    task_weights: with balance "task", draw tasks at random in these proportions (tasks left out: 0).
    rank, world_size: this rank gets samples rank·B … rank·B + B - 1 of a global batch of world_size·B.
    device: where batches go. For a CUDA device they are filled in pinned memory and copied in one piece,
        without waiting for the copy.
    pin_memory: with device "cpu", batches in pinned memory, for callers that copy them themselves.
    resident: keep the columns on ``device`` and gather there from the same random numbers: the same
        batches, bit for bit. The device must hold the store (100M steps of 39 + 4 floats: 17.2 GB).

    Raises InputError for wrong arguments and StoreError for labels that are missing or damaged.
    """

    def __init__(
        self,
        store: EpisodeStore,
        horizon: int,
        batch_size: int,
        balance: str = "task",
        labels: str | None = None,
        normalize: bool | Normalization = False,
        seed: int = 0,
        threads: int = 1,
        episodes: npt.ArrayLike | None = None,
        task_weights: Mapping[str, float] | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
        pin_memory: bool = False,
        resident: bool = False,
    ) -> None:
        if balance not in ("task", "transition", "skill"):
            raise InputError(f"balance: expected 'task', 'transition' or 'skill', got {balance!r}")
        if balance == "skill" and labels is None:
            raise InputError("labels: balance 'skill' needs the name of a label column, got None")
        if task_weights is not None and balance != "task":
            raise InputError(f"task_weights: expected balance 'task' with them, got {balance!r}")
        self._horizon = _integer("horizon", horizon, 1)
        self._balance = balance
        super().__init__(
            store,
            batch_size,
            labels,
            normalize,
            seed,
            threads,
            episodes,
            task_weights,
            rank,
            world_size,
            device,
            pin_memory,
            resident,
        )

    def _build(self) -> _core.SegmentSampler:
        return _core.SegmentSampler(horizon=self._horizon, balance=self._balance, **self._shared())

    def _place_specs(self) -> list[ArraySpec]:
        return [ArraySpec(name, np.int64, (self._batch_size,)) for name in ("start", "episode", "task")]

    def _gathered_specs(self) -> list[ArraySpec]:
        batch, horizon = self._batch_size, self._horizon
        specs = [
            ArraySpec("observations", np.float32, (batch, horizon + 1, self._store.observation_dim)),
            ArraySpec("actions", np.float32, (batch, horizon, self._store.action_dim)),
            ArraySpec("mask", np.bool_, (batch, horizon)),
        ]
        return specs if self._labels is None else [*specs, ArraySpec("skill", np.int64, (batch,))]

    def _column_names(self) -> list[str]:
        return ["actions"]

    def _gather(self, columns: ResidentColumns, places: Batch) -> Batch:
        return columns.segments(places, self._horizon)


class ContextSampler(_Sampler):
    """Windows of K decision points, H steps apart, behind the last P of a demonstration.

    An endless iterable of batches; each is a dict of tensors. Decision point k of a window is at
    environment step t = start + k·H; the start is uniform over the integers from -(K-1)·H to T-1-(K-1)·H.
    Points before the episode (t < 0) are zero, timestep 0, mask False.

    - ``observations`` float32 [B, K, observation_dim];
    - ``returns_to_go`` float32 [B, K, 1]: undiscounted, divided by ``return_scale``;
    - ``timesteps`` int64 [B, K]: t // H;
    - ``mask`` bool [B, K];
    - ``skills`` int64 [B, K]: labels, if ``labels`` is given;
    - ``actions`` float32 [B, K, action_dim], if ``actions`` is set;
    - the same with prefix ``prompt_`` [B, P, …], unless ``prompt`` is 0: the last P decision points, H
      apart, that the demonstration's last P·H steps hold (all ⌊T/H⌋ of a shorter one, at least one, padded
      on the left);
    - ``start``, ``episode``, ``task``, ``prompt_episode`` int64 [B]: where the windows came from.

    Sample g of the stream belongs to task g mod the number of tasks that have episodes; episodes are drawn in
    proportion to their length. A batch may be kept and changed freely; its memory is used again only when
    no tensor looks at it any more.

    Parameters
    ----------
    store: the open store.
    horizon: H >= 1. context: K >= 1. prompt: P >= 0. batch_size: B, per rank.
    labels: name of a label column.
    prompt_episodes: indices of each task's demonstrations by task name; by default its 4 episodes of
        highest return (among ``episodes``).
    return_scale: what returns-to-go are divided by.
    actions: whether batches hold actions.
    normalize, seed, threads, episodes, task_weights, rank, world_size, device, pin_memory, resident: as for
        :class:`SegmentSampler`.

    Raises InputError for wrong arguments and StoreError for labels that are missing or damaged.
    """

    def __init__(
        self,
        store: EpisodeStore,
        horizon: int,
        context: int,
        prompt: int,
        batch_size: int,
        labels: str | None = None,
        prompt_episodes: Mapping[str, Sequence[int]] | None = None,
        return_scale: float = 1000.0,
        normalize: bool | Normalization = False,
        actions: bool = False,
        seed: int = 0,
        threads: int = 1,
        episodes: npt.ArrayLike | None = None,
        task_weights: Mapping[str, float] | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
        pin_memory: bool = False,
        resident: bool = False,
    ) -> None:
        self._horizon = _integer("horizon", horizon, 1)
        self._context = _integer("context", context, 1)
        self._prompt = _integer("prompt", prompt, 0)
        if not 0 < return_scale < float("inf"):
            raise InputError(f"return_scale: expected a finite number above 0, got {return_scale!r}")
        self._return_scale = float(return_scale)
        self._actions = bool(actions)
        self._prompt_episodes = self._checked_prompts(store, prompt_episodes, episodes)
        super().__init__(
            store,
            batch_size,
            labels,
            normalize,
            seed,
            threads,
            episodes,
            task_weights,
            rank,
            world_size,
            device,
            pin_memory,
            resident,
        )

    def _checked_prompts(
        self,
        store: EpisodeStore,
        prompt_episodes: Mapping[str, Sequence[int]] | None,
        episodes: npt.ArrayLike | None,
    ) -> list[list[int]]:
        chosen = (
            np.arange(store.num_episodes)
            if episodes is None
            else np.array(_indices("episodes", episodes, store))
        )
        if self._prompt == 0:
            return [[] for _ in store.tasks]
        if prompt_episodes is None:
            return [store.best_episodes(task, _PROMPTS_PER_TASK, chosen) for task in store.tasks]
        result: list[list[int]] = [[] for _ in store.tasks]
        for task, indices in prompt_episodes.items():
            result[store.task_index(task)] = _indices(f"prompt_episodes[{task!r}]", indices, store)
        for task_index in np.unique(store.episode_task[chosen]):
            if not result[task_index]:
                raise InputError(
                    f"prompt_episodes: expected at least one for task {store.tasks[task_index]!r}, got none"
                )
        return result

    def _build(self) -> _core.ContextSampler:
        return _core.ContextSampler(
            horizon=self._horizon,
            context=self._context,
            prompt=self._prompt,
            return_scale=self._return_scale,
            prompt_episodes=self._prompt_episodes,
            **self._shared(),
        )

    def _place_specs(self) -> list[ArraySpec]:
        names = (
            ["start", "episode", "task", "prompt_episode"]
            if self._prompt > 0
            else ["start", "episode", "task"]
        )
        return [ArraySpec(name, np.int64, (self._batch_size,)) for name in names]

    def _gathered_specs(self) -> list[ArraySpec]:
        specs = self._window_specs("", self._context)
        return specs + self._window_specs("prompt_", self._prompt) if self._prompt > 0 else specs

    def _column_names(self) -> list[str]:
        return ["returns_to_go", "actions"] if self._actions else ["returns_to_go"]

    def _gather(self, columns: ResidentColumns, places: Batch) -> Batch:
        return columns.contexts(
            places, self._horizon, self._context, self._prompt, self._return_scale, self._actions
        )

    def _window_specs(self, prefix: str, points: int) -> list[ArraySpec]:
        batch = self._batch_size
        specs = [
            ArraySpec(prefix + "observations", np.float32, (batch, points, self._store.observation_dim)),
            ArraySpec(prefix + "returns_to_go", np.float32, (batch, points, 1)),
            ArraySpec(prefix + "timesteps", np.int64, (batch, points)),
            ArraySpec(prefix + "mask", np.bool_, (batch, points)),
        ]
        if self._labels is not None:
            specs.append(ArraySpec(prefix + "skills", np.int64, (batch, points)))
        if self._actions:
            specs.append(ArraySpec(prefix + "actions", np.float32, (batch, points, self._store.action_dim)))
        return specs
