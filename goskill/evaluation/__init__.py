"""Rollouts of any policy in any suite, statistics, reports."""

from goskill.evaluation.compare import Comparison, compare
from goskill.evaluation.policies import RandomPolicy, ScriptedPolicy
from goskill.evaluation.policy import Demonstration, Policy, Prompts, SkillPolicy
from goskill.evaluation.results import DataReturns, Results, data_returns
from goskill.evaluation.rollout import Moment, evaluate
from goskill.evaluation.skills import DataSkills
from goskill.evaluation.tables import comparison_table, results_table

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
    "results_table",
]
