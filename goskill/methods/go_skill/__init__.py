"""GO-Skill: skills as goals abstracted from offline data, and a policy that chooses among them.

He et al., Goal-Oriented Skill Abstraction for Offline Multi-Task Reinforcement Learning, ICML 2025.
"""

from goskill.methods.go_skill.acting import GoSkillPolicy
from goskill.methods.go_skill.diagnosis import OraclePolicy, predict_actions, predict_skills
from goskill.methods.go_skill.labelling import label_name, label_store
from goskill.methods.go_skill.method import GoSkill
from goskill.methods.go_skill.networks import GoSkillNetworks, networks_from_state
from goskill.methods.go_skill.released import load_released
from goskill.methods.go_skill.settings import ABLATIONS, GoSkillSettings

__all__ = [
    "ABLATIONS",
    "GoSkill",
    "GoSkillNetworks",
    "GoSkillPolicy",
    "GoSkillSettings",
    "OraclePolicy",
    "label_name",
    "label_store",
    "load_released",
    "networks_from_state",
    "predict_actions",
    "predict_skills",
]
