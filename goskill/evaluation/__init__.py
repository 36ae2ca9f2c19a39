"""Results, statistics, comparisons, rows and tables. Needs neither torch nor environments."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from goskill.evaluation.compare import Comparison, compare
from goskill.evaluation.contenders import read_contenders
from goskill.evaluation.results import DataReturns, Results, data_returns, merge
from goskill.evaluation.skills import DataSkills
from goskill.evaluation.tables import comparison_table, results_table

__all__ = [
    "Comparison",
    "DataReturns",
    "DataSkills",
    "Results",
    "compare",
    "comparison_table",
    "data_returns",
    "merge",
    "read_contenders",
    "results_table",
]

_MOVED_TO_ROLLOUTS = frozenset(
    {
        *("Demonstration", "Moment", "Policy", "Prompts", "RandomPolicy", "ScriptedPolicy", "SkillPolicy"),
        *("evaluate", "film", "require_rendering"),
    }
)


def __getattr__(name: str) -> Any:
    if name in _MOVED_TO_ROLLOUTS:
        warnings.warn(
            f"goskill.evaluation.{name} is now goskill.rollouts.{name}", DeprecationWarning, stacklevel=2
        )
        return getattr(importlib.import_module("goskill.rollouts"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
