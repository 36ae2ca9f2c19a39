"""The Prompt-DT family: a decision transformer behind a demonstration (Prompt-DT) or behind nothing (MTDT).

Xu et al., Prompting Decision Transformer for Few-Shot Policy Generalization, ICML 2022, as the GO-Skill paper runs
it on many tasks at once; each task may have an output layer of its own (multi-head).
"""

from goskill.methods.prompt_dt.acting import PromptDTPolicy
from goskill.methods.prompt_dt.diagnosis import predict_actions
from goskill.methods.prompt_dt.method import PromptDT
from goskill.methods.prompt_dt.networks import PromptDTNetworks, networks_from_state
from goskill.methods.prompt_dt.released import load_released
from goskill.methods.prompt_dt.settings import PromptDTSettings

__all__ = [
    "PromptDT",
    "PromptDTNetworks",
    "PromptDTPolicy",
    "PromptDTSettings",
    "load_released",
    "networks_from_state",
    "predict_actions",
]
