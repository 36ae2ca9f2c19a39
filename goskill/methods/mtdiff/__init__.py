"""MTDIFF-P: action sequences by diffusion, behind a demonstration and the return that is wanted.

He et al., Diffusion Model is an Effective Planner and Data Synthesizer for Multi-Task Reinforcement Learning,
NeurIPS 2023; the part that plans.
"""

from goskill.methods.mtdiff.acting import MTDiffPolicy
from goskill.methods.mtdiff.diffusion import Diffusion
from goskill.methods.mtdiff.method import MTDiff
from goskill.methods.mtdiff.networks import MTDiffNetworks
from goskill.methods.mtdiff.settings import MTDiffSettings

__all__ = ["Diffusion", "MTDiff", "MTDiffNetworks", "MTDiffPolicy", "MTDiffSettings"]
