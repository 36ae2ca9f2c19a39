"""Stepping environments while an agent learns in them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from goskill.envs.suite import Suite
from goskill.rollouts.batch_run import reported_success
from goskill.rollouts.policy import FloatArray


@dataclass(frozen=True)
class Steps:
    """One step of N environments: arrays [N, ...]. ``success`` is 1, 0, or NaN where nothing reports it."""

    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray
    next_observations: FloatArray  # the last of its episode where it ended, not the first of the next
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    success: npt.NDArray[np.float64]


class Collector:
    """Environments of a suite whose episodes follow one another, each begun from a seed of its own.

    A checkpoint keeps the seed and the actions of each episode under way: loaded, the collector takes the same steps
    again, which brings environments that follow from their seed to the same state. Where they do not, it warns and
    begins new episodes.

    Args:
        suite: the environments.
        tasks: of each environment, one name each.
        seed: decides every episode, together with the environment's place and the number of its episode.
        workers: processes that step the environments; None: as the suite prefers.
    """

    def __init__(self, suite: Suite, tasks: Sequence[str], seed: int, workers: int | None = None) -> None:
        self.suite, self.tasks = suite, list(tasks)
        self.steps = 0  # of every environment
        self._seed, self._workers = seed, workers
        count = len(self.tasks)
        self._episode = np.zeros(count, np.int64)
        self._taken: list[list[FloatArray]] = [[] for _ in tasks]  # actions of the episodes under way
        self._returns = np.zeros(count)
        self._succeeded = np.full(count, np.nan)  # unknown until something reports it
        self._environments: Any = None
        self.observations: FloatArray = np.zeros((count, suite.observation_dim), np.float32)

    @property
    def begun(self) -> npt.NDArray[np.int64]:
        """Episodes that each environment has begun, int64 [N]."""
        return np.array(self._episode, np.int64)

    def start(self) -> None:
        """Make the environments, if there are none yet, and begin an episode in each."""
        if self._environments is None:
            self._open()
            self._begin(np.ones(len(self.tasks), np.bool_))

    def step(self, actions: FloatArray) -> tuple[Steps, dict[str, float]]:
        """Take a step; episodes that end are followed by new ones.

        Returns the step and what is known of the episodes that ended with it: mean ``return``, ``length``, and
        ``success`` if all of them reported it.
        """
        before = self.observations
        following, rewards, terminated, truncated, infos = self._environments.step(actions)
        following = np.asarray(following, np.float32)
        for row, action in enumerate(actions):
            self._taken[row].append(action.copy())
        lengths = np.array([len(taken) for taken in self._taken])
        truncated = np.asarray(truncated, np.bool_) | (lengths >= self.suite.max_steps)
        success = self._success(infos)
        self._returns += rewards
        self._succeeded = np.fmax(self._succeeded, success)
        over = np.asarray(terminated, np.bool_) | truncated
        done = self._summary(over, lengths)
        self.observations = following.copy()
        self.steps += 1
        step = Steps(
            before,
            np.asarray(actions, np.float32),
            np.asarray(rewards, np.float32),
            following,
            np.asarray(terminated, np.bool_),
            truncated,
            success,
        )
        if over.any():
            self._begin(over)
        return step, done

    def close(self) -> None:
        """End the environments."""
        if self._environments is not None:
            self._environments.close()
            self._environments = None

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the next steps."""
        return {
            "steps": self.steps,
            "episode": self._episode,
            "returns": self._returns,
            "succeeded": self._succeeded,
            "observations": self.observations,
            "lengths": [len(taken) for taken in self._taken],
            "actions": np.concatenate(
                [np.zeros((0, self.suite.action_dim), np.float32), *(np.stack(t) for t in self._taken if t)]
            ),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Bring the environments to where they were."""
        self.steps = int(state["steps"])
        self._episode = np.asarray(state["episode"]).astype(np.int64)
        actions = np.asarray(state["actions"]).astype(np.float32)
        ends = np.cumsum(state["lengths"])
        taken = [list(part) for part in np.split(actions, ends[:-1])]
        expected = np.asarray(state["observations"]).astype(np.float32)
        if self.steps == 0:
            return
        self.close()
        self._open()
        self._episode -= 1  # the episodes under way begin again
        self._begin(np.ones(len(self.tasks), np.bool_))
        if self._repeat(taken) and np.array_equal(self.observations, expected):
            self._taken = taken
            self._returns = np.asarray(state["returns"]).astype(np.float64)
            self._succeeded = np.asarray(state["succeeded"]).astype(np.float64)
            return
        warnings.warn(
            f"suite {self.suite.name}: its environments do not follow from their seeds: "
            "episodes under way are not resumed, new ones begin",
            stacklevel=2,
        )
        self._begin(np.ones(len(self.tasks), np.bool_))

    def _open(self) -> None:
        options: dict[str, Any] = {} if self._workers is None else {"workers": self._workers}
        if self._workers is None and not self.suite.prefer_workers:
            options["workers"] = 0
        self._environments = self.suite.make_vec(
            self.tasks, len(self.tasks), autoreset_mode=AutoresetMode.DISABLED, **options
        )

    def _begin(self, rows: npt.NDArray[np.bool_]) -> None:
        """Begin the next episode of the environments ``rows``, bool [N]."""
        seeds = [self._seed_of(row) if rows[row] else None for row in range(len(self.tasks))]
        observations, _ = self._environments.reset(seed=seeds, options={"reset_mask": rows.copy()})
        self.observations = np.where(rows[:, None], np.asarray(observations, np.float32), self.observations)
        self._episode += rows
        self._returns[rows], self._succeeded[rows] = 0.0, np.nan
        for row in np.flatnonzero(rows):
            self._taken[row] = []

    def _seed_of(self, row: int) -> int:
        key = [self._seed, row, int(self._episode[row])]
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _repeat(self, taken: Sequence[Sequence[FloatArray]]) -> bool:
        """Take the steps of the episodes under way again; False if an episode ends before."""
        longest = max(map(len, taken))
        for step in range(longest):
            # An environment whose episode is shorter comes later, so that all end together.
            live = np.array([longest - step <= len(actions) for actions in taken])
            fresh = np.array([longest - step == len(actions) for actions in taken])
            if step and fresh.any():
                self._episode -= fresh
                self._begin(fresh)
            actions = np.zeros((len(taken), self.suite.action_dim), np.float32)
            for row in np.flatnonzero(live).tolist():
                actions[row] = taken[row][len(taken[row]) - (longest - step)]
            following, _, terminated, truncated, _ = self._environments.step(actions)
            over = np.asarray(terminated, np.bool_) | np.asarray(truncated, np.bool_)
            if (over & live).any():
                return False
            self.observations = np.where(live[:, None], np.asarray(following, np.float32), self.observations)
            if over.any():
                self._episode -= over
                self._begin(over)
        waiting = np.array([longest > 0 and not actions for actions in taken])
        if waiting.any():
            self._episode -= waiting
            self._begin(waiting)
        return True

    def _success(self, infos: Mapping[str, Any]) -> npt.NDArray[np.float64]:
        success, reported = reported_success(infos, len(self.tasks), self.suite.success_keys)
        return np.where(reported, success, np.nan)

    def _summary(self, over: npt.NDArray[np.bool_], lengths: npt.NDArray[np.int64]) -> dict[str, float]:
        if not over.any():
            return {}
        found = {"return": float(self._returns[over].mean()), "length": float(lengths[over].mean())}
        success = self._succeeded[over]
        return found if np.isnan(success).any() else {**found, "success": float(success.mean())}
