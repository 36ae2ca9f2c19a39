"""Multi-task RL as SiMPL's baseline: SPiRL in each training task, distilled into one policy that target tasks begin as.

Nam et al., Skill-based Meta-Reinforcement Learning, ICLR 2022, Eq. 6 and appendix C.4; after Teh et al., Distral, 2017.
"""

from goskill.methods.mtrl.distillation import DistillationLoss, SharedPolicy
from goskill.methods.mtrl.method import MTRL, MTRLTarget

__all__ = ["MTRL", "DistillationLoss", "MTRLTarget", "SharedPolicy"]
