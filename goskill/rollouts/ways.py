"""Which way some episodes took while an agent learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.rollouts.collector import Steps
from goskill.rollouts.policy import FloatArray

FOLLOWED = (1, 21, 40, 100, 200)
"""Episodes of each environment that are followed, from 1: the first, and the first after 20 that explore."""
EVERY = 10
"""Steps from one observation that is kept to the next."""


class Ways:
    """Observations of the episodes that are followed: of every tenth step, and the last; a checkpoint keeps them.

    Args:
        count: environments.
    """

    def __init__(self, count: int) -> None:
        self._episode = np.ones(count, np.int64)  # under way
        # Whether the episode under way is known from its first step on.
        self._whole = np.ones(count, np.bool_)
        self._followed = np.full(count, 1 in FOLLOWED)
        self._owners: list[tuple[int, int]] = []  # environment and episode of each point
        self._points: list[FloatArray] = []

    @classmethod
    def after(cls, ended: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Ways:
        """Those of environments that have ended ``ended`` episodes, of which nothing is known; int64 [N] both."""
        ways = cls(len(ended))
        ways._episode, ways._whole = ended + 1, lengths == 0
        ways._choose()
        return ways

    def add(self, step: Steps, lengths: npt.NDArray[np.int64]) -> None:
        """Note a step of all environments, whose episodes have ``lengths`` int64 [N] with it."""
        over = step.terminated | step.truncated
        if self._followed.any():
            self._keep(self._followed & ((lengths - 1) % EVERY == 0), step.observations)
            self._keep(self._followed & over, step.next_observations)
        if over.any():
            self._episode[over] += 1
            self._whole[over] = True
            self._choose()

    def _choose(self) -> None:
        self._followed = self._whole & np.isin(self._episode, FOLLOWED)

    def _keep(self, chosen: npt.NDArray[np.bool_], observations: FloatArray) -> None:
        for row in np.flatnonzero(chosen).tolist():
            self._owners.append((row, int(self._episode[row])))
            self._points.append(observations[row].copy())

    def of(self, environment: int) -> dict[int, FloatArray]:
        """By number, the episodes of an environment that have ended, float32 [n, observation_dim] each."""
        found: dict[int, list[FloatArray]] = {}
        for (row, episode), point in zip(self._owners, self._points, strict=True):
            if row == environment and episode < self._episode[row]:
                found.setdefault(episode, []).append(point)
        return {episode: np.stack(points) for episode, points in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """All that was kept, and the episodes under way."""
        return {
            "episode": self._episode.copy(),
            "whole": self._whole.copy(),
            "owners": np.array(self._owners, np.int64).reshape(-1, 2),
            "points": np.stack(self._points) if self._points else np.zeros((0, 0), np.float32),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of :meth:`state_dict`."""
        self._episode = np.asarray(state["episode"]).astype(np.int64)
        self._whole = np.asarray(state["whole"]).astype(np.bool_)
        self._owners = [(row, episode) for row, episode in np.asarray(state["owners"]).tolist()]
        self._points = list(np.asarray(state["points"]).astype(np.float32))
        self._choose()
