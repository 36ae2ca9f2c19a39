"""The ceiling and the floor: MetaWorld's scripted experts, and uniformly random actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from goskill.envs.metaworld.scripted import ScriptedExpert
from goskill.rollouts.policy import FloatArray, Prompts


class ScriptedPolicy:
    """MetaWorld's hand-written expert of each task, in float64. It needs the goal in the observation.

    Evaluation gives it observations rounded to float32, as to any policy; collection gives the same experts
    the environment's own float64, so that their actions may differ in the last digits.
    """

    name = "scripted"

    def __init__(self) -> None:
        self._experts: list[ScriptedExpert] = []

    def reset(self, tasks: Sequence[str], prompts: Prompts, seed: int | Sequence[int] = 0) -> None:
        """Choose the expert of each environment's task. Raises InputError for an unknown task."""
        self._experts = [ScriptedExpert(task) for task in tasks]

    def act(self, observations: FloatArray) -> FloatArray:
        """The experts' actions float32 [N, 4], clipped to [-1, 1], for observations [N, 39]."""
        rows = zip(self._experts, observations, strict=True)
        actions: FloatArray = np.stack([expert(observation) for expert, observation in rows])
        return actions


class RandomPolicy:
    """Uniform actions in [-1, 1]: a pure function of an environment's seed and the step."""

    name = "random"

    def __init__(self, action_dim: int = 4) -> None:
        self.action_dim = action_dim
        self._streams: list[np.random.Generator] = []

    def reset(self, tasks: Sequence[str], prompts: Prompts, seed: int | Sequence[int] = 0) -> None:
        """Give each environment a stream of its own, from its seed or from the one seed and its index."""
        keys = (
            [(seed, index) for index in range(len(tasks))]
            if isinstance(seed, int)
            else [(s, 0) for s in seed]
        )
        self._streams = [
            np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64))) for key in keys
        ]

    def act(self, observations: FloatArray) -> FloatArray:
        """Actions float32 [N, action_dim]."""
        rows = [stream.uniform(-1.0, 1.0, self.action_dim) for stream in self._streams]
        return np.asarray(rows, dtype=np.float32).reshape(len(rows), self.action_dim)
