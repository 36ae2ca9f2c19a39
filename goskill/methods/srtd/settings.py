"""Every choice of SRTD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from goskill.methods.td3_bc.settings import TD3BCSettings
from goskill.settings import NOT_NEGATIVE, POSITIVE, check, refuse


@dataclass(frozen=True)
class SRTDSettings:
    """Settings of the decomposition, the augmentation and offline actor-critic on its latents.

    Raises InputError that names the setting.
    """

    # Decomposition
    latent: int = 4  # dimensions of the latents of skills and tasks
    history: int = 4  # n: steps that a task's latent is encoded from; a skill's is encoded from 2n
    skill_width: int = 256  # of the hidden layers of the skills' encoder and decoder
    skill_layers: int = 3  # hidden layers of each
    task_width: int = 256  # of the hidden layers of the tasks' encoder and decoder
    task_layers: int = 2  # hidden layers of each
    rewards: Literal["plain", "differences"] = (
        "plain"  # as they are | each reward less the one before, as released
    )
    reward_scale: float = 0.1  # rewards are multiplied by this
    prior_weight: float = 100.0  # of the discrepancy between latents and the normal prior
    skill_regularization: float = 1e-2  # weight of the distance between a task's latent and its skill's
    quality_weight: bool = True  # that distance is weighted by the episode's discounted return
    weight_penalty: float = 1e-3  # of the squared weights of the tasks' networks
    ends: Literal["column", "never"] = (
        "column"  # the store's column "terminated" | only time limits end episodes
    )

    # Augmentation
    augmentation: Literal["none", "imaginary", "noise"] = (
        "none"  # imaginary demonstrations | stretches of the data with noise on their states
    )
    augmented_size: float = 0.5  # steps that are made, over those of the data
    augmented_share: float = 1 / 3  # of a batch that is drawn from them
    rollout: int = 4  # steps of each
    latent_noise: float = 0.1  # standard deviation of the noise on the first latent of an imaginary one
    state_noise: float = 0.003  # of the noise on states, in standard deviations of the data

    # Offline actor-critic
    width: int = 256  # of the hidden layers
    layers: int = 3  # hidden layers of actor and critics
    alpha: float = (
        2.5  # weight of the value against the distance to the data's actions, over the mean absolute value
    )
    discount: float = 0.99  # per environment step; also of the returns that weigh skills
    policy_noise: float = 0.2  # standard deviation of the noise of target actions
    noise_clip: float = 0.5  # of that noise

    # Schedule
    decomposition_iterations: int = 30_000  # updates of the encoders and decoders
    decomposition_batch: int = 2_048  # windows, the same number from each task
    iterations: int = 1_000_000  # updates of the critic
    policy_every: int = 2  # updates of the critic for one of the actor and the targets
    target_rate: float = 0.005  # share by which targets move at each of their updates
    learning_rate: float = 1e-4  # of Adam, all networks alike
    batch_size: int = 1_280  # transitions

    def __post_init__(self) -> None:
        check(self, POSITIVE, "latent", "history", "skill_width", "skill_layers", "task_width", "task_layers")
        check(self, POSITIVE, "rollout", "decomposition_iterations", "reward_scale")
        check(self, NOT_NEGATIVE, "prior_weight", "skill_regularization", "weight_penalty")
        check(self, NOT_NEGATIVE, "latent_noise", "state_noise")
        if self.decomposition_batch < 2:
            refuse(self, "decomposition_batch", "at least 2, since samples are compared with each other")
        if not 0 < self.augmented_share < 1:
            refuse(self, "augmented_share", "a number between 0 and 1")
        if not 0 < self.augmented_size <= self.rollout:
            refuse(
                self, "augmented_size", f"a number above 0 and at most {self.rollout}, from every state once"
            )
        if self.augmentation != "none" and not 0 < self.augmented_batch < self.batch_size:
            refuse(self, "augmented_share", f"at least one sample of {self.batch_size} and not all")
        self.learner()

    @property
    def augmented_batch(self) -> int:
        """Samples of a batch that are not of the data."""
        return 0 if self.augmentation == "none" else round(self.batch_size * self.augmented_share)

    def learner(self) -> TD3BCSettings:
        """Settings of the actor-critic on states and latents."""
        return TD3BCSettings(
            width=self.width,
            layers=self.layers,
            task_identity=False,
            alpha=self.alpha,
            discount=self.discount,
            policy_noise=self.policy_noise,
            noise_clip=self.noise_clip,
            iterations=self.iterations,
            policy_every=self.policy_every,
            target_rate=self.target_rate,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
        )
