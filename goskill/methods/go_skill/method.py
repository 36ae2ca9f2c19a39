"""How GO-Skill is trained: extraction, labelling, then enhancement and policy learning side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from goskill.data import ContextSampler, EpisodeStore, SegmentSampler
from goskill.data.selection import best_share
from goskill.errors import InputError
from goskill.methods.go_skill.acting import GoSkillPolicy
from goskill.methods.go_skill.contexts import contexts
from goskill.methods.go_skill.continuous import ContinuousContexts
from goskill.methods.go_skill.diagnosis import OraclePolicy, predict_actions, predict_skills
from goskill.methods.go_skill.labelling import label_store
from goskill.methods.go_skill.losses import PolicyLoss, SkillLoss
from goskill.methods.go_skill.networks import GoalFeatures, GoSkillNetworks, networks_from_state
from goskill.methods.go_skill.settings import ABLATIONS, GoSkillSettings
from goskill.methods.method import Networks
from goskill.methods.registry import register
from goskill.methods.sequence.checking import check_dimensions, check_lengths, check_trained
from goskill.methods.sequence.predictions import ActionPredictions, SkillPredictions
from goskill.methods.store_method import FineTunableStoreMethod, normalize_of
from goskill.training import Objective, Phase, Sampler, TrainingSettings, distributed
from goskill.training.placement import sampled_objective, sampling
from goskill.training.randomness import seeded

# Each sampler draws from a stream of its own.
EXTRACTION_STREAM, ENHANCEMENT_STREAM, POLICY_STREAM, STREAMS = 0, 1, 2, 3

# What may change when trained networks go on: it is in no network and in no label.
SCHEDULE = frozenset(
    {
        *("extraction_iterations", "policy_iterations", "policy_every"),
        *("skill_batch_per_task", "policy_batch_per_task", "best_share", "prompt_episodes", "prompts"),
        *("resampling", "skill_noise", "action_loss", "policy_loss", "focal_gamma", "told_tasks"),
    }
)


@register("go_skill")
@register("mh_go_skill", multi_head_decoder=True)
class GoSkill(FineTunableStoreMethod):
    """GO-Skill on a store of episodes.

    Args:
        settings: of the method; where the decoder is told the task, those of the store are added to ``told_tasks``.
        store: the training episodes; its label columns are written to. None: to act only, with ``networks``.
        training: seed and threads are used here.
        networks: trained networks to go on from (fine-tuning) or to act with; None makes new ones, whose
            normalisation is the store's. With ``settings.extraction_iterations = 0`` extraction is left out.

    Raises InputError for settings, networks and store that do not fit together.
    """

    Settings = GoSkillSettings
    settings: GoSkillSettings
    networks: GoSkillNetworks
    section = "go_skill"
    schedule = ("extraction_iterations", "policy_iterations")
    ablations = ABLATIONS
    goal_features: ClassVar[GoalFeatures | None] = None

    def __init__(
        self,
        settings: GoSkillSettings,
        store: EpisodeStore | None,
        training: TrainingSettings | None = None,
        *,
        networks: GoSkillNetworks | None = None,
    ) -> None:
        super().__init__(settings, store, training, networks=networks)
        if store is None:
            return
        known = settings.told_tasks if networks is None else networks.settings.told_tasks
        tasks = tuple(dict.fromkeys((*known, *store.tasks))) if settings.tell_task else ()
        settings = replace(settings, told_tasks=tasks)
        if networks is None:
            if settings.extraction_iterations == 0:
                raise InputError(
                    "extraction_iterations: expected a positive number without trained networks, got 0"
                )
            with seeded(self.training.seed):
                normalize = normalize_of(store)
                networks = GoSkillNetworks(settings, normalize, store.action_dim, type(self).goal_features)
        check_trained(settings, networks.settings, SCHEDULE)
        networks = networks.with_tasks(tasks)
        check_dimensions(networks, store)
        check_lengths(store, settings.horizon, settings.max_decisions)
        networks.settings = settings
        self.settings, self.store, self.networks = settings, store, networks
        self._tasks_with_episodes = len(np.unique(store.episode_task))
        self._episodes = best_share(store, settings.best_share)

    @classmethod
    def with_goal_features(cls, goal_features: GoalFeatures) -> type[GoSkill]:
        """The method with a user's representation of goals, see ``GoSkillNetworks``: pass it where a name is taken.

        Checkpoints do not hold functions: a run that was trained with one is evaluated with the same.
        """
        hook = goal_features if isinstance(goal_features, nn.Module) else staticmethod(goal_features)
        return type(cls.__name__, (cls,), {"goal_features": hook, "__module__": cls.__module__})

    @classmethod
    def restore(cls, settings: GoSkillSettings, networks: Networks) -> GoSkill:
        """A trained method, to act, to label and to fine-tune."""
        return cls(settings, None, networks=networks_from_state(settings, networks, cls.goal_features))

    @classmethod
    def fine_tuned_settings(cls, settings: GoSkillSettings, iterations: int) -> GoSkillSettings:
        """No extraction; policy and decoder for ``iterations``."""
        return replace(settings, extraction_iterations=0, policy_iterations=iterations)

    def policy(self, precision: str = "float32") -> GoSkillPolicy:
        """Acts with the most probable skill."""
        return GoSkillPolicy(self.networks, precision=precision)

    @property
    def discrete_skills(self) -> bool:
        """Whether there is a codebook."""
        return bool(self.settings.discrete)

    def label(self, store: EpisodeStore, progress: Callable[[int, int], None] | None = None) -> str:
        """Write the skill of each step of ``store`` as a column; returns its name."""
        return label_store(self.networks, store, progress=progress)

    def oracle(self) -> OraclePolicy:
        """Carries out the skills of demonstrations."""
        return OraclePolicy(self.networks)

    def predict_skills(self, store: EpisodeStore, labels: str, samples: int, seed: int) -> SkillPredictions:
        """See :func:`goskill.methods.go_skill.diagnosis.predict_skills`."""
        return predict_skills(self.networks, store, labels, samples, seed)

    def predict_actions(self, store: EpisodeStore, samples: int, seed: int) -> ActionPredictions:
        """See :func:`goskill.methods.go_skill.diagnosis.predict_actions`."""
        return predict_actions(self.networks, store, samples, seed)

    def phases(self) -> Sequence[Phase]:
        extraction = Phase(
            "extraction",
            self.settings.extraction_iterations,
            self._begin_extraction,
            "learns encoder, codebook and decoder on windows of all tasks",
        )
        phases = [
            Phase("labelling", 0, self._begin_labelling, "finds the skill of every step"),
            Phase(
                "policy",
                self.settings.policy_iterations,
                self._begin_policy,
                "learns the skill policy, and enhances the decoder on windows of all skills",
            ),
        ]
        return [extraction, *phases] if self.settings.extraction_iterations else phases

    def _begin_extraction(self) -> Sequence[Objective]:
        self._freeze_abstraction(False)
        if self.settings.discrete:
            self.store.check_labels_writable()
        sampler = self._segments("task", None, EXTRACTION_STREAM)
        if self.networks.codebook is not None:
            self._initialize_codebook(sampler)
        return [self._skill_objective(sampler, frozen=False)]

    def _begin_labelling(self) -> Sequence[Objective]:
        if self.settings.discrete:
            self._label_store()
        return []

    def _begin_policy(self) -> Sequence[Objective]:
        self._freeze_abstraction(True)
        # The labelling phase wrote them; a run that is resumed on a copy of the store writes them again.
        labels = self._label_store() if self.settings.discrete else None
        balance = "skill" if self.settings.resampling and labels else "task"
        segments = self._segments(balance, labels if balance == "skill" else None, ENHANCEMENT_STREAM)
        loss, modules = PolicyLoss(self.networks), [self.networks.policy]
        if labels is None:
            size = 4 * self.store.num_steps * self.settings.embedding_size
            decisions = self._contexts(None, beside=size)
            vectors = ContinuousContexts(decisions, self.store, self.networks)
            policy = sampled_objective("policy", vectors, loss, modules)
        else:
            decisions = self._contexts(labels)
            policy = sampled_objective("policy", decisions, loss, modules)
        policy.every = self.settings.policy_every
        # On a GPU side by side: the policy reads the codebook, which is frozen, and not the decoder.
        return [policy, replace(self._skill_objective(segments, frozen=True), alongside=True)]

    def _label_store(self) -> str:
        return label_store(self.networks, self.store)

    def _skill_objective(self, sampler: SegmentSampler, *, frozen: bool) -> Objective:
        modules = [*self.networks.abstraction, self.networks.decoder]
        loss = SkillLoss(self.networks, frozen, self.networks.told(self.store.tasks))
        return sampled_objective("skill", sampler, loss, modules)

    def _freeze_abstraction(self, frozen: bool) -> None:
        for module in self.networks.abstraction:
            module.requires_grad_(not frozen)

    @torch.no_grad()
    def _initialize_codebook(self, sampler: Sampler) -> None:
        """k-means on the first batch, outside the step so that the step never looks at host values."""
        position = sampler.state_dict()
        batch = next(iter(sampler))
        sampler.load_state_dict(position)
        device = self.networks.normalize.mean.device
        window = self.networks.read_window(batch["observations"].to(device), batch["actions"].to(device))
        self.networks.quantize(window.embedding, frozen=True)

    def _segments(self, balance: str, labels: str | None, stream: int) -> SegmentSampler:
        return SegmentSampler(
            self.store,
            horizon=self.settings.horizon,
            batch_size=distributed.share(self.settings.skill_batch_per_task * self._tasks_with_episodes),
            balance=balance,
            labels=labels,
            episodes=self._episodes,
            **sampling(self.training, self.store, seed=self.training.seed * STREAMS + stream),
        )

    def _contexts(self, labels: str | None, beside: int = 0) -> ContextSampler:
        seed = self.training.seed * STREAMS + POLICY_STREAM
        return contexts(
            self.settings,
            self.store,
            labels,
            batch_size=distributed.share(self.settings.policy_batch_per_task * self._tasks_with_episodes),
            episodes=self._episodes,
            **sampling(self.training, self.store, seed=seed, beside=beside),
        )
