"""Every choice that HarmoDT leaves open, with the released code's value as the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from goskill.methods.prompt_dt.settings import PromptDTSettings
from goskill.settings import NOT_NEGATIVE, PART, POSITIVE, check


@dataclass(frozen=True)
class HarmoDTSettings(PromptDTSettings):
    """Settings of Prompt-DT, and of the masks. Raises InputError that names the setting."""

    prompt_length: int = 5  # last steps of a demonstration; 0: no prompt
    density: float = 0.8  # share of the transformer's weights that a mask keeps
    mask_every: int = 500  # iterations between updates of the masks
    mask_changes: int = 100  # weights that an update exchanges in each mask, halfway through the training
    agreement_weight: float = (
        10.0  # of a task's agreement with the others, against a weight's importance to it
    )
    importance: Literal["fisher", "magnitude"] = "fisher"  # squared gradient | absolute weight
    task_identity: bool = True  # False: all tasks act by one mask, the weights that enough masks keep
    merge_share: float = 0.5  # masks, of all, that have to keep a weight for acting without a task's own mask

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, PART, "density", "merge_share")
        check(self, POSITIVE, "mask_every")
        check(self, NOT_NEGATIVE, "mask_changes", "agreement_weight")

    @property
    def knows_tasks(self) -> bool:
        """Each has a mask."""
        return True
