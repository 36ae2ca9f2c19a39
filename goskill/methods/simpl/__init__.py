"""SiMPL: meta-learning over tasks with skills, then an unseen task within few episodes.

Nam et al., Skill-based Meta-Reinforcement Learning, ICLR 2022.
"""

from goskill.methods.simpl.decisions import SingleActions, add_residual
from goskill.methods.simpl.losses import MetaLoss
from goskill.methods.simpl.method import SiMPL
from goskill.methods.simpl.networks import MetaAgent, agent_from_state
from goskill.methods.simpl.sampling import TaskSampler
from goskill.methods.simpl.settings import (
    EmbeddingSettings,
    PEARLSettings,
    PEARLTargetSettings,
    SiMPLSettings,
    TargetSettings,
)
from goskill.methods.simpl.target_method import SiMPLTarget

__all__ = [
    "EmbeddingSettings",
    "MetaAgent",
    "MetaLoss",
    "PEARLSettings",
    "PEARLTargetSettings",
    "SiMPL",
    "SiMPLSettings",
    "SiMPLTarget",
    "SingleActions",
    "TargetSettings",
    "TaskSampler",
    "add_residual",
    "agent_from_state",
]
