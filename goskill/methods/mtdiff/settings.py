"""Every choice that MTDIFF-P leaves open, with the released code's value as the default."""

from __future__ import annotations

from dataclasses import dataclass

from goskill.data.selection import check_share
from goskill.settings import BELOW_ONE, NOT_NEGATIVE, POSITIVE, check, refuse

OBSERVATIONS = 2  # the latest ones, that a plan begins from


@dataclass(frozen=True)
class MTDiffSettings:
    """Settings of the network, the diffusion and the schedule. Raises InputError that names the setting."""

    # Network
    width: int = 256  # of the tokens
    layers: int = 4  # transformer blocks
    heads: int = 2  # attention heads of each; they divide the width
    dropout: float = 0.1  # of embeddings, attention and residuals

    # Sequences, in environment steps
    plan: int = 32  # actions that are diffused together
    prompt_length: int = 20  # last steps of a demonstration
    prompt_episodes: int = 4  # episodes of a task that serve as its demonstrations
    prompts: str = (
        "best"  # which: best, successful, shortest, a column of the episodes, or a .json file of indices
    )
    reward_scale: float = 10.0  # the return that is wanted is a mean reward per step, divided by this

    # Diffusion
    diffusion_steps: int = 200  # of the variance-preserving schedule
    beta_min: float = 0.1  # its noise rate at the beginning
    beta_max: float = 10.0  # and at the end
    first_action_weight: float = 10.0  # of the first action's error, against 1 of the others'
    return_dropout: float = 0.2  # share of samples that are not told the return, for guidance

    # Acting
    sampling_steps: int = 0  # of DDIM, without noise; 0: all diffusion steps, with noise
    guidance: float = (
        1.2  # 1: the network that knows the return; more: further away from the one that does not
    )
    noise_scale: float = 0.5  # of the noise that sampling adds
    actions_per_plan: int = 1  # steps between plans; 1: as released

    # Data and schedule
    best_share: float = 1.0  # of each task's episodes by return, that are imitated; 1: all
    iterations: int = 100_000  # as many as GO-Skill's two phases together
    batch_per_task: int = 8  # plans per task in a batch

    def __post_init__(self) -> None:
        check(self, POSITIVE, "width", "layers", "heads", "plan", "prompt_length", "prompt_episodes")
        check(self, POSITIVE, "diffusion_steps", "actions_per_plan", "iterations", "batch_per_task")
        check(self, POSITIVE, "reward_scale", "beta_min", "first_action_weight")
        check(self, NOT_NEGATIVE, "guidance", "noise_scale")
        check(self, BELOW_ONE, "dropout", "return_dropout")
        check_share("best_share", self.best_share)
        if self.width % self.heads:
            refuse(self, "heads", f"a divisor of width = {self.width}")
        if self.width % 2:
            refuse(self, "width", "an even number")
        if not self.beta_max >= self.beta_min:
            refuse(self, "beta_max", f"at least beta_min = {self.beta_min}")
        if not 0 <= self.sampling_steps <= self.diffusion_steps:
            refuse(self, "sampling_steps", f"at most diffusion_steps = {self.diffusion_steps}")
        if self.actions_per_plan > self.plan:
            refuse(self, "actions_per_plan", f"at most plan = {self.plan}")
