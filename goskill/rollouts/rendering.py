"""Environments that can be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from PIL import Image as Pictures

from goskill.envs.renderers import require_rendering
from goskill.envs.suite import Env, Suite
from goskill.errors import InputError
from goskill.rollouts.batch_run import success_of

__all__ = ["Image", "RenderedEnvironments", "require_rendering"]
Image = npt.NDArray[np.uint8]


class _EndsAfterSuccess(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Truncates an episode so many steps after its first success."""

    def __init__(self, env: Env, keys: Sequence[str], steps: int) -> None:
        super().__init__(env)
        self._keys = keys
        self._steps = steps

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        self._left: int | None = None
        return super().reset(**options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if self._left is not None:
            self._left -= 1
        elif success_of(info, self._keys) > 0:
            self._left = self._steps
        return observation, reward, terminated, truncated or self._left == 0, info


class RenderedEnvironments(SyncVectorEnv):
    """One environment of a suite per task, in this process, for suites with pictures (`Suite.require_rendering`).

    Episodes end ``after_success`` steps after their first success.
    """

    def __init__(self, suite: Suite, tasks: Sequence[str], size: int, after_success: int) -> None:
        self._size = size
        self._suite = suite
        # The bounds of the goal differ between MetaWorld's tasks, and so do their observation spaces.
        super().__init__(
            [partial(_filmed, suite, task, size, after_success) for task in tasks],
            observation_mode="different",
            autoreset_mode=AutoresetMode.DISABLED,
        )

    def picture(self, index: int) -> Image:
        """What an environment looks like now, uint8 [height, width, 3] of the width asked for."""
        picture = np.asarray(self.envs[index].render())
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise InputError(
                f"video: suite {self._suite.name!r}: expected pictures as uint8 [height, width, 3], "
                f"got {picture.dtype} {list(picture.shape)}"
            )
        height, width = picture.shape[:2]
        if width == self._size:
            return picture
        scaled = Pictures.fromarray(picture).resize((self._size, max(1, height * self._size // width)))
        return np.asarray(scaled)


def _filmed(suite: Suite, task: str, size: int, after_success: int) -> Env:
    return _EndsAfterSuccess(suite.film(task, size), suite.success_keys, after_success)
