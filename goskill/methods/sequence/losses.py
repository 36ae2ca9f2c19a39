"""What losses of several methods share."""

from __future__ import annotations

from torch import Tensor

from goskill.training import distributed


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask`` of the same shape is True; 0 where it is so nowhere.

    Under torchrun it is this rank's share in the mean over all ranks (``distributed.global_mean``).
    """
    weight = mask.to(values.dtype)
    return distributed.global_mean((values * weight).sum(), weight.sum())
