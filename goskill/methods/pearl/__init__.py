"""PEARL: meta-training and adaptation as SiMPL's, but over actions instead of skills.

Rakelly et al., Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context Variables, ICML 2019, as a
baseline of SiMPL.
"""

from goskill.methods.pearl.method import PEARL, PEARLTarget

__all__ = ["PEARL", "PEARLTarget"]
