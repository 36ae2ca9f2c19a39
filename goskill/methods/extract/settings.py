"""Every choice of EXTRACT."""

from __future__ import annotations

from dataclasses import dataclass

from goskill.settings import NOT_NEGATIVE, PART, POSITIVE, check, refuse


@dataclass(frozen=True)
class ExtractSettings:
    """Settings of segments, skills, agents, losses and schedule. Raises InputError that names the setting."""

    # Segments
    features: str = (
        "state"  # clustered: state | action (differences from the first), or a column of the store
    )
    labels: str = ""  # label column, such as a codebook's, that is taken instead of clusters; "": clusters
    clusters: int = 8  # discrete skills; with labels: as many as those have
    median_steps: int = 7  # window of the median filter over the clusters of an episode; odd
    shortest: int = 9  # segments of fewer steps become part of the next one
    longest: int = 30  # steps of a skill; longer segments are cropped at random

    # Skills
    argument_dim: int = 5  # dimensions of a skill's continuous argument
    skill_width: int = 128  # of encoder and decoder
    prior_width: int = 128  # of the priors, and of actors, which begin as the priors
    prior_layers: int = 4  # hidden layers of the priors, and of actors
    beta: float = 1e-3  # weight of the divergence of arguments from N(0, 1)
    finished_at: float = 0.95  # progress at which a skill ends
    skill_iterations: int = 20_000  # updates of skills and priors
    skill_batch_size: int = 128  # segments in a batch
    skill_learning_rate: float = 1e-3  # of AdamW
    skill_decay_iterations: int = 0  # linear fall of its rate to 0 at the end; 0: none, as released

    # Agents
    tasks: tuple[str, ...] = ()  # with an agent each; those learned in
    critic_width: int = 256  # of the critics' hidden layers
    critic_layers: int = 4  # hidden layers of the critics
    discount: float = 0.999  # per environment step
    reward_scale: float = 1.0  # rewards are multiplied by this
    argument_temperature: float = 0.01  # weight of the arguments' divergence from their prior
    choice_temperature: float = 0.1  # weight of the choices' divergence from their prior
    largest_value: float = 100.0  # targets of critics are clipped to it in size

    # Schedule
    iterations: int = 60_000  # updates of every agent
    steps_per_update: int = 20  # steps of each environment for one update
    environments_per_task: int = 1  # that step side by side
    warmup_steps: int = 2_000  # of each environment, by the priors, before the first update
    capacity: int = 50_000  # decisions of each agent that the replay buffer keeps
    batch_size: int = 256  # decisions of each agent in a batch
    target_rate: float = 0.005  # share by which target critics move at each update
    learning_rate: float = 3e-4  # of Adam, for actors and critics

    def __post_init__(self) -> None:
        check(self, POSITIVE, "clusters", "median_steps", "shortest", "longest", "argument_dim")
        check(self, POSITIVE, "skill_width", "prior_width", "prior_layers", "skill_iterations")
        check(self, POSITIVE, "skill_batch_size", "skill_learning_rate", "critic_width", "critic_layers")
        check(self, POSITIVE, "reward_scale", "finished_at")
        check(self, POSITIVE, "largest_value", "iterations", "steps_per_update", "environments_per_task")
        check(self, POSITIVE, "warmup_steps", "capacity", "batch_size", "learning_rate")
        if self.median_steps % 2 == 0:
            refuse(self, "median_steps", "an odd number")
        check(
            self, NOT_NEGATIVE, "beta", "skill_decay_iterations", "argument_temperature", "choice_temperature"
        )
        check(self, PART, "discount", "target_rate")
