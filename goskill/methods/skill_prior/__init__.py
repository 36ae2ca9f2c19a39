"""Skills and their prior, learned once for any number of runs that learn to choose among them."""

from goskill.methods.skill_prior.method import SkillPrior

__all__ = ["SkillPrior"]
