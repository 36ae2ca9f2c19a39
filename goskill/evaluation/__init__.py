"""Rollouts of any policy in any suite, statistics, reports."""

from goskill.evaluation.policy import Demonstration, Policy, Prompts, SkillPolicy

__all__ = ["Demonstration", "Policy", "Prompts", "SkillPolicy"]
