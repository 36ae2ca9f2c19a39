"""How the Prompt-DT family is trained: the whole network at once, on contexts of all tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from goskill.data import ContextSampler, EpisodeStore
from goskill.methods.prompt_dt.contexts import contexts
from goskill.methods.prompt_dt.networks import PromptDTNetworks
from goskill.methods.prompt_dt.settings import PromptDTSettings
from goskill.methods.sequence.checking import check_dimensions, check_lengths, check_trained
from goskill.methods.sequence.losses import masked_mean
from goskill.models import Normalize
from goskill.training import Batch, Objective, Phase, TrainingSettings, distributed
from goskill.training.placement import residence, sampled_objective

# What may change when trained networks go on: it is in no network.
SCHEDULE = frozenset({"iterations", "batch_per_task", "prompt_episodes", "tasks"})


class PromptDT:
    """Prompt-DT or MTDT on a store of episodes, as a ``goskill.training.Method``.

    Args:
        settings: of the method; where tasks are told apart, those of the store are added to its ``tasks``.
        store: the training episodes.
        training: seed and threads are used here.
        networks: trained networks to go on from (fine-tuning); those of tasks that they do not know get output
            layers and vectors, the others keep theirs. None makes new ones, whose normalisation is the store's.

    Raises InputError for settings, networks and store that do not fit together.
    """

    name = "prompt_dt"

    def __init__(
        self,
        settings: PromptDTSettings,
        store: EpisodeStore,
        training: TrainingSettings,
        *,
        networks: PromptDTNetworks | None = None,
    ) -> None:
        known = settings.tasks if networks is None else networks.settings.tasks
        tasks = tuple(dict.fromkeys((*known, *store.tasks))) if settings.knows_tasks else ()
        settings = replace(settings, tasks=tasks)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            if networks is None:
                normalization = store.normalization()
                mean, std = torch.as_tensor(normalization.mean), torch.as_tensor(normalization.std)
                networks = PromptDTNetworks(settings, Normalize(mean, std), store.action_dim)
            else:
                check_trained(settings, networks.settings, SCHEDULE)
                networks = networks.with_tasks(tasks)
        check_dimensions(networks, store)
        check_lengths(store, 1, settings.max_decisions)
        networks.settings = settings
        self.settings = settings
        self.store = store
        self.training = training
        self.networks = networks

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return self.networks.parts

    def phases(self) -> Sequence[Phase]:
        return [
            Phase("policy", self.settings.iterations, self._begin, "learns actions on contexts of all tasks")
        ]

    def _begin(self) -> Sequence[Objective]:
        loss = ActionLoss(self.networks, self.networks.task_index(self.store.tasks))
        return [sampled_objective("policy", self._contexts(), loss, [self.networks.policy])]

    def _contexts(self) -> ContextSampler:
        tasks_with_episodes = len(np.unique(self.store.episode_task))
        return contexts(
            self.settings,
            self.store,
            distributed.share(self.settings.batch_per_task * tasks_with_episodes),
            self.training.seed,
            threads=self.training.threads or 1,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            **residence(self.training, self.store),
        )


class ActionLoss(nn.Module):
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
