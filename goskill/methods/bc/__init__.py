"""Behaviour cloning of each task's best episodes by return (percent-BC), with one network for all tasks.

Chen et al., Decision Transformer, NeurIPS 2021, Section 5.1, use it as the baseline that offline methods have to beat.
"""

from goskill.methods.bc.method import BehaviourCloning
from goskill.methods.bc.networks import BCNetworks, networks_from_state
from goskill.methods.bc.settings import BCSettings

__all__ = ["BCNetworks", "BCSettings", "BehaviourCloning", "networks_from_state"]
