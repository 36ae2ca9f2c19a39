"""Batches of several tasks with their contexts, from a buffer per task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from goskill.data import ReplayBuffer, ReplaySampler
from goskill.errors import InputError
from goskill.methods.simpl.settings import MetaSettings
from goskill.training import Batch

SMALL_PREFIX, LARGE_PREFIX = "small_", "large_"
_OF_CONTEXTS = ("observations", "actions", "rewards", "terminated", "next_observations")


def part(batch: Batch, prefix: str) -> Batch:
    """The entries of a batch whose names begin with ``prefix``, without it."""
    return {name[len(prefix) :]: value for name, value in batch.items() if name.startswith(prefix)}


class TaskSampler:
    """Decisions [T, B, ...] of T tasks drawn without replacement, and the contexts of their embeddings.

    The first ``small_tasks`` of a batch have contexts ``small_...`` [small_tasks, small_context, ...], the others
    ``large_...`` [T - small_tasks, large_context, ...]. Everything follows from the seed, the number of the step and
    what the buffers hold.

    Args:
        replay: what is learned from, a ring for each task.
        contexts: what embeddings are drawn from, likewise.
        settings: sizes.
        tasks: names, for messages.
        seed: of the random numbers.

    Raises InputError for fewer tasks than a step takes, and when a context is wanted of a task without decisions.
    """

    def __init__(
        self,
        replay: ReplayBuffer,
        contexts: ReplayBuffer,
        settings: MetaSettings,
        tasks: Sequence[str],
        seed: int,
    ) -> None:
        check_tasks_per_step(settings, tasks)
        self._replay, self._contexts, self._settings = replay, contexts, settings
        self._tasks, self._seed, self._step = list(tasks), seed, 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return self.gather(self.next_places())

    @property
    def resident(self) -> bool:
        """Whether batches are gathered on the device, where both buffers live."""
        return all(buffer.device.type != "cpu" for buffer in (self._replay, self._contexts))

    def next_places(self) -> Batch:
        """Rows of the next batch, int64: ``rows`` [T, B] of decisions, ``small_rows``, ``large_rows`` of contexts."""
        settings = self._settings
        chosen = self._chosen()
        places = {"rows": self._drawn(self._replay, chosen, settings.batch_size, 0)}
        few = settings.small_tasks
        for prefix, tasks, size, stream in (
            (SMALL_PREFIX, chosen[:few], settings.small_context, 1),
            (LARGE_PREFIX, chosen[few:], settings.large_context, 2),
        ):
            if tasks:
                self._check_contexts(tasks)
                places[f"{prefix}rows"] = self._drawn(self._contexts, tasks, size, stream)
        self._step += 1
        return places

    def gather(self, places: Batch) -> Batch:
        """The batch of some :meth:`next_places`, without a look at the host: usable inside a CUDA graph."""
        batch = self._replay.gather(places["rows"])
        for prefix in (SMALL_PREFIX, LARGE_PREFIX):
            if f"{prefix}rows" in places:
                found = self._contexts.gather(places[f"{prefix}rows"])
                batch |= {f"{prefix}{name}": found[name] for name in _OF_CONTEXTS}
        return batch

    def _chosen(self) -> list[int]:
        random = np.random.Generator(np.random.Philox(key=[self._seed, self._step]))
        chosen: list[int] = random.permutation(len(self._tasks))[: self._settings.tasks_per_step].tolist()
        return chosen

    def _drawn(self, buffer: ReplayBuffer, tasks: list[int], size: int, stream: int) -> Tensor:
        seed = int(np.random.SeedSequence([self._seed, stream]).generate_state(1)[0])
        return ReplaySampler(buffer, size, tasks=tasks, seed=seed).places(self._step)["rows"]

    def _check_contexts(self, tasks: list[int]) -> None:
        for task in tasks:
            if not self._contexts.sizes[task]:
                raise InputError(
                    f"context: expected decisions of {self._tasks[task]} to draw an embedding from, there are none"
                )

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands."""
        return {"step": self._step, "seed": self._seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of :meth:`state_dict`."""
        self._step, self._seed = int(state["step"]), int(state["seed"])


def check_tasks_per_step(settings: MetaSettings, tasks: Sequence[str]) -> None:
    """Raises InputError for fewer tasks than a step takes."""
    if len(tasks) < settings.tasks_per_step:
        raise InputError(
            f"tasks_per_step: expected at most {len(tasks)}, as many tasks as there are to train on, "
            f"got {settings.tasks_per_step}"
        )
