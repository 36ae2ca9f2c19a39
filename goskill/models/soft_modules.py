"""Soft modularisation: layers of modules, and weights between them that the task and the state decide."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.models.ensemble import EnsembleLinear


class SoftModules(nn.Module):
    """``layers`` layers of ``modules`` modules; a routing network weighs what each passes to each of the next layer.

    Yang et al., NeurIPS 2020, Eq. 2 to 5: the base network reads the observation, the routing network its product with
    an embedding of the task, and the weights of a layer depend on those of the layer before.

    Args:
        members: networks side by side, such as a pair of critics.
        inputs: size of the observation (with the action, for critics).
        tasks: T; the last T inputs are the one-hot task.
        width: of each module, and of the routing network.
        layers, modules: L and M, each at least 1; with L = 1 there is nothing to route but the output.
        outputs: size of the output.
    """

    def __init__(
        self, members: int, inputs: int, tasks: int, width: int, layers: int, modules: int, outputs: int
    ) -> None:
        super().__init__()
        self.members, self.tasks, self.modules_per_layer = members, tasks, modules
        self.embed = EnsembleLinear(members, inputs, width)
        self.embed_task = EnsembleLinear(members, tasks, width)
        sizes = [width, *[width] * (layers - 1)]
        self.base = nn.ModuleList(EnsembleLinear(members * modules, size, width) for size in sizes)
        self.route = nn.ModuleList(
            EnsembleLinear(members, width, modules * modules) for _ in range(layers - 1)
        )
        self.route_back = nn.ModuleList(
            EnsembleLinear(members, modules * modules, width) for _ in range(max(layers - 2, 0))
        )
        self.route_out = EnsembleLinear(members, width, modules)
        self.head = EnsembleLinear(members, width, outputs)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Inputs [B, inputs] or [E, B, inputs], one-hot tasks [B, T] -> [E, B, outputs]."""
        E, M = self.members, self.modules_per_layer
        if x.ndim == 2:
            x = x.expand(E, *x.shape)
        B = x.shape[1]
        features = self.embed(x)
        routing = F.relu(features * self.embed_task(task.expand(E, *task.shape)))
        hidden = F.relu(features)[:, None].expand(E, M, B, -1)
        state = routing
        for layer, base in enumerate(self.base):
            out = F.relu(base(hidden.reshape(E * M, B, -1))).view(E, M, B, -1)
            if layer == len(self.base) - 1:
                break
            scores = self.route[layer](state)
            weights = scores.view(E, B, M, M).softmax(-1)  # [E, B, to, from]
            hidden = torch.einsum("ebts,esbw->etbw", weights, out)
            if layer < len(self.route_back):
                state = F.relu(self.route_back[layer](weights.flatten(2)) * routing)
        share = self.route_out(state).softmax(-1)  # [E, B, M]
        outputs: Tensor = self.head(torch.einsum("ebm,embw->ebw", share, out))
        return outputs
