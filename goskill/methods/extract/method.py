"""How EXTRACT is trained: segments, skills of any length with their priors, agents in environments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from torch import nn

from goskill.data import EpisodeStore, VariableSegmentSampler
from goskill.methods.extract.agents import ExtractAgents, agents_from_state
from goskill.methods.extract.losses import ExtractActorLoss, ExtractCriticLoss, ExtractLoss
from goskill.methods.extract.model import ExtractModel
from goskill.methods.extract.segmentation import class_count, label_segments, segments_name
from goskill.methods.extract.settings import ExtractSettings
from goskill.methods.method import Networks, Sources
from goskill.methods.registry import register
from goskill.methods.skill_rl import OnlineSkills, SkillChoosingPolicy
from goskill.methods.skill_rl.settings import LARGEST_OBSERVATION
from goskill.methods.store_method import normalize_of
from goskill.training import Objective, OptimizerSettings, Phase, TrainingSettings, distributed
from goskill.training.placement import sampled_objective, sampling
from goskill.training.randomness import seeded


@register("extract_action", features="action")
@register("extract_state", features="state")
@register("extract")
class Extract(OnlineSkills):
    """EXTRACT; arguments are those of ``OnlineSkills``."""

    Settings = ExtractSettings
    section: ClassVar[str] = "extract"
    settings: ExtractSettings
    agents: ExtractAgents
    _store: EpisodeStore

    @classmethod
    def create(cls, settings: ExtractSettings, sources: Sources, training: TrainingSettings) -> Extract:
        """New skills of a store, and new agents for the tasks of a suite."""
        store, suite = sources.episodes(), sources.environments()
        tasks = tuple(settings.tasks or sources.tasks)
        settings = replace(settings, tasks=tasks, clusters=class_count(store, settings))
        normalize = normalize_of(store, LARGEST_OBSERVATION)
        with seeded(training.seed):
            agents = ExtractAgents(settings, ExtractModel(settings, normalize, store.action_dim))
        return cls(settings, agents, store, suite, training, sources.workers)

    @classmethod
    def restore(cls, settings: ExtractSettings, networks: Networks) -> Extract:
        """Trained agents, to act."""
        return cls(settings, agents_from_state(settings, networks))

    def policy(self, precision: str = "float32") -> SkillChoosingPolicy:
        """Acts by each agent's likeliest skill unless it is asked to explore; always in float32."""
        name = {"state": "EXTRACT-State", "action": "EXTRACT-Action"}.get(self.settings.features, "EXTRACT")
        return SkillChoosingPolicy(name, self.agents.skills, self.agents.policy_in)

    def phases(self) -> Sequence[Phase]:
        settings = self.settings
        return [
            Phase("segments", 0, self._segment, "finds segments of one skill"),
            Phase("skills", settings.skill_iterations, self._begin_skills, "learns skills and their priors"),
            Phase("start", 0, self._start, "actors begin as the priors"),
            self.online_phase(),
        ]

    def _segment(self) -> Sequence[Objective]:
        label_segments(self._store, self.settings, self._training.seed)
        return []

    def _begin_skills(self) -> Sequence[Objective]:
        model, settings = self.agents.skills, self.settings
        segments = VariableSegmentSampler(
            self._store,
            segments_name(settings, self._training.seed),
            settings.longest,
            distributed.share(settings.skill_batch_size),
            **sampling(self._training, self._store),
        )
        trained = [model.encoder, model.decoder, model.choice_prior, model.argument_prior]
        objective = sampled_objective("skills", segments, ExtractLoss(model), trained)
        objective.optimizer = OptimizerSettings(
            settings.skill_learning_rate,
            "adamw",
            decay_iterations=settings.skill_decay_iterations,
            gradient_clip=1.0,
        )
        return [objective]

    def _start(self) -> Sequence[Objective]:
        self.agents.begin_as_priors()
        return []

    def losses(self) -> tuple[nn.Module, nn.Module]:
        return ExtractCriticLoss(self.agents), ExtractActorLoss(self.agents)

    def actors(self) -> Sequence[nn.Module]:
        return [self.agents.choice_actor, self.agents.argument_actor]

    def due(self, iteration: int) -> float:
        return self.settings.warmup_steps + iteration * self.settings.steps_per_update
