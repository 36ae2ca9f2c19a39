"""The branches of a transformer's blocks: a linear layer, dropout, the sum and its LayerNorm; a linear layer and ReLU.

In training on the CPU what follows the products is a pass in C++, and the norms are of the products' type.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.models.dropout import dropout
from goskill.ops.cpu import DTYPES
from goskill.ops.random import LEVELS, random_levels
from goskill.ops.training_passes import WIDTH_MULTIPLE, bias_relu, dropped_sum


def add_branch(
    residual: Tensor, x: Tensor, linear: nn.Linear, norm: nn.LayerNorm, probability: float
) -> tuple[Tensor, Tensor]:
    """``total = residual + dropout(linear(x))`` [..., width] and its norm."""
    if residual.dtype != torch.float32 or not runs_native(x, linear, probability):
        total = residual + dropout(linear(x), probability)
        return total, norm(total)
    random = random_levels(residual.shape)
    dropped = round(probability * LEVELS)
    return dropped_sum(residual, product(x, linear), linear.bias, norm, random, dropped, LEVELS)


def activate(x: Tensor, linear: nn.Linear, probability: float) -> Tensor:
    """``relu(linear(x))`` where dropout has this probability."""
    if not runs_native(x, linear, probability):
        return F.relu(linear(x))
    return bias_relu(product(x, linear), linear.bias)


def runs_native(x: Tensor, linear: nn.Linear, probability: float) -> bool:
    """Whether a branch through ``linear`` runs in C++."""
    return (
        probability > 0
        and x.device.type == "cpu"
        and x.dtype in DTYPES
        and (type(linear) is nn.Linear or hasattr(linear, "product"))
        and linear.weight.dtype == torch.float32
        and linear.out_features % WIDTH_MULTIPLE == 0
        and not torch.compiler.is_compiling()
    )


def product(x: Tensor, linear: nn.Linear) -> Tensor:
    """What ``linear`` computes before its bias is added."""
    layer: Any = linear
    result: Tensor = F.linear(x, layer.weight) if type(layer) is nn.Linear else layer.product(x)
    return result
