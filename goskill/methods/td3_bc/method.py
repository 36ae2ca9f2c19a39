"""How offline actor-critic is trained: critics at every iteration, the actor through them at every second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from goskill.data import EpisodeStore, TransitionSampler
from goskill.data.selection import best_share
from goskill.errors import InputError
from goskill.methods.feedforward import FeedForwardPolicy
from goskill.methods.method import Method, Networks, Sources
from goskill.methods.registry import register
from goskill.methods.sequence.checking import check_dimensions
from goskill.methods.td3_bc.losses import TD3BCActorLoss, TD3CriticLoss
from goskill.methods.td3_bc.networks import TD3BCNetworks, networks_from_state
from goskill.methods.td3_bc.settings import TD3BCSettings
from goskill.methods.td3_bc.surgery import with_surgery
from goskill.models import Normalize
from goskill.training import Objective, OptimizerSettings, Phase, TrainingSettings, distributed
from goskill.training.placement import placement, sampled_objective

NAMES = {(False, "mlp"): "TD3+BC", (True, "mlp"): "PCGrad", (False, "soft_modules"): "SoftMod"}


@register("td3_bc")
@register("pcgrad", gradient_surgery=True)
@register("soft_modularization", network="soft_modules")
class TD3BC(Method):
    """TD3+BC on the transitions of a store, told the task.

    Args:
        settings: of the method; the store's tasks are added to its ``tasks``.
        store: the training episodes. None: to act only, with ``networks``.
        training: seed, threads and where the data lies are used here.
        networks: trained networks to act with.

    Raises InputError for settings and a store that do not fit together, and for a store that does not say where
    episodes end unless ``settings.ends`` is "never".
    """

    Settings = TD3BCSettings
    section = "td3_bc"

    def __init__(
        self,
        settings: TD3BCSettings,
        store: EpisodeStore | None,
        training: TrainingSettings | None = None,
        *,
        networks: TD3BCNetworks | None = None,
    ) -> None:
        self.training = training or TrainingSettings()
        if networks is not None:
            self.settings, self.networks = settings, networks
            return
        if store is None:
            raise InputError("store: expected one to learn from without trained networks, got None")
        if settings.task_identity:
            settings = replace(settings, tasks=tuple(dict.fromkeys((*settings.tasks, *store.tasks))))
        normalization = store.normalization()
        normalize = Normalize(torch.as_tensor(normalization.mean), torch.as_tensor(normalization.std))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            self.networks = TD3BCNetworks(settings, normalize, store.action_dim)
        check_dimensions(self.networks, store)
        self.settings, self.store = settings, store
        self._tasks = len(np.unique(store.episode_task))
        self._sampler({})  # refuses what does not fit before anything is written

    @classmethod
    def create(cls, settings: TD3BCSettings, sources: Sources, training: TrainingSettings) -> TD3BC:
        """A new method to train on a store."""
        return cls(settings, sources.episodes(), training)

    @classmethod
    def restore(cls, settings: TD3BCSettings, networks: Networks) -> TD3BC:
        """A trained method, to act."""
        return cls(settings, None, networks=networks_from_state(settings, networks))

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return self.networks.parts

    def policy(self, precision: str = "float32") -> FeedForwardPolicy:
        """Acts deterministically."""
        name = NAMES.get((self.settings.gradient_surgery, self.settings.network), "TD3+BC")
        return FeedForwardPolicy(self.networks, name, precision=precision)

    def phases(self) -> Sequence[Phase]:
        about = "learns values of transitions, and actions that are valued and near the data's"
        return [Phase("learning", self.settings.iterations, self._begin, about)]

    def _begin(self) -> Sequence[Objective]:
        networks, settings = self.networks, self.settings
        transitions = self._sampler(placement(self.training, self.store))
        index = networks.task_index(self.store.tasks)
        critic: nn.Module = TD3CriticLoss(networks, index)
        actor: nn.Module = TD3BCActorLoss(networks, index)
        if settings.gradient_surgery:
            critic = with_surgery(critic, ["networks.critic"], self._tasks)
            actor = with_surgery(actor, ["networks.actor"], self._tasks)
        adam = OptimizerSettings(settings.learning_rate, "adam")
        return [
            sampled_objective("critic", transitions, critic, [networks.critic], optimizer=adam),
            Objective(
                "actor",
                "critic",
                actor,
                [networks.actor],
                every=settings.policy_every,
                optimizer=adam,
                after=networks.update_targets,
            ),
        ]

    def _sampler(self, place: Mapping[str, Any]) -> TransitionSampler:
        settings = self.settings
        share = distributed.share(settings.batch_size)
        size: dict[str, Any] = {"batch_size": share}
        if settings.gradient_surgery:
            if share % self._tasks:
                raise InputError(f"batch_size: expected a multiple of the {self._tasks} tasks, got {share}")
            size = {"samples_per_task": share // self._tasks}
        return TransitionSampler(
            self.store,
            **size,
            gamma=settings.discount,
            balance="task",
            terminated=settings.ends,
            episodes=best_share(self.store, settings.best_share),
            seed=self.training.seed,
            threads=self.training.threads or 1,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            **place,
        )
