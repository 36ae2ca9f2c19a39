"""Which episode runs in which environment, when not all of them fit at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class EpisodeKey:
    """One episode of an evaluation: the ``index``-th of ``task``. A ``spare`` one only keeps its place
    warm.
    """

    task: str
    index: int
    spare: bool = False


_LEAST_HALF = 16
"""Environments below which a half of a group is not worth its own forward passes."""


@dataclass(frozen=True)
class EnvironmentPart:
    """Environments and the episode of each, round by round; every round has the same shape."""

    environments: list[str]
    rounds: list[list[EpisodeKey]]


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that run side by side, ``copies`` environments each, for as many rounds as the episodes need."""

    tasks: tuple[str, ...]
    copies: int
    episodes: int

    @property
    def whole(self) -> EnvironmentPart:
        """All environments. Tasks alternate, so that worker processes get equal shares."""
        return self._part([(copy, task) for copy in range(self.copies) for task in self.tasks])

    @property
    def halves(self) -> list[EnvironmentPart]:
        """The environments in two parts that have few tasks in common; in one where they are few."""
        places = [(copy, task) for task in self.tasks for copy in range(self.copies)]
        if len(places) < 2 * _LEAST_HALF:
            return [self.whole]
        middle = len(places) // 2
        return [self._part(sorted(half)) for half in (places[:middle], places[middle:])]

    def _part(self, places: list[tuple[int, str]]) -> EnvironmentPart:
        """Environments left over in the last round repeat an episode."""
        rounds = [
            [
                EpisodeKey(task, (first + copy) % self.episodes, spare=first + copy >= self.episodes)
                for copy, task in places
            ]
            for first in range(0, self.episodes, self.copies)
        ]
        return EnvironmentPart([task for _, task in places], rounds)


def schedule(tasks: Sequence[str], episodes: int, batch: int) -> Iterator[TaskGroup]:
    """Split tasks x episodes into groups of at most ``batch`` environments, as equal as possible.

    Environments are made once per group and serve every round of it.
    """
    count = -(-len(tasks) // batch)
    bounds = [len(tasks) * i // count for i in range(count + 1)]
    for low, high in pairwise(bounds):
        rounds = -(-episodes // min(episodes, batch // (high - low)))
        yield TaskGroup(tuple(tasks[low:high]), -(-episodes // rounds), episodes)
