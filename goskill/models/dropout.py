"""Dropout that is not slowed by drawing random numbers on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from goskill.ops.random import LEVELS, random_levels


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zero elements with ``probability`` (on a CPU rounded to 2^-16) and scale up the others; same shape.

    Random numbers come from the device's default generator.
    """
    if probability == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, probability)
    return x * _noise(x.shape, probability, x.dtype)


def _noise(shape: torch.Size, probability: float, dtype: torch.dtype) -> Tensor:
    """Zeros with ``probability`` and 1 / (1 - probability) elsewhere."""
    dropped = round(probability * LEVELS)
    noise = torch.empty(shape, dtype=dtype)
    torch.ge(random_levels(shape), dropped - LEVELS // 2, out=noise)
    return noise.mul_(LEVELS / (LEVELS - dropped))
