"""Networks only: no data, no losses, no training."""

from goskill.models.action_head import ActionHead
from goskill.models.action_policy import ActionPolicy
from goskill.models.decision_transformer import (
    DecisionContext,
    Decisions,
    DecisionTransformer,
    scale_tables,
)
from goskill.models.ensemble import EnsembleLinear, EnsembleMLP, mlp, twin_values
from goskill.models.goal_encoder import GoalEncoder
from goskill.models.normal import DiagonalNormal, SquashedNormal
from goskill.models.normalize import Normalize
from goskill.models.padding import padding_last, take_rows
from goskill.models.set_transformer import SetTransformer
from goskill.models.skill_decoder import SkillDecoder
from goskill.models.skill_policy import SkillPolicyTransformer
from goskill.models.step_decoder import StepDecoder
from goskill.models.transformer import CausalTransformer, KeyValueCache

__all__ = [
    "ActionHead",
    "ActionPolicy",
    "CausalTransformer",
    "DecisionContext",
    "DecisionTransformer",
    "Decisions",
    "DiagonalNormal",
    "EnsembleLinear",
    "EnsembleMLP",
    "GoalEncoder",
    "KeyValueCache",
    "Normalize",
    "SetTransformer",
    "SkillDecoder",
    "SkillPolicyTransformer",
    "SquashedNormal",
    "StepDecoder",
    "mlp",
    "padding_last",
    "scale_tables",
    "take_rows",
    "twin_values",
]
