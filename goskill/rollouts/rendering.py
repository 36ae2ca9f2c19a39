"""Pictures of MetaWorld on machines with and without a screen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from goskill.envs.renderers import prepare_for_mesa
from goskill.errors import InputError

Image = npt.NDArray[np.uint8]

CAMERA = "corner2"
_BACKENDS = ("egl", "osmesa")
# What raises is printed before what half-made objects say when they are deleted.
_PROBE = """
import importlib, os, sys
try:
    importlib.import_module('mujoco.' + os.environ['MUJOCO_GL']).GLContext(64, 64).make_current()
except Exception as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(1)
"""


def require_rendering() -> str:
    """Find a way to render without a screen and select it for this process (``MUJOCO_GL``).

    Each candidate is tried in a process of its own, since a broken graphics driver may end it. Raises
    InputError, saying what to install, when none works; a ``MUJOCO_GL`` that the user has set is the only
    candidate.
    """
    wanted = os.environ.get("MUJOCO_GL")
    problems = []
    for backend in (wanted,) if wanted else _BACKENDS:
        if backend == "glfw":
            return backend
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
            text=True,
        )
        if probe.returncode == 0:
            os.environ["MUJOCO_GL"] = backend
            prepare_for_mesa()
            return backend
        said = (
            " ".join(probe.stdout.split())
            or (probe.stderr.strip().splitlines() or ["ended without a word"])[-1]
        )
        problems.append(f"{backend}: {said}")
    raise InputError(
        "video: rendering is not possible on this machine; expected EGL (Debian: libegl1, libgl1-mesa-dri or "
        f"a graphics driver) or OSMesa (Debian: libosmesa6). {'; '.join(problems)}"
    )


class RenderedEnvironments(SyncVectorEnv):
    """One MetaWorld environment per task, in this process, that can be looked at."""

    def __init__(self, tasks: Sequence[str], size: int) -> None:
        from goskill.envs import make

        # The bounds of the goal differ between tasks, and so do their observation spaces.
        super().__init__(
            [
                partial(make, task, render_mode="rgb_array", camera_name=CAMERA, width=size, height=size)
                for task in tasks
            ],
            observation_mode="different",
            autoreset_mode=AutoresetMode.DISABLED,
        )
        for environment in self.envs:
            _draw_without_shadows(environment)

    def pictures(self) -> list[Image]:
        """What the camera sees of each environment now, uint8 [height, width, 3]."""
        # MetaWorld mounts this camera upside down. The top quarter shows nothing but background.
        upright = [np.asarray(frame)[::-1, ::-1] for frame in self.render() or ()]
        return [np.ascontiguousarray(frame[len(frame) // 4 :]) for frame in upright]


def _draw_without_shadows(environment: gymnasium.Env[Any, Any]) -> None:
    """Shadows take most of the time of rendering on a processor; physics knows nothing of them."""
    environment.unwrapped.model.vis.quality.shadowsize = 0  # type: ignore[attr-defined]
