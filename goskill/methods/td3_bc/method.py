"""How offline actor-critic is trained: critics at every iteration, the actor through them at every second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from goskill.data import EpisodeStore, TransitionSampler
from goskill.data.selection import best_share
from goskill.errors import InputError
from goskill.methods.feedforward import FeedForwardPolicy
from goskill.methods.method import Networks
from goskill.methods.registry import register
from goskill.methods.sequence.checking import check_dimensions
from goskill.methods.store_method import StoreMethod, normalize_of
from goskill.methods.td3_bc.losses import TD3BCActorLoss, TD3CriticLoss
from goskill.methods.td3_bc.networks import TD3BCNetworks, networks_from_state
from goskill.methods.td3_bc.settings import TD3BCSettings
from goskill.methods.td3_bc.surgery import with_surgery
from goskill.training import Objective, OptimizerSettings, Phase, TrainingSettings, distributed
from goskill.training.placement import sampled_objective, sampling
from goskill.training.randomness import seeded

NAMES = {(False, "mlp"): "TD3+BC", (True, "mlp"): "PCGrad", (False, "soft_modules"): "SoftMod"}


@register("td3_bc")
@register("pcgrad", gradient_surgery=True)
@register("soft_modularization", network="soft_modules")
class TD3BC(StoreMethod):
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
    settings: TD3BCSettings
    networks: TD3BCNetworks
    section = "td3_bc"

    def __init__(
        self,
        settings: TD3BCSettings,
        store: EpisodeStore | None,
        training: TrainingSettings | None = None,
        *,
        networks: TD3BCNetworks | None = None,
    ) -> None:
        super().__init__(settings, store, training, networks=networks)
        if store is None or networks is not None:
            return
        if settings.task_identity:
            settings = replace(settings, tasks=tuple(dict.fromkeys((*settings.tasks, *store.tasks))))
        with seeded(self.training.seed):
            self.networks = TD3BCNetworks(settings, normalize_of(store), store.action_dim)
        check_dimensions(self.networks, store)
        self.settings, self.store = settings, store
        self._tasks = len(np.unique(store.episode_task))
        self._sampler()  # refuses what does not fit before anything is written

    @classmethod
    def restore(cls, settings: TD3BCSettings, networks: Networks) -> TD3BC:
        """A trained method, to act."""
        return cls(settings, None, networks=networks_from_state(settings, networks))

    def policy(self, precision: str = "float32") -> FeedForwardPolicy:
        """Acts deterministically."""
        name = NAMES.get((self.settings.gradient_surgery, self.settings.network), "TD3+BC")
        return FeedForwardPolicy(self.networks, name, precision=precision)

    def phases(self) -> Sequence[Phase]:
        about = "learns values of transitions, and actions that are valued and near the data's"
        return [Phase("learning", self.settings.iterations, self._begin, about)]

    def _begin(self) -> Sequence[Objective]:
        networks, settings = self.networks, self.settings
        transitions = self._sampler(self.store)
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

    def _sampler(self, *stores: EpisodeStore) -> TransitionSampler:
        """Transitions; those of ``stores``, which is this one's or none, may lie on the device."""
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
            **sampling(self.training, *stores),
        )
