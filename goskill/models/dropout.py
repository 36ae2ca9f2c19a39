"""Dropout that is not slowed by drawing random numbers on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 1 << 16  # a random number of 16 bits per element is four times cheaper than a Bernoulli draw


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zero elements with ``probability`` (on a CPU rounded to 2^-16) and scale up the others; same shape.

    Random numbers come from the device's default generator.
    """
    if probability == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, probability)
    return x * _noise(x.shape, probability, x.dtype)


def random_levels(count: int) -> Tensor:
    """So many random numbers, evenly over ``LEVELS``: int16 [count] on the CPU."""
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    return words.view(torch.int16)[:count]


def _noise(shape: torch.Size, probability: float, dtype: torch.dtype) -> Tensor:
    """Zeros with ``probability`` and 1 / (1 - probability) elsewhere."""
    dropped = round(probability * LEVELS)
    noise = torch.empty(shape, dtype=dtype)
    torch.ge(random_levels(shape.numel()).view(shape), dropped - LEVELS // 2, out=noise)
    return noise.mul_(LEVELS / (LEVELS - dropped))
