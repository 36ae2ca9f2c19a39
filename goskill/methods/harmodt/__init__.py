"""HarmoDT: Prompt-DT whose transformer every task uses under a mask of its own.

Hu et al., HarmoDT: Harmony Multi-Task Decision Transformer for Offline Reinforcement Learning, ICML 2024.
"""

from goskill.methods.harmodt.acting import HarmoDTPolicy
from goskill.methods.harmodt.method import HarmoDT
from goskill.methods.harmodt.networks import HarmoDTNetworks
from goskill.methods.harmodt.released import load_released, load_released_task
from goskill.methods.harmodt.settings import HarmoDTSettings

__all__ = [
    "HarmoDT",
    "HarmoDTNetworks",
    "HarmoDTPolicy",
    "HarmoDTSettings",
    "load_released",
    "load_released_task",
]
