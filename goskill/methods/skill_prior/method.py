"""The first half of SPiRL as a run of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from goskill.data import EpisodeStore
from goskill.errors import InputError
from goskill.methods.method import Method, Networks, Sources
from goskill.methods.registry import register
from goskill.methods.skill_rl import (
    SkillChoosingPolicy,
    SkillModel,
    SkillSettings,
    model_from_state,
    new_model,
    skills_phase,
)
from goskill.models import DiagonalNormal
from goskill.training import Phase, TrainingSettings


@dataclass(frozen=True)
class SkillPriorSettings(SkillSettings):
    """Settings of the skills. Raises InputError that names the setting."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.skills:
            raise InputError("skills: expected none, since this method learns its own")


@register("skill_prior")
class SkillPrior(Method):
    """A skill VAE and the prior of its skills, of which ``method.skills=RUN`` of other methods takes both.

    Args:
        settings: of the skills.
        model: new or trained.
        store: the training episodes; None: to act only.
        training: the seed is used here.
    """

    Settings = SkillPriorSettings
    schedule = ("skill_iterations",)

    def __init__(
        self,
        settings: SkillPriorSettings,
        model: SkillModel,
        store: EpisodeStore | None = None,
        training: TrainingSettings | None = None,
    ) -> None:
        self.settings, self.model = settings, model
        self._store, self._training = store, training or TrainingSettings()

    @classmethod
    def create(cls, settings: SkillPriorSettings, sources: Sources, training: TrainingSettings) -> SkillPrior:
        """New skills of the episodes of a store."""
        store = sources.episodes()
        return cls(settings, new_model(settings, store, training.seed), store, training)

    @classmethod
    def restore(cls, settings: SkillPriorSettings, networks: Networks) -> SkillPrior:
        """Trained skills, to act."""
        return cls(settings, model_from_state(settings, networks))

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return self.model.parts

    def phases(self) -> Sequence[Phase]:
        if self._store is None:
            raise InputError("store: expected one to learn from, got None")
        return [skills_phase(self.model, self._store, self._training)]

    def policy(self, precision: str = "float32") -> PriorPolicy:
        """Carries out skills that are drawn from the prior, whatever the task; always in float32."""
        return PriorPolicy("skill prior", self.model)


class PriorPolicy(SkillChoosingPolicy):
    """Skills drawn from their prior, by random numbers of the ``seed`` of each reset."""

    def __init__(self, name: str, model: SkillModel) -> None:
        super().__init__(name, model, lambda tasks: self._drawn)
        self._prior = model.prior
        self._generators: list[np.random.Generator] = []

    def reset(self, tasks: Sequence[str], prompts: Any = None, seed: int | Sequence[int] = 0) -> None:
        """Begin an episode in each environment, whatever its task."""
        super().reset(tasks, prompts, seed)
        seeds = (
            [[seed, row] for row in range(len(tasks))] if isinstance(seed, int) else [[one] for one in seed]
        )
        self._generators = [
            np.random.Generator(np.random.Philox(np.random.SeedSequence(one))) for one in seeds
        ]

    def _drawn(self, observations: Tensor) -> DiagonalNormal:
        prior = self._prior(observations)
        size = prior.mean.shape[1]
        noise = np.stack([one.standard_normal(size, np.float32) for one in self._generators])
        drawn = prior.mean + prior.log_std.exp() * torch.from_numpy(noise).to(prior.mean.device)
        return DiagonalNormal(drawn, prior.log_std)
