"""Offline actor-critic: TD3+BC told the task, with gradient surgery (PCGrad) or soft modularisation.

Fujimoto and Gu, A Minimalist Approach to Offline Reinforcement Learning, NeurIPS 2021; Yu et al., Gradient Surgery
for Multi-Task Learning, NeurIPS 2020; Yang et al., Multi-Task Reinforcement Learning with Soft Modularization,
NeurIPS 2020.
"""

from goskill.methods.td3_bc.losses import TD3BCActorLoss, TD3CriticLoss
from goskill.methods.td3_bc.method import TD3BC
from goskill.methods.td3_bc.networks import TD3BCNetworks, networks_from_state
from goskill.methods.td3_bc.settings import TD3BCSettings
from goskill.methods.td3_bc.surgery import project_conflicting, with_surgery

__all__ = [
    "TD3BC",
    "TD3BCActorLoss",
    "TD3BCNetworks",
    "TD3BCSettings",
    "TD3CriticLoss",
    "networks_from_state",
    "project_conflicting",
    "with_surgery",
]
