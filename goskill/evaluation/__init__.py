"""Rollouts of any policy in any suite, statistics, reports."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from goskill.evaluation.compare import Comparison, compare
from goskill.evaluation.contenders import read_contenders
from goskill.evaluation.policies import RandomPolicy, ScriptedPolicy
from goskill.evaluation.policy import Demonstration, Policy, Prompts, SkillPolicy
from goskill.evaluation.results import DataReturns, Results, data_returns, merge
from goskill.evaluation.rollout import Moment, evaluate
from goskill.evaluation.skills import DataSkills
from goskill.evaluation.tables import comparison_table, results_table

if TYPE_CHECKING:
    from goskill.evaluation.rendering import require_rendering
    from goskill.evaluation.video import film

__all__ = [
    "Comparison",
    "DataReturns",
    "DataSkills",
    "Demonstration",
    "Moment",
    "Policy",
    "Prompts",
    "RandomPolicy",
    "Results",
    "ScriptedPolicy",
    "SkillPolicy",
    "compare",
    "comparison_table",
    "data_returns",
    "evaluate",
    "film",
    "merge",
    "read_contenders",
    "require_rendering",
    "results_table",
]


# Pictures need packages that nothing else does.
_LAZY = {"film": "video", "require_rendering": "rendering"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"goskill.evaluation.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
