"""How HarmoDT is trained: all tasks in one pass, each under its mask, which is updated every few hundred iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from goskill.errors import InputError
from goskill.methods.harmodt.acting import HarmoDTPolicy
from goskill.methods.harmodt.masks import changes_at, exchanged
from goskill.methods.harmodt.networks import HarmoDTNetworks
from goskill.methods.harmodt.settings import HarmoDTSettings
from goskill.methods.prompt_dt.method import SCHEDULE, PromptDT
from goskill.methods.registry import register
from goskill.training import Batch, Objective, Phase, Stateful, distributed
from goskill.training.placement import sampled_objective

MASK_SCHEDULE = SCHEDULE | {"mask_every", "mask_changes", "task_identity", "merge_share"}


@register("harmodt")
class HarmoDT(PromptDT):
    """HarmoDT on a store of episodes. Arguments are those of ``PromptDT``; tasks that trained networks do not know
    get masks that are random.
    """

    Settings = HarmoDTSettings
    networks_type = HarmoDTNetworks
    section = "harmodt"
    free = MASK_SCHEDULE
    settings: HarmoDTSettings
    networks: HarmoDTNetworks

    def __init__(self, settings: HarmoDTSettings, store: Any, training: Any = None, **options: Any) -> None:
        super().__init__(settings, store, training, **options)
        if store is None:
            return
        self._tasks = len(np.unique(store.episode_task))
        if distributed.share(self.settings.batch_per_task * self._tasks) % self._tasks:
            raise InputError(
                f"batch_per_task: expected a multiple of the {distributed.world_size()} ranks, "
                f"got {self.settings.batch_per_task}"
            )
        # Gradients that masks are updated by come from batches of their own.
        self._mask_contexts = self._contexts(seed=self.training.seed + 1, on_device=False)

    @property
    def state(self) -> Mapping[str, Stateful]:
        return {"mask_contexts": self._mask_contexts}

    def policy(self, precision: str = "float32") -> HarmoDTPolicy:
        """Acts deterministically."""
        return HarmoDTPolicy(self.networks, precision=precision)

    def phases(self) -> Sequence[Phase]:
        about = "learns actions on contexts of all tasks, and which weights each task uses"
        return [Phase("policy", self.settings.iterations, self._begin, about, self._update_masks)]

    def _begin(self) -> Sequence[Objective]:
        loss = self._loss()
        return [sampled_objective("policy", self._contexts(), loss, [self.networks.policy])]

    def _loss(self) -> MaskedTaskLoss:
        index = self.networks.task_index(self.store.tasks)
        assert index is not None
        there = torch.as_tensor(np.unique(self.store.episode_task), device=index.device)
        self.networks.expect(index[there])
        return MaskedTaskLoss(self.networks, index, self._tasks)

    def _update_masks(self, iteration: int) -> Mapping[str, float]:
        """Exchange weights before iteration ``iteration`` if it is time to."""
        settings = self.settings
        if iteration == 0 or iteration % settings.mask_every:
            return {}
        changes = changes_at(iteration / settings.iterations, settings.mask_changes)
        if changes:
            networks, loss = self.networks, self._loss()
            device = networks.normalize.mean.device
            batch = {name: rows.to(device) for name, rows in next(iter(self._mask_contexts)).items()}
            rows = networks.masked_layers[0].order
            assert rows is not None
            masks = networks.masks
            masks[rows] = exchanged(
                masks[rows],
                distributed.average(task_gradients(networks, loss, batch)),
                networks.masked_weights,
                changes,
                agreement_weight=settings.agreement_weight,
                importance=settings.importance,
            )
            networks.set_masks(masks)
        return {"mask_changes": float(changes)}


class MaskedTaskLoss(nn.Module):
    """Mean squared error of the actions over the steps that are not padding, as Prompt-DT's."""

    def __init__(self, networks: HarmoDTNetworks, task_index: Tensor, tasks: int) -> None:
        """``task_index`` int64 [tasks of the store]: where the networks keep each; ``tasks`` in a batch."""
        super().__init__()
        self.networks = networks
        self.task_index = task_index
        self.tasks = tasks

    def errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each task's sum of squared errors over steps (mean over dimensions), and the steps: [tasks] each."""
        networks = self.networks
        batch = networks.arranged(batch, self.tasks)
        task = self.task_index.index_select(0, batch["task"])
        prompt = networks.decisions(batch, task, "prompt_") if "prompt_mask" in batch else None
        predicted = networks.policy(networks.decisions(batch, task), prompt, task)
        weight = batch["mask"].float()
        error = (predicted.float() - batch["actions"]).square().mean(-1) * weight
        return error.view(self.tasks, -1).sum(1), weight.view(self.tasks, -1).sum(1)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch of ``ContextSampler`` whose rows take turns among the tasks -> loss, metrics."""
        total, count = self.errors(batch)
        error = distributed.global_mean(total.sum(), count.sum())
        return error, {"action_error": error.detach()}


def task_gradients(networks: HarmoDTNetworks, loss: MaskedTaskLoss, batch: Batch) -> Tensor:
    """The gradient of each task's mean error by the masked weights that it sees: float32 [tasks, weights]."""
    layers = networks.masked_layers
    try:
        for layer in layers:
            mask = layer.mask if layer.order is None else layer.mask[layer.order]
            layer.task_weight = (layer.weight.detach() * mask).requires_grad_()
        total, count = loss.errors(batch)
        seen = [layer.task_weight for layer in layers if layer.task_weight is not None]
        gradients = torch.autograd.grad((total / count.clamp(min=1)).sum(), seen)
    finally:
        for layer in layers:
            layer.task_weight = None
    return torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)
