"""HarmoDT's training step the released way: a masked copy of all weights for each task, one task after the other."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from goskill.bench.peers.training import action_loss
from goskill.methods.harmodt import HarmoDTNetworks
from goskill.methods.prompt_dt import PromptDTNetworks


class MaskedCopies:
    """Gradients of all tasks, and one AdamW step on the shared weights (the release steps after each task).

    Batches hold the rows of one task each; the networks are plain ones, whose weights are masked and put back.
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

    def losses(self, batches: list[dict[str, Tensor]]) -> list[float]:
        """Forward and backward of every task; gradients add up."""
        policy, found = self.networks.policy, []
        for masks, batch in zip(self.masks, batches, strict=True):
            original = copy.deepcopy(policy.state_dict())
            masked = {
                name: value * masks[name] if name in masks else value for name, value in original.items()
            }
            policy.load_state_dict(masked)
            before = {name: parameter.grad for name, parameter in policy.named_parameters()}
            for parameter in policy.parameters():
                parameter.grad = None
            loss = action_loss(self.networks, batch) / len(batches)
            loss.backward()
            found.append(loss.item() * len(batches))
            for name, parameter in policy.named_parameters():
                assert parameter.grad is not None
                if name in masks:
                    parameter.grad *= masks[name]
                past: Any = before[name]
                if past is not None:
                    parameter.grad += past
            policy.load_state_dict(original)
        return found

    def run(self, batches: list[dict[str, Tensor]]) -> None:
        self.optimizer.zero_grad()
        self.losses(batches)
        torch.nn.utils.clip_grad_norm_(self.networks.policy.parameters(), 1.0)
        self.optimizer.step()
