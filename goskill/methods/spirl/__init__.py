"""SPiRL: reinforcement learning over skills, regularised by their prior.

Pertsch et al., Accelerating Reinforcement Learning with Learned Skill Priors, CoRL 2020.
"""

from goskill.methods.spirl.method import SPiRL, SPiRLSettings

__all__ = ["SPiRL", "SPiRLSettings"]
