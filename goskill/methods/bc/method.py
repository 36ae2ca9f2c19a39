"""How behaviour cloning is trained: squared error of the actions, on the best episodes of all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from goskill.data import EpisodeStore, SegmentSampler
from goskill.data.selection import best_share
from goskill.methods.bc.networks import BCNetworks, networks_from_state
from goskill.methods.bc.settings import BCSettings
from goskill.methods.feedforward import FeedForwardPolicy
from goskill.methods.method import Networks
from goskill.methods.registry import register
from goskill.methods.sequence.checking import check_dimensions, check_trained
from goskill.methods.sequence.losses import masked_mean
from goskill.methods.sequence.predictions import BATCH, ActionPredictions, as_array, batches
from goskill.methods.store_method import FineTunableStoreMethod, normalize_of
from goskill.training import Batch, Objective, Phase, TrainingSettings, distributed
from goskill.training.placement import sampled_objective, sampling
from goskill.training.randomness import seeded

# What may change when trained networks go on: it is in no network.
SCHEDULE = frozenset({"iterations", "batch_size", "best_share", "prompt_episodes", "tasks"})


@register("bc")
class BehaviourCloning(FineTunableStoreMethod):
    """Percent-BC on a store of episodes.

    Args:
        settings: of the method; where the network is told the task, those of the store are added to its ``tasks``.
        store: the training episodes. None: to act only, with ``networks``.
        training: seed and threads are used here.
        networks: trained networks to go on from (fine-tuning) or to act with. None makes new ones, whose
            normalisation is that of all the store's episodes.

    Raises InputError for settings, networks and store that do not fit together.
    """

    Settings = BCSettings
    settings: BCSettings
    networks: BCNetworks

    def __init__(
        self,
        settings: BCSettings,
        store: EpisodeStore | None,
        training: TrainingSettings | None = None,
        *,
        networks: BCNetworks | None = None,
    ) -> None:
        super().__init__(settings, store, training, networks=networks)
        if store is None:
            return
        known = settings.tasks if networks is None else networks.settings.tasks
        tasks = tuple(dict.fromkeys((*known, *store.tasks))) if settings.task_identity else ()
        settings = replace(settings, tasks=tasks)
        if networks is None:
            with seeded(self.training.seed):
                networks = BCNetworks(settings, normalize_of(store), store.action_dim)
        else:
            check_trained(settings, networks.settings, SCHEDULE)
            networks = networks.with_tasks(tasks)
        check_dimensions(networks, store)
        networks.settings = settings
        self.settings, self.store, self.networks = settings, store, networks

    @classmethod
    def restore(cls, settings: BCSettings, networks: Networks) -> BehaviourCloning:
        """A trained method, to act and to fine-tune."""
        return cls(settings, None, networks=networks_from_state(settings, networks))

    def policy(self, precision: str = "float32") -> FeedForwardPolicy:
        """Acts deterministically."""
        share = self.settings.best_share
        name = "BC" if share == 1 else f"{100 * share:g}%-BC"
        return FeedForwardPolicy(self.networks, name, precision=precision)

    @torch.inference_mode()
    def predict_actions(self, store: EpisodeStore, samples: int, seed: int) -> ActionPredictions:
        """Actions at ``samples`` steps of all episodes, the same number from each task.

        Raises InputError for a store of other observations or actions than the networks', and for tasks that they
        would have to know and do not.
        """
        check_dimensions(self.networks, store)
        networks = self.networks.eval()
        places = networks.task_index(store.tasks)
        sampler = SegmentSampler(store, horizon=1, batch_size=min(BATCH, samples), seed=seed)
        parts = []
        for batch, rows in batches(sampler, networks.normalize.mean.device, samples):
            task = None if places is None else places[batch["task"]]
            actions = networks(batch["observations"][:, 0], task)
            of_task = batch["task"].cpu().numpy()[:rows]
            parts.append(
                ActionPredictions(
                    as_array(actions)[:rows],
                    as_array(batch["actions"][:, 0])[:rows],
                    of_task,
                    np.zeros_like(of_task),
                    None,
                )
            )
        return ActionPredictions.join(parts)

    def phases(self) -> Sequence[Phase]:
        about = "learns the actions of the best episodes of all tasks"
        return [Phase("policy", self.settings.iterations, self._begin, about)]

    def _begin(self) -> Sequence[Objective]:
        loss = ActionLoss(self.networks, self.networks.task_index(self.store.tasks))
        return [sampled_objective("policy", self._steps(), loss, [self.networks.policy])]

    def _steps(self) -> SegmentSampler:
        return SegmentSampler(
            self.store,
            horizon=1,
            batch_size=distributed.share(self.settings.batch_size),
            episodes=best_share(self.store, self.settings.best_share),
            **sampling(self.training, self.store),
        )


class ActionLoss(nn.Module):
    """Mean squared error of the actions."""

    def __init__(self, networks: BCNetworks, task_index: Tensor | None) -> None:
        """``task_index`` int64 [tasks of the store]: where the network is told each of them, if it is."""
        super().__init__()
        self.networks = networks
        self.task_index = task_index

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch of ``SegmentSampler`` with horizon 1, not normalised -> loss, metrics."""
        task = None if self.task_index is None else self.task_index.index_select(0, batch["task"])
        predicted = self.networks(batch["observations"][:, 0], task)
        error = (predicted.float() - batch["actions"][:, 0]).square().mean(-1)
        loss = masked_mean(error, batch["mask"][:, 0])
        return loss, {"action_error": loss.detach()}
