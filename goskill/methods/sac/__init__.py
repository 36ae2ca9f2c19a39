"""Soft actor-critic with automatic temperature, an agent per task, all learning side by side.

Haarnoja et al., Soft Actor-Critic Algorithms and Applications, 2018.
"""

from goskill.methods.sac.losses import ActorLoss, CloningLoss, CriticLoss
from goskill.methods.sac.method import SAC
from goskill.methods.sac.networks import SACNetworks, networks_from_state
from goskill.methods.sac.settings import SACSettings

__all__ = [
    "SAC",
    "ActorLoss",
    "CloningLoss",
    "CriticLoss",
    "SACNetworks",
    "SACSettings",
    "networks_from_state",
]
