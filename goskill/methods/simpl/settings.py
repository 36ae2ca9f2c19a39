"""Every choice of SiMPL and PEARL.

Where paper and released code differ, both can be set, and the default says which it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from goskill.methods.skill_rl import SkillSettings
from goskill.settings import NOT_NEGATIVE, PART, POSITIVE, check, check_distinct, refuse


@dataclass(frozen=True)
class EmbeddingSettings:
    """Settings of agents that are given a task's embedding. Raises InputError that names the setting."""

    # Networks
    tasks: tuple[str, ...] = ()  # those learned in
    embedding_dim: int = 6  # of a task; paper: 6 in the maze with 40 tasks, 10 in the kitchen, else 5
    encoder_width: int = 128  # of the task encoder
    encoder_heads: int = 4  # of its attention
    encoder_points: int = 32  # induced points of its attention
    width: int = 256  # of the hidden layers of policy and critics
    layers: int = 3  # hidden layers of policy and critics

    # Losses
    discount: float = 0.999  # per environment step
    reward_scale: float = 1.0  # rewards are multiplied by this

    def __post_init__(self) -> None:
        check(self, POSITIVE, "embedding_dim", "encoder_width", "encoder_heads", "encoder_points", "width")
        check(self, POSITIVE, "layers", "reward_scale")
        check(self, PART, "discount")
        if self.encoder_width % self.encoder_heads:
            refuse(self, "encoder_heads", f"a divisor of encoder_width {self.encoder_width}")
        check_distinct(self, "tasks")


@dataclass(frozen=True)
class TaskSettings(EmbeddingSettings, SkillSettings):
    """Settings of agents that choose skills as well. Raises InputError that names the setting."""

    scale_residual: Literal["log", "softplus"] = "log"  # added to log sigma (paper) | before softplus (code)
    divergence_clip: float | None = (
        None  # most nats that count in targets of critics; code: 5 in the maze, 6 in the kitchen
    )

    def __post_init__(self) -> None:
        EmbeddingSettings.__post_init__(self)
        SkillSettings.__post_init__(self)
        if self.divergence_clip is not None:
            check(self, POSITIVE, "divergence_clip")


@dataclass(frozen=True)
class MetaSettings(EmbeddingSettings, ABC):
    """Settings of meta-training over the tasks of a suite. Raises InputError that names the setting."""

    # More of the losses
    initial_temperature: float = 0.1  # weight of what decisions cost at the beginning
    fixed_temperature: float | None = None  # weight where contexts are small; None: learned
    temperature_falls: bool = True  # False: temperatures only rise, as in the code
    embedding_weight: float = 1e-3  # of the divergence of embeddings from N(0, 1); code only; 0: none
    small_embedding_divergence: float | None = (
        None  # nats above which that weight rises where contexts are small; code: 1 in the maze, 2 in the kitchen
    )
    large_embedding_divergence: float | None = None  # the same where they are large; code: 10
    shared_embedding: bool = (
        True  # one for all of a task's decisions in an update; False: for each, as in the code
    )

    # Schedule
    iterations: int = 40_000  # updates
    tasks_per_step: int = 20  # that an update draws
    small_tasks: int = 4  # of these, how many with small contexts
    small_context: int = 4  # decisions
    large_context: int = 8192  # decisions
    updates_per_decision: float = 0.25  # updates for one decision carried out in each environment
    environments_per_task: int = 1  # that step side by side
    prior_every: int = 2  # of an environment's episodes, one in so many has an embedding drawn from N(0, 1)
    warmup_decisions: int = 200  # in each environment before the first update
    capacity: int = 20_000  # decisions of each task that its buffer keeps
    batch_size: int = 256  # decisions of each task in an update
    target_rate: float = 0.005  # share by which target critics move at each update
    learning_rate: float = 3e-4  # of Adam, for all networks

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, POSITIVE, "initial_temperature", "iterations")
        check(self, POSITIVE, "tasks_per_step", "small_context", "large_context", "updates_per_decision")
        check(self, POSITIVE, "environments_per_task", "prior_every", "warmup_decisions", "capacity")
        check(self, POSITIVE, "batch_size", "learning_rate")
        if self.fixed_temperature is not None:
            check(self, POSITIVE, "fixed_temperature")
        check(self, PART, "target_rate")
        if not 0 <= self.small_tasks <= self.tasks_per_step:
            refuse(self, "small_tasks", f"a number from 0 to tasks_per_step {self.tasks_per_step}")
        check(self, NOT_NEGATIVE, "embedding_weight")
        for name in ("small_embedding_divergence", "large_embedding_divergence"):
            if getattr(self, name) is not None:
                check(self, POSITIVE, name, "embedding_weight")

    @property
    def embedding_aims(self) -> tuple[float | None, float | None]:
        """Nats above which the weight of embeddings rises, for small and large contexts."""
        return self.small_embedding_divergence, self.large_embedding_divergence

    @abstractmethod
    def aims(self, size: int) -> tuple[float, float]:
        """The cost of decisions of ``size`` numbers that temperatures aim at: for small and large contexts."""


@dataclass(frozen=True)
class SiMPLSettings(MetaSettings, TaskSettings):
    """Settings of SiMPL's meta-training. Raises InputError that names the setting."""

    # Divergences
    small_divergence: float = 0.1  # from the prior, in nats per decision, aimed at where contexts are small
    large_divergence: float = 0.4  # the same where they are large

    def __post_init__(self) -> None:
        MetaSettings.__post_init__(self)
        check(self, POSITIVE, "small_divergence", "large_divergence")

    def aims(self, size: int) -> tuple[float, float]:
        """The divergences."""
        return self.small_divergence, self.large_divergence


@dataclass(frozen=True)
class PEARLSettings(MetaSettings):
    """Settings of PEARL's meta-training. Raises InputError that names the setting."""

    small_tasks: int = 0  # of an update's tasks, how many with small contexts
    large_context: int = 1024  # steps
    target_entropy: float | None = None  # of actions; None: minus their number of dimensions

    def aims(self, size: int) -> tuple[float, float]:
        """Minus the entropy, whatever the context."""
        aim = aim_of_entropy(self.target_entropy, size)
        return aim, aim


@dataclass(frozen=True)
class AdaptationSettings(EmbeddingSettings, ABC):
    """Settings of learning target tasks. Raises InputError that names the setting."""

    meta: str = (
        ""  # run folder of meta-training: networks and temperature are taken, with its settings of both
    )

    # More of the losses
    temperature_falls: bool = True  # False: temperatures only rise, as in the code
    sample_embedding: bool = True  # of a task, from what the encoder gives; False: its mean, as in the code

    # Schedule
    iterations: int = 40_000  # updates of every agent
    prior_episodes: int = 20  # of each task with embeddings drawn from N(0, 1), which it is then encoded from
    updates_per_decision: float = 0.25  # updates for one decision carried out, from the first encoded task on
    capacity: int = 20_000  # decisions of each agent that the replay buffer keeps
    batch_size: int = 256  # decisions of each agent in a batch
    target_rate: float = 0.005  # share by which target critics move at each update
    learning_rate: float = 3e-4  # of Adam, for actor, critics and temperature

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, POSITIVE, "iterations", "prior_episodes", "updates_per_decision")
        check(self, POSITIVE, "capacity", "batch_size", "learning_rate")
        check(self, PART, "target_rate")

    @abstractmethod
    def aim(self, size: int) -> float:
        """The cost of decisions of ``size`` numbers that temperatures aim at."""


@dataclass(frozen=True)
class TargetSettings(AdaptationSettings, TaskSettings):
    """Settings of SiMPL's learning of target tasks. Raises InputError that names the setting."""

    target_divergence: float = 1.0  # from the prior, in nats per decision, that the temperature aims at

    def __post_init__(self) -> None:
        AdaptationSettings.__post_init__(self)
        check(self, POSITIVE, "target_divergence")

    def aim(self, size: int) -> float:
        """The divergence."""
        return self.target_divergence


@dataclass(frozen=True)
class PEARLTargetSettings(AdaptationSettings):
    """Settings of PEARL's learning of target tasks. Raises InputError that names the setting."""

    target_entropy: float | None = None  # of actions; None: minus their number of dimensions

    def aim(self, size: int) -> float:
        """Minus the entropy."""
        return aim_of_entropy(self.target_entropy, size)


def aim_of_entropy(entropy: float | None, action_dim: int) -> float:
    """The log density of actions to aim at; None: soft actor-critic's entropy, minus ``action_dim``."""
    return float(action_dim) if entropy is None else -entropy
