"""The networks of HarmoDT: Prompt-DT's, with masked layers in the transformer's blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from goskill.methods.harmodt.masks import erdos_renyi_densities
from goskill.methods.harmodt.settings import HarmoDTSettings
from goskill.methods.prompt_dt.networks import PromptDTNetworks
from goskill.methods.prompt_dt.settings import PromptDTSettings
from goskill.models import Normalize
from goskill.models.masked_linear import MaskedLinear, mask_transformer, masked_layers
from goskill.training import Batch


class HarmoDTNetworks(PromptDTNetworks):
    """Prompt-DT's networks, of which the transformer sees a batch task by task (:meth:`arranged`).

    Masks are random at first, ``settings.density`` of all weights in each.
    """

    settings: HarmoDTSettings

    def __init__(self, settings: HarmoDTSettings, normalize: Normalize, action_dim: int) -> None:
        super().__init__(settings, normalize, action_dim)
        mask_transformer(self.policy.transformer, len(settings.tasks))
        layers = self.masked_layers
        shapes = [(layer.out_features, layer.in_features) for layer in layers]
        for layer, share in zip(layers, erdos_renyi_densities(shapes, settings.density), strict=True):
            layer.set_mask(torch.rand(layer.mask.shape) < share)

    @property
    def masked_layers(self) -> list[MaskedLinear]:
        """The layers of the transformer's blocks."""
        return list(masked_layers(self.policy.transformer))

    @property
    def masks(self) -> Tensor:
        """Every task's mask over all masked weights: bool [tasks, weights]."""
        return torch.cat([layer.mask.flatten(1) for layer in self.masked_layers], dim=1)

    @property
    def masked_weights(self) -> Tensor:
        """The weights that the masks are about: [weights]."""
        return torch.cat([layer.weight.detach().flatten() for layer in self.masked_layers])

    def set_masks(self, masks: Tensor) -> None:
        """Replace all masks: bool [tasks, weights]."""
        sizes = [layer.weight.numel() for layer in self.masked_layers]
        for layer, own in zip(self.masked_layers, torch.split(masks, sizes, dim=1), strict=True):
            layer.set_mask(own.view(layer.mask.shape))

    def expect(self, tasks: Tensor) -> None:
        """Batches hold these tasks from now on, an equal number of rows each: int64 [n], indices of masks."""
        for layer in self.masked_layers:
            layer.order = tasks

    @staticmethod
    def arranged(batch: Batch, tasks: int) -> Batch:
        """A batch whose rows take turns among so many tasks, task by task."""
        return {
            name: rows.view(-1, tasks, *rows.shape[1:]).transpose(0, 1).flatten(0, 1)
            for name, rows in batch.items()
        }

    def mask_of(self, task: str, layer: MaskedLinear) -> Tensor:
        """What a task keeps of a layer: bool [outputs, inputs].

        One without a mask, and without ``settings.task_identity`` every task, keeps the weights that a share
        ``settings.merge_share`` of all masks keep.
        """
        if self.settings.task_identity and task in self.settings.tasks:
            return layer.mask[self.settings.tasks.index(task)]
        return layer.mask.float().mean(0) >= self.settings.merge_share

    @torch.no_grad()
    def of_task(self, task: str) -> PromptDTNetworks:
        """Prompt-DT's networks with the weights that a task sees, on the same device."""
        names = [field.name for field in fields(PromptDTSettings)]
        values = {name: getattr(self.settings, name) for name in names}
        told_apart = self.settings.multi_head or self.settings.task_embedding > 0
        settings = PromptDTSettings(**values | ({} if told_apart else {"tasks": ()}))
        networks = PromptDTNetworks(settings, self.normalize, self.action_dim)
        self.show(task, networks)
        return networks.eval()

    @torch.no_grad()
    def show(self, task: str, networks: PromptDTNetworks) -> None:
        """Give the networks of :meth:`of_task` the weights that a task sees now."""
        state = self.policy.state_dict()
        for name, layer in self.policy.named_modules():
            if isinstance(layer, MaskedLinear):
                state[f"{name}.weight"] = layer.weight * self.mask_of(task, layer)
                del state[f"{name}.mask_bits"]
        mine = next(iter(networks.policy.state_dict().values()))
        theirs = next(iter(state.values()))
        same = mine.device == theirs.device and mine.dtype == theirs.dtype
        networks.policy.load_state_dict(state, assign=not same)

    def predict(self, batch: Mapping[str, Tensor], places: Tensor | None, tasks: Sequence[str]) -> Tensor:
        """As Prompt-DT's, task by task."""
        actions = torch.zeros_like(batch["actions"])
        for index in sorted(set(batch["task"].tolist())):
            rows = batch["task"] == index
            own = {name: values[rows] for name, values in batch.items()}
            actions[rows] = self.of_task(tasks[index]).predict(own, places, tasks)
        return actions
