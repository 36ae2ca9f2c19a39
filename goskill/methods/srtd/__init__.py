"""SRTD: tasks decomposed into latents that are drawn to good skills, and offline actor-critic on those.

Yoo, Cho and Woo, Skills Regularized Task Decomposition for Multi-task Offline Reinforcement Learning, NeurIPS 2022.
"""

from goskill.methods.srtd.acting import SRTDPolicy
from goskill.methods.srtd.losses import SRTDSkillLoss, SRTDTaskLoss, discrepancy
from goskill.methods.srtd.method import SRTD
from goskill.methods.srtd.networks import SRTDNetworks, networks_from_state
from goskill.methods.srtd.settings import SRTDSettings

__all__ = [
    "SRTD",
    "SRTDNetworks",
    "SRTDPolicy",
    "SRTDSettings",
    "SRTDSkillLoss",
    "SRTDTaskLoss",
    "discrepancy",
    "networks_from_state",
]
