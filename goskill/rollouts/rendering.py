"""Environments that can be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from PIL import Image as Pictures

from goskill.envs.renderers import require_rendering
from goskill.envs.suite import Suite
from goskill.errors import InputError

__all__ = ["Image", "RenderedEnvironments", "require_rendering"]
Image = npt.NDArray[np.uint8]


class RenderedEnvironments(SyncVectorEnv):
    """One environment of a suite per task, in this process, for suites with pictures (`Suite.require_rendering`)."""

    def __init__(self, suite: Suite, tasks: Sequence[str], size: int) -> None:
        self._size = size
        self._suite = suite
        # The bounds of the goal differ between MetaWorld's tasks, and so do their observation spaces.
        super().__init__(
            [partial(suite.film, task, size) for task in tasks],
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
