"""How the Prompt-DT family is trained: the whole network at once, on contexts of all tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from goskill.data import ContextSampler, EpisodeStore
from goskill.data.selection import best_share
from goskill.methods.method import Networks
from goskill.methods.prompt_dt.acting import PromptDTPolicy
from goskill.methods.prompt_dt.contexts import contexts
from goskill.methods.prompt_dt.diagnosis import predict_actions
from goskill.methods.prompt_dt.networks import PromptDTNetworks, networks_from_state
from goskill.methods.prompt_dt.settings import PromptDTSettings
from goskill.methods.registry import register
from goskill.methods.sequence.checking import check_dimensions, check_lengths, check_trained
from goskill.methods.sequence.losses import masked_mean
from goskill.methods.sequence.predictions import ActionPredictions
from goskill.methods.store_method import FineTunableStoreMethod, normalize_of
from goskill.training import Batch, Objective, Phase, TrainingSettings, distributed
from goskill.training.placement import sampled_objective, sampling
from goskill.training.randomness import seeded

# What may change when trained networks go on: it is in no network.
SCHEDULE = frozenset({"iterations", "batch_per_task", "best_share", "prompt_episodes", "prompts", "tasks"})


@register("prompt_dt")
@register("mh_prompt_dt", multi_head=True)
@register("mtdt", prompt_length=0)
@register("mh_mtdt", prompt_length=0, multi_head=True)
class PromptDT(FineTunableStoreMethod):
    """Prompt-DT or MTDT on a store of episodes.

    Args:
        settings: of the method; where tasks are told apart, those of the store are added to its ``tasks``.
        store: the training episodes. None: to act only, with ``networks``.
        training: seed and threads are used here.
        networks: trained networks to go on from (fine-tuning) or to act with; those of tasks that they do not know
            get output layers and vectors, the others keep theirs. None makes new ones, whose normalisation is the
            store's.

    Raises InputError for settings, networks and store that do not fit together.
    """

    Settings = PromptDTSettings
    settings: PromptDTSettings
    networks: PromptDTNetworks
    networks_type: ClassVar[type[PromptDTNetworks]] = PromptDTNetworks
    section = "prompt_dt"
    free: ClassVar[frozenset[str]] = SCHEDULE
    training_defaults: ClassVar[Mapping[str, int]] = MappingProxyType({"warmup_iterations": 10_000})

    def __init__(
        self,
        settings: PromptDTSettings,
        store: EpisodeStore | None,
        training: TrainingSettings | None = None,
        *,
        networks: PromptDTNetworks | None = None,
    ) -> None:
        super().__init__(settings, store, training, networks=networks)
        if store is None:
            return
        known = settings.tasks if networks is None else networks.settings.tasks
        tasks = tuple(dict.fromkeys((*known, *store.tasks))) if settings.knows_tasks else ()
        settings = replace(settings, tasks=tasks)
        with seeded(self.training.seed):
            if networks is None:
                networks = self.networks_type(settings, normalize_of(store), store.action_dim)
            else:
                check_trained(settings, networks.settings, self.free)
                networks = networks.with_tasks(tasks)
        check_dimensions(networks, store)
        check_lengths(store, 1, settings.max_decisions)
        networks.settings = settings
        self.settings, self.store, self.networks = settings, store, networks

    @classmethod
    def restore(cls, settings: PromptDTSettings, networks: Networks) -> PromptDT:
        """A trained method, to act and to fine-tune."""
        return cls(settings, None, networks=networks_from_state(settings, networks, cls.networks_type))

    def policy(self, precision: str = "float32") -> PromptDTPolicy:
        """Acts deterministically."""
        return PromptDTPolicy(self.networks, precision=precision)

    def predict_actions(self, store: EpisodeStore, samples: int, seed: int) -> ActionPredictions:
        """See :func:`goskill.methods.prompt_dt.diagnosis.predict_actions`."""
        return predict_actions(self.networks, store, samples, seed)

    def phases(self) -> Sequence[Phase]:
        return [
            Phase("policy", self.settings.iterations, self._begin, "learns actions on contexts of all tasks")
        ]

    def _begin(self) -> Sequence[Objective]:
        loss = PromptedActionLoss(self.networks, self.networks.task_index(self.store.tasks))
        return [sampled_objective("policy", self._contexts(), loss, [self.networks.policy])]

    def _contexts(self, seed: int | None = None, on_device: bool = True) -> ContextSampler:
        tasks_with_episodes = len(np.unique(self.store.episode_task))
        return contexts(
            self.settings,
            self.store,
            distributed.share(self.settings.batch_per_task * tasks_with_episodes),
            episodes=best_share(self.store, self.settings.best_share),
            **sampling(self.training, *([self.store] if on_device else []), seed=seed),
        )


class PromptedActionLoss(nn.Module):
    """Mean squared error of the actions over the steps that are not padding."""

    def __init__(self, networks: PromptDTNetworks, task_index: Tensor | None) -> None:
        """``task_index`` int64 [tasks of the store]: where the networks keep what is a task's own, if anything."""
        super().__init__()
        self.networks = networks
        self.task_index = task_index

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch of ``ContextSampler`` with horizon 1 and actions, not normalised -> loss, metrics."""
        networks = self.networks
        task = None if self.task_index is None else self.task_index.index_select(0, batch["task"])
        prompt = networks.decisions(batch, task, "prompt_") if "prompt_mask" in batch else None
        predicted = networks.policy(networks.decisions(batch, task), prompt, task)
        error = masked_mean((predicted.float() - batch["actions"]).square().mean(-1), batch["mask"])
        return error, {"action_error": error.detach()}
