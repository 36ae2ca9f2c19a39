"""The ceiling and the floor: a suite's scripted experts, and uniformly random actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium.spaces import Box

from goskill.envs.suite import Expert, Suite
from goskill.envs.suite_registry import find_suite
from goskill.errors import InputError
from goskill.rollouts.policy import FloatArray, Prompts


class ScriptedPolicy:
    """The scripted expert of each task of a suite, by default MetaWorld's, which need the goal in the observation.

    Evaluation gives it observations rounded to float32, as to any policy; collection gives the same experts
    the environment's own types, so that their actions may differ in the last digits.
    """

    name = "scripted"

    def __init__(self, suite: Suite | str = "metaworld") -> None:
        self._suite = find_suite(suite)
        self._experts: list[Expert] = []

    def reset(
        self,
        tasks: Sequence[str],
        prompts: Prompts,
        seed: int | Sequence[int] = 0,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Choose the expert of each environment's task. Raises InputError for a task without one."""
        begun = [self._expert(task) for task in tasks]
        if rows is None:
            self._experts = begun
        else:
            for row, expert in zip(rows, begun, strict=True):
                self._experts[row] = expert

    def act(self, observations: FloatArray, *, explore: bool = False) -> FloatArray:
        """The experts' actions float32 [N, action_dim] for observations [N, observation_dim]."""
        rows = zip(self._experts, observations, strict=True)
        actions: FloatArray = np.stack(
            [np.asarray(expert(observation), np.float32) for expert, observation in rows]
        )
        return actions

    def _expert(self, task: str) -> Expert:
        expert = self._suite.expert(self._suite.task_name(task))
        if expert is None:
            raise InputError(f"suite {self._suite.name!r} has no scripted policy of task {task!r}")
        return expert


class RandomPolicy:
    """Uniform actions: a pure function of an environment's seed and the step.

    They are ``action_dim`` numbers in [-1, 1], or drawn from ``space``.
    """

    name = "random"

    def __init__(self, action_dim: int = 4, space: Box | None = None) -> None:
        space = space or Box(-1.0, 1.0, (action_dim,))
        self._low, self._high = space.low, space.high
        self._streams: list[np.random.Generator] = []

    def reset(
        self,
        tasks: Sequence[str],
        prompts: Prompts,
        seed: int | Sequence[int] = 0,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Give each environment a stream of its own, from its seed or from the one seed and its index."""
        places = list(range(len(tasks))) if rows is None else list(rows)
        keys = [(seed, place) for place in places] if isinstance(seed, int) else [(one, 0) for one in seed]
        begun = [np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64))) for key in keys]
        if rows is None:
            self._streams = begun
        else:
            for row, stream in zip(rows, begun, strict=True):
                self._streams[row] = stream

    def act(self, observations: FloatArray, *, explore: bool = False) -> FloatArray:
        """Actions float32 [N, action_dim]."""
        rows = [stream.uniform(self._low, self._high) for stream in self._streams]
        return np.asarray(rows, dtype=np.float32).reshape(len(rows), len(self._low))
