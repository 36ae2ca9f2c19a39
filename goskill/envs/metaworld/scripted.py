"""MetaWorld's scripted policies."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.envs.metaworld.tasks import task_name


class ScriptedExpert:
    """MetaWorld's scripted policy of one task, in float64, clipped to the action space."""

    def __init__(self, task: str) -> None:
        from metaworld.policies import ENV_POLICY_MAP

        policy_class: Any = ENV_POLICY_MAP[f"{task_name(task)}-v3"]
        self._policy = policy_class()

    def __call__(self, observation: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Action float32 [4] in [-1, 1] for an observation [39] with a visible goal, float64 or float32."""
        with warnings.catch_warnings():
            # The policies warn that the environment clips; here the action is clipped before it is used.
            warnings.simplefilter("ignore")
            action = np.asarray(self._policy.get_action(np.asarray(observation, np.float64)), np.float32)
        return np.clip(action, -1.0, 1.0)
