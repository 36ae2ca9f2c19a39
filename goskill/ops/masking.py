"""Weights that several tasks share under masks of their own, on the CPU in C++.

All tensors are contiguous and on the CPU. Masks are bool [any, ...]; int64 ``order`` [T] says whose a task has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from goskill import _core
from goskill.ops.cpu import DTYPES


def mask_weights(weights: Tensor, masks: Tensor, order: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """float32 [...] -> [T, ...] in ``dtype``, zero where a task's mask is False."""
    out = weights.new_empty(len(order), *weights.shape, dtype=dtype)
    weights, masks = weights.contiguous(), masks.contiguous()
    _core.mask_weights(
        weights=weights.data_ptr(),
        masks=masks.data_ptr(),
        order=order.data_ptr(),
        tasks=len(order),
        size=weights.numel(),
        dtype=DTYPES[dtype],
        out=out.data_ptr(),
        threads=torch.get_num_threads(),
    )
    return out


def sum_masked(gradients: Tensor, masks: Tensor, order: Tensor) -> Tensor:
    """float32, bfloat16 or float16 [T, ...] -> float32 [...], the sum over tasks of what their masks keep."""
    out = gradients.new_empty(gradients.shape[1:], dtype=torch.float32)
    _core.sum_masked(
        gradients=gradients.data_ptr(),
        masks=masks.data_ptr(),
        order=order.data_ptr(),
        tasks=len(order),
        size=out.numel(),
        dtype=DTYPES[gradients.dtype],
        out=out.data_ptr(),
        threads=torch.get_num_threads(),
    )
    return out
