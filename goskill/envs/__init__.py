"""Environment suites, their registry, and pools of environments in worker processes."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from goskill.envs.metaworld.tasks import SUITES, episode_seed, task_name, task_names, tasks_of
from goskill.envs.renderers import prepare_for_mesa
from goskill.errors import WorkerDied, WorkerFailed

if TYPE_CHECKING:
    from goskill.envs.gymnasium_suite import GymnasiumSuite
    from goskill.envs.metaworld.environment import make
    from goskill.envs.pool import EnvironmentPool, make_vec
    from goskill.envs.suite import CollectedEpisode, CollectEpisode, Expert, Suite, TaskBatch
    from goskill.envs.suite_registry import find_suite, register_suite, suite_names

__all__ = [
    "SUITES",
    "CollectEpisode",
    "CollectedEpisode",
    "EnvironmentPool",
    "Expert",
    "GymnasiumSuite",
    "Suite",
    "TaskBatch",
    "WorkerDied",
    "WorkerFailed",
    "episode_seed",
    "find_suite",
    "make",
    "make_vec",
    "register_suite",
    "suite_names",
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
    "GymnasiumSuite": "gymnasium_suite",
    **dict.fromkeys(("CollectedEpisode", "CollectEpisode", "Expert", "Suite", "TaskBatch"), "suite"),
    **dict.fromkeys(("find_suite", "register_suite", "suite_names"), "suite_registry"),
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"goskill.envs.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'goskill.envs' has no attribute {name!r}")
