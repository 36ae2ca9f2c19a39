"""Any policy in any suite: evaluation, collection of episodes, films."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from goskill.rollouts.batch_run import Moment
from goskill.rollouts.evaluate import evaluate
from goskill.rollouts.policies import RandomPolicy, ScriptedPolicy
from goskill.rollouts.policy import Demonstration, Policy, Prompts, SkillPolicy

if TYPE_CHECKING:
    from goskill.rollouts.rendering import require_rendering
    from goskill.rollouts.video import film

__all__ = [
    "Demonstration",
    "Moment",
    "Policy",
    "Prompts",
    "RandomPolicy",
    "ScriptedPolicy",
    "SkillPolicy",
    "evaluate",
    "film",
    "require_rendering",
]

# Pictures need packages that nothing else does.
_LAZY = {"film": "video", "require_rendering": "rendering"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"goskill.rollouts.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
