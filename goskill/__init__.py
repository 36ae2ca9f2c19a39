"""goskill: goal-oriented skill abstraction for offline multi-task reinforcement learning.

Submodules load at first use, so that ``import goskill`` needs neither Triton nor MetaWorld nor matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goskill import (
        data,
        envs,
        evaluation,
        experiments,
        figures,
        methods,
        models,
        nn,
        ops,
        rollouts,
        training,
    )
    from goskill.experiments.load import load_policy

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "data",
    "envs",
    "evaluation",
    "experiments",
    "figures",
    "load_policy",
    "methods",
    "models",
    "nn",
    "ops",
    "rollouts",
    "training",
]


def __getattr__(name: str) -> Any:
    if name == "load_policy":
        return importlib.import_module("goskill.experiments.load").load_policy
    if name in __all__:
        return importlib.import_module(f"goskill.{name}")
    raise AttributeError(f"module 'goskill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
