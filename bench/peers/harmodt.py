"""HarmoDT's training steps the released way: a masked copy of all weights for each task, one task after the other."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from goskill.bench.peers.training import action_loss
from goskill.methods.harmodt import HarmoDTNetworks
from goskill.methods.prompt_dt import PromptDTNetworks

State = dict[str, Tensor]


class MaskedCopies:
    """A step of AdamW for each task in turn, on shared weights of which the task's mask lets some change.

    As the release: weights are copied, masked and loaded, gradients clipped and masked, and what the mask hides is put
    back after the step. Batches hold the rows of one task each; the networks are plain ones.
    """

    def __init__(self, networks: HarmoDTNetworks) -> None:
        self.networks: PromptDTNetworks = networks.of_task("")
        self.networks.train()
        policy = networks.policy
        state = {name: value for name, value in policy.state_dict().items() if not name.endswith("mask_bits")}
        self.networks.policy.load_state_dict(state)
        layers = {name: layer for name, layer in policy.named_modules() if hasattr(layer, "mask_bits")}
        self.masks = [
            {f"{name}.weight": layer.mask[task].float() for name, layer in layers.items()}
            for task in range(len(networks.settings.tasks))
        ]
        self.optimizer = torch.optim.AdamW(self.networks.policy.parameters(), 3e-4, weight_decay=1e-4)

    def losses(self, batches: list[State]) -> list[float]:
        """Every task's loss by the same weights, which stay."""
        found = []
        for masks, batch in zip(self.masks, batches, strict=True):
            original = self._mask(masks)
            found.append(action_loss(self.networks, batch).item())
            self.networks.policy.load_state_dict(original)
        return found

    def run(self, batches: list[State]) -> None:
        """A step of each task."""
        for masks, batch in zip(self.masks, batches, strict=True):
            self._step(masks, batch)

    def _step(self, masks: State, batch: State) -> None:
        policy = self.networks.policy
        original = self._mask(masks)
        loss = action_loss(self.networks, batch)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.25)
        for name, parameter in policy.named_parameters():
            if name in masks and parameter.grad is not None:
                parameter.grad = parameter.grad * masks[name]
        self.optimizer.step()
        current = policy.state_dict()
        for name, mask in masks.items():
            current[name] = current[name] * mask + original[name] * (1 - mask)
        policy.load_state_dict(current)
        loss.item()

    def _mask(self, masks: State) -> State:
        """Load weights that are masked; returns a copy of what they were."""
        policy = self.networks.policy
        original, masked = copy.deepcopy(policy.state_dict()), copy.deepcopy(policy.state_dict())
        for name, mask in masks.items():
            masked[name] = masked[name] * mask
        policy.load_state_dict(masked)
        return original
