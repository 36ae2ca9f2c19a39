"""GO-Skill: skills as goals abstracted from offline data, and a policy that chooses among them.

He et al., Goal-Oriented Skill Abstraction for Offline Multi-Task Reinforcement Learning, ICML 2025.
"""

from goskill.methods.go_skill.settings import ABLATIONS, GoSkillSettings

__all__ = ["ABLATIONS", "GoSkillSettings"]
