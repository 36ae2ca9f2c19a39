"""What methods share that learn in environments by choosing among learned skills: SPiRL, EXTRACT, SiMPL.

Pertsch et al., Accelerating Reinforcement Learning with Learned Skill Priors, CoRL 2020 (SPiRL).
"""

from goskill.methods.skill_rl.acting import NormalSkills, SampledSkillPolicy, SkillChoosingPolicy
from goskill.methods.skill_rl.agents import SkillAgents, agents_from_state
from goskill.methods.skill_rl.collecting import SkillCollector, SkillTransitions
from goskill.methods.skill_rl.execution import ExecutableSkills, SkillExecution
from goskill.methods.skill_rl.losses import SkillActorLoss, SkillCriticLoss, soft_target, temperature_loss
from goskill.methods.skill_rl.online import OnlineSkills
from goskill.methods.skill_rl.settings import OnlineSettings, SkillSettings
from goskill.methods.skill_rl.skill_model import SkillModel, model_from_state, new_model
from goskill.methods.skill_rl.skill_training import SkillModelLoss, skills_phase
from goskill.methods.skill_rl.trained import (
    TrainedSkills,
    check_sizes,
    check_suite_name,
    finished_run,
    skills_of_run,
    warn_of_known,
)

__all__ = [
    "ExecutableSkills",
    "NormalSkills",
    "OnlineSettings",
    "OnlineSkills",
    "SampledSkillPolicy",
    "SkillActorLoss",
    "SkillAgents",
    "SkillChoosingPolicy",
    "SkillCollector",
    "SkillCriticLoss",
    "SkillExecution",
    "SkillModel",
    "SkillModelLoss",
    "SkillSettings",
    "SkillTransitions",
    "TrainedSkills",
    "agents_from_state",
    "check_sizes",
    "check_suite_name",
    "finished_run",
    "model_from_state",
    "new_model",
    "skills_of_run",
    "skills_phase",
    "soft_target",
    "temperature_loss",
    "warn_of_known",
]
