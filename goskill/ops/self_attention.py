"""Causal self-attention with dropout of its weights and its gradient, on the CPU: one pass over the tokens in C++.

``goskill.models.attending`` has the same computation in torch's operations, for every other case.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from goskill import _core
from goskill.ops.cpu import DTYPES, address
from goskill.ops.decoding import HEAD_WIDTH_MULTIPLE

LONGEST = 512  # tokens, up to which the weights of a head stay in a core's cache


def runs_native(projected: Tensor) -> bool:
    """Whether ``dropped_attention`` takes what is projected: [B, L, 3, heads, head width]."""
    return (
        projected.device.type == "cpu"
        and projected.dtype in DTYPES
        and projected.shape[1] <= LONGEST
        and projected.shape[4] % HEAD_WIDTH_MULTIPLE == 0
    )


def random_shape(projected: Tensor) -> tuple[int, int, int, int]:
    """[B, heads, L, room] of the random numbers of ``dropped_attention``, room for at least L of them."""
    B, L, _, heads, _ = projected.shape
    return B, heads, L, _core.attention_room(L)


def dropped_attention(
    projected: Tensor, random: Tensor, dropped: int, levels: int, bias: Tensor | None = None
) -> Tensor:
    """Causal attention of tokens to one another.

    Args:
        projected: [B, L, 3, heads, head width], queries, keys and values; float32, bfloat16 or float16.
        random: int16 [B, heads, L, room], contiguous, evenly distributed numbers: [..., i, j] is of the weight that
            token i gives token j.
        dropped: of ``levels`` (2^16) numbers, the lowest so many drop their weight; the others are scaled up.
        bias: float32 [3 * heads * head width], contiguous, added to what is projected.

    Returns [B, L, heads, head width] in the type of ``projected``.
    """
    attended: Tensor = _DroppedAttention.apply(projected, random, dropped, levels, bias)  # type: ignore[no-untyped-call]
    return attended


class _DroppedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, random: Tensor, dropped: int, levels: int, bias: Tensor | None
    ) -> Tensor:
        projected = projected.contiguous()
        B, L, _, heads, D = projected.shape
        weights = torch.empty(random.shape)
        attended = projected.new_empty(B, L, heads, D)
        ctx.options = {
            "dtype": DTYPES[projected.dtype],
            "batch": B,
            "length": L,
            "heads": heads,
            "head_width": D,
            "scale": 1 / math.sqrt(D),
            "least_kept": dropped - levels // 2,
            "kept_scale": levels / (levels - dropped),
        }
        _run(projected, random, bias, weights, None, attended, ctx.options)
        ctx.save_for_backward(projected, bias, weights)
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        projected, bias, weights = ctx.saved_tensors
        result = torch.empty_like(projected)
        sums = torch.zeros(_core.SUM_PARTS, projected.shape[2:].numel())
        gradients = (gradient.contiguous(), sums)
        _run(projected, None, bias, weights, gradients, result, ctx.options)
        return result, None, None, None, None if bias is None else sums.sum(0)


def _run(
    projected: Tensor,
    random: Tensor | None,
    bias: Tensor | None,
    weights: Tensor,
    gradients: tuple[Tensor, Tensor] | None,
    out: Tensor,
    options: dict[str, Any],
) -> None:
    _core.self_attention(
        projected=projected.data_ptr(),
        random=address(random),
        bias=address(bias),
        weights=weights.data_ptr(),
        gradient=None if gradients is None else gradients[0].data_ptr(),
        sums=None if gradients is None else gradients[1].data_ptr(),
        out=out.data_ptr(),
        threads=torch.get_num_threads(),
        **options,
    )
