"""MetaWorld: task suites, single environments, and pools of environments in worker processes."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from goskill.envs.metaworld.tasks import SUITES, episode_seed, task_name, task_names, tasks_of
from goskill.envs.renderers import prepare_for_mesa
from goskill.errors import WorkerDied, WorkerFailed

if TYPE_CHECKING:
    from goskill.envs.metaworld.environment import make
    from goskill.envs.pool import EnvironmentPool, make_vec

__all__ = [
    "SUITES",
    "EnvironmentPool",
    "WorkerDied",
    "WorkerFailed",
    "episode_seed",
    "make",
    "make_vec",
    "task_name",
    "task_names",
    "tasks_of",
]
if os.environ.get("MUJOCO_GL") == "osmesa":
    prepare_for_mesa()  # MuJoCo loads it when it is imported

_LAZY = {
    "EnvironmentPool": "pool",
    "make_vec": "pool",
    "make": "metaworld.environment",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"goskill.envs.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'goskill.envs' has no attribute {name!r}")
