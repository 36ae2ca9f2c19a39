"""What a transformer that keeps keys and values does between its matrix products, on the CPU in C++.

Tokens [B, n, width] at a time, without gradients. ``goskill.models.transformer`` has the same computation in
torch's operations, for every other case.
"""

from __future__ import annotations

import torch
from torch import Tensor

from goskill import _core
from goskill.ops.cpu import DTYPES

HEAD_WIDTH_MULTIPLE = 16
KEY_MULTIPLE = 32


def cached_attention(
    projected: Tensor,
    keys: Tensor,
    values: Tensor,
    length: int,
    visible: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """Causal attention of n new tokens over ``length`` tokens, of which they are the last.

    ``projected`` [B, n, 3 * width] holds their queries, keys and values; keys and values are written into
    ``keys`` float32 [B, heads, head width, capacity rounded up to 32] and ``values`` float32
    [B, heads, capacity, head width]. ``visible`` bool [B, capacity] hides single tokens, but none from
    itself. Returns [B, n - first, width] in the dtype of ``projected``, for the tokens from ``first`` on.
    All tensors are contiguous and on the CPU; the head width is a multiple of 16.
    """
    batch, fresh, tripled = projected.shape
    _, heads, capacity, head_width = values.shape
    out = projected.new_empty(batch, fresh - first, tripled // 3)
    _core.cached_attention(
        projected=projected.data_ptr(),
        dtype=DTYPES[projected.dtype],
        batch=batch,
        fresh=fresh,
        heads=heads,
        head_width=head_width,
        keys=keys.data_ptr(),
        values=values.data_ptr(),
        capacity=capacity,
        key_stride=keys.shape[3],
        length=length,
        visible=None if visible is None else visible.data_ptr(),
        first_read=first,
        out=out.data_ptr(),
        threads=torch.get_num_threads(),
    )
    return out


def add_norm(residual: Tensor, addend: Tensor | None, norm: torch.nn.LayerNorm, dtype: torch.dtype) -> Tensor:
    """Add to ``residual`` in place, and return the sum's LayerNorm in ``dtype``.

    ``residual`` float32 [..., width], ``addend`` [..., width] in ``dtype``, or None to add nothing; both are
    contiguous and on the CPU, and the width is a multiple of 16.
    """
    width = residual.shape[-1]
    out = torch.empty(residual.shape, dtype=dtype)
    _core.add_norm(
        residual=residual.data_ptr(),
        addend=None if addend is None else addend.data_ptr(),
        weight=norm.weight.data_ptr(),
        bias=norm.bias.data_ptr(),
        epsilon=norm.eps,
        dtype=DTYPES[dtype],
        rows=residual.numel() // width,
        width=width,
        out=out.data_ptr(),
        threads=torch.get_num_threads(),
    )
    return out
