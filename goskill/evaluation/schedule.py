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


@dataclass(frozen=True)
class Group:
    """Tasks that run side by side, ``copies`` environments each, for as many rounds as the episodes need."""

    tasks: tuple[str, ...]
    copies: int
    episodes: int

    @property
    def environments(self) -> list[str]:
        """The task of each environment; tasks alternate, so that worker processes get equal shares."""
        return [task for _ in range(self.copies) for task in self.tasks]

    @property
    def rounds(self) -> list[list[EpisodeKey]]:
        """The episode of each environment, round by round.

        Environments left over in the last round repeat an episode, so that every round has the same shape.
        """
        return [
            [
                EpisodeKey(task, index % self.episodes, spare=index >= self.episodes)
                for index in range(first, first + self.copies)
                for task in self.tasks
            ]
            for first in range(0, self.episodes, self.copies)
        ]


def schedule(tasks: Sequence[str], episodes: int, batch: int) -> Iterator[Group]:
    """Split tasks x episodes into groups of at most ``batch`` environments, as equal as possible.

    Environments are made once per group and serve every round of it.
    """
    count = -(-len(tasks) // batch)
    bounds = [len(tasks) * i // count for i in range(count + 1)]
    for low, high in pairwise(bounds):
        rounds = -(-episodes // min(episodes, batch // (high - low)))
        yield Group(tuple(tasks[low:high]), -(-episodes // rounds), episodes)
