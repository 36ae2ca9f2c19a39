"""Every choice of soft actor-critic."""

from __future__ import annotations

from dataclasses import dataclass

from goskill.settings import PART, POSITIVE, check, refuse


@dataclass(frozen=True)
class SACSettings:
    """Settings of networks, losses and schedule. Raises InputError that names the setting."""

    # Networks
    width: int = 256  # of the hidden layers
    layers: int = 2  # hidden layers of actor and critics
    tasks: tuple[str, ...] = ()  # with an agent each; those learned in

    # Cloning
    cloning: bool = (
        False  # actors begin by imitating the actions of all episodes of a store, whatever their task
    )
    cloning_iterations: int = 10_000  # updates of cloning
    cloning_batch_size: int = 256  # steps in its batches

    # Losses
    discount: float = 0.99  # per environment step
    reward_scale: float = 1.0  # rewards are multiplied by this
    target_entropy: float | None = None  # of the actor's actions; None: minus their number of dimensions
    initial_temperature: float = 1.0  # weight of the entropy at the beginning

    # Schedule
    iterations: int = 100_000  # updates of every agent
    updates_per_step: float = 1.0  # updates for one step of each environment
    environments_per_task: int = 1  # that step side by side
    warmup_steps: int = 1_000  # of each environment with uniformly random actions before the first update
    capacity: int = 1_000_000  # transitions of each agent that the replay buffer keeps
    batch_size: int = 256  # transitions of each agent in a batch
    target_rate: float = 0.005  # share by which target critics move at each update
    learning_rate: float = 3e-4  # of Adam, for actor, critics and temperature

    # Data
    keep_experience: bool = False  # every episode is kept, in a store in the run's folder

    def __post_init__(self) -> None:
        check(self, POSITIVE, "width", "layers", "initial_temperature", "iterations", "updates_per_step")
        check(self, POSITIVE, "cloning_iterations", "cloning_batch_size", "environments_per_task")
        check(self, POSITIVE, "capacity", "batch_size", "learning_rate")
        if self.warmup_steps < 1:
            refuse(self, "warmup_steps", "at least 1")
        check(self, PART, "discount", "target_rate")
