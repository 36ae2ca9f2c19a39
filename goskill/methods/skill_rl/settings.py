"""Every choice about skills, and about learning to choose among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from goskill.settings import NOT_NEGATIVE, PART, POSITIVE, check, check_distinct

LARGEST_OBSERVATION = 5.0
"""Standard deviations that observations are clipped to: what hardly moves in the data moves while exploring."""


@dataclass(frozen=True)
class SkillSettings:
    """Settings of the skills, their prior, and how both are learned. Raises InputError that names the setting."""

    # Skills
    skills: str = (
        ""  # run folder whose skills are taken, together with its settings of them; "": learned here
    )
    decoder: Literal["closed", "open"] = "closed"  # sees each state (MLP) | only the skill (LSTM)
    horizon: int = 10  # steps of a skill
    skill_dim: int = 10  # dimensions of the latent skill
    skill_width: int = 128  # of encoder and decoder
    decoder_layers: int = 3  # hidden layers of the closed-loop decoder
    prior_width: int = 128  # of the skill prior, and of what begins as the prior
    prior_layers: int = 5  # hidden layers of the skill prior, and of what begins as the prior
    beta: float = 5e-4  # weight of the divergence of skills from N(0, 1)

    # Their schedule
    skill_iterations: int = 20_000  # updates of skills and prior
    skill_batch_size: int = 128  # windows in a batch
    skill_learning_rate: float = 1e-3  # of RAdam
    skill_decay_iterations: int = 0  # linear fall of its rate to 0 at the end; 0: none, as released

    def __post_init__(self) -> None:
        check(self, POSITIVE, "horizon", "skill_dim", "skill_width", "decoder_layers", "prior_width")
        check(self, POSITIVE, "prior_layers", "skill_iterations", "skill_batch_size", "skill_learning_rate")
        check(self, NOT_NEGATIVE, "beta", "skill_decay_iterations")


@dataclass(frozen=True)
class OnlineSettings(SkillSettings):
    """Settings of soft actor-critic over skills as well. Raises InputError that names the setting."""

    # Agents
    tasks: tuple[str, ...] = ()  # with an agent each; those learned in
    critic_width: int = 256  # of the critics' hidden layers
    critic_layers: int = 3  # hidden layers of the critics

    # Losses
    discount: float = 0.999  # per environment step
    reward_scale: float = 1.0  # rewards are multiplied by this
    target_divergence: float = 1.0  # from the prior, in nats per decision, that the temperature aims at
    initial_temperature: float = 0.1  # weight of the divergence from the prior at the beginning

    # Schedule
    iterations: int = 60_000  # updates of every agent
    updates_per_decision: float = 1.0  # updates for one skill carried out in each environment
    environments_per_task: int = 1  # that step side by side
    warmup_decisions: int = 200  # in each environment, by the prior, before the first update
    capacity: int = 100_000  # decisions of each agent that the replay buffer keeps
    batch_size: int = 256  # decisions of each agent in a batch
    target_rate: float = 0.005  # share by which target critics move at each update
    learning_rate: float = 3e-4  # of Adam, for actor, critics and temperature

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, POSITIVE, "critic_width", "critic_layers", "target_divergence", "initial_temperature")
        check(self, POSITIVE, "reward_scale", "iterations", "updates_per_decision", "environments_per_task")
        check(self, POSITIVE, "warmup_decisions", "capacity", "batch_size", "learning_rate")
        check(self, PART, "discount", "target_rate")
        check_distinct(self, "tasks")
