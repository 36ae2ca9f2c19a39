"""EXTRACT: a discrete set of skills with arguments, found by clustering, and reinforcement learning over them.

Zhang et al., EXTRACT: Efficient Policy Learning by Extracting Transferable Robot Skills from Offline Data, CoRL 2024.
"""

from goskill.methods.extract.agents import ExtractAgents, SkillChoice
from goskill.methods.extract.losses import ExtractActorLoss, ExtractCriticLoss, ExtractLoss
from goskill.methods.extract.method import Extract
from goskill.methods.extract.model import ExtractModel
from goskill.methods.extract.segmentation import clustered, features_of, label_segments, merged
from goskill.methods.extract.settings import ExtractSettings

__all__ = [
    "Extract",
    "ExtractActorLoss",
    "ExtractAgents",
    "ExtractCriticLoss",
    "ExtractLoss",
    "ExtractModel",
    "ExtractSettings",
    "SkillChoice",
    "clustered",
    "features_of",
    "label_segments",
    "merged",
]
