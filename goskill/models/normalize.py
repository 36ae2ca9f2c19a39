"""Standardisation of observations, as a module so that a checkpoint carries its numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goskill.errors import InputError


class Normalize(nn.Module):
    """(observation - mean) / std with fixed mean and std, float [observation_dim] each.

    With a ``limit``, clipped to it in size.

    Raises InputError unless both are finite vectors of one length and std is positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, limit: float | None = None) -> None:
        super().__init__()
        self.limit = limit
        if mean.ndim != 1 or mean.shape != std.shape:
            raise InputError(
                "normalization: expected mean and std of one length, "
                f"got {tuple(mean.shape)} and {tuple(std.shape)}"
            )
        if (
            not bool(torch.isfinite(mean).all())
            or not bool((std > 0).all())
            or not bool(torch.isfinite(std).all())
        ):
            raise InputError(
                "normalization: expected a finite mean and a finite positive std, got other values"
            )
        self.register_buffer("mean", mean.float().clone())
        self.register_buffer("std", std.float().clone())

    def forward(self, observations: Tensor) -> Tensor:
        standard = (observations - self.mean) / self.std
        return standard if self.limit is None else standard.clamp(-self.limit, self.limit)
