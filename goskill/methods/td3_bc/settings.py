"""Every choice of offline actor-critic on single transitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from goskill.data.selection import check_share
from goskill.settings import NOT_NEGATIVE, PART, POSITIVE, check, check_distinct, refuse


@dataclass(frozen=True)
class TD3BCSettings:
    """Settings of networks, losses and schedule, by default those of SRTD's baselines.

    Raises InputError that names the setting.
    """

    # Networks
    network: Literal["mlp", "soft_modules"] = "mlp"  # one perceptron | layers of modules, routed by the task
    width: int = 256  # of the hidden layers, or of each module
    layers: int = 3  # hidden layers, or layers of modules
    modules: int = 4  # modules of each layer with soft_modules
    task_identity: bool = True  # the networks are told the task (one-hot)
    tasks: tuple[str, ...] = ()  # that they are told apart; those of the store are added

    # Losses
    alpha: float = (
        2.5  # weight of the value against the distance to the data's actions, over the mean absolute value
    )
    discount: float = 0.99  # per environment step
    policy_noise: float = 0.2  # standard deviation of the noise of target actions
    noise_clip: float = 0.5  # of that noise
    reward_scale: float = 1.0  # rewards are multiplied by this
    ends: Literal["column", "never"] = (
        "column"  # the store's column "terminated" | only time limits end episodes
    )
    gradient_surgery: bool = False  # PCGrad: conflicting parts of the tasks' gradients are projected out

    # Schedule
    iterations: int = 1_000_000  # updates of the critic
    policy_every: int = 2  # updates of the critic for one of the actor and the targets
    target_rate: float = 0.005  # share by which targets move at each of their updates
    learning_rate: float = 1e-4  # of Adam, actor and critic alike
    batch_size: int = 1_280  # transitions, the same number from each task
    best_share: float = 1.0  # of each task's episodes by return that are learned from

    def __post_init__(self) -> None:
        check(self, POSITIVE, "width", "layers", "modules", "iterations", "policy_every", "batch_size")
        check(self, POSITIVE, "alpha", "reward_scale", "learning_rate")
        check(self, NOT_NEGATIVE, "policy_noise", "noise_clip")
        check(self, PART, "discount", "target_rate")
        check_share("best_share", self.best_share)
        needs_tasks = self.network == "soft_modules" or self.gradient_surgery
        if needs_tasks and not self.task_identity:
            refuse(self, "task_identity", "True with soft_modules and gradient_surgery")
        check_distinct(self, "tasks")
        if self.tasks and not self.task_identity:
            refuse(self, "tasks", "none with task_identity = False")
