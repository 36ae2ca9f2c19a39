"""Causal self-attention with dropout from packed queries, keys and values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor

import goskill.ops.philox as philox
from goskill.errors import InputError
from goskill.ops.checks import check_choice, check_device, check_floating
from goskill.ops.training_operators import check_seed, runs_triton, sum_parts

HEAD_WIDTHS = (16, 32, 64, 128)


def packed_attention(
    qkv: Tensor,
    heads: int,
    *,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    impl: Literal["auto", "reference", "triton"] = "auto",
) -> Tensor:
    """Causal attention of every token to itself and those before it.

    As ``torch.nn.functional.scaled_dot_product_attention(..., is_causal=True)``, for sequences so short that a
    GPU holds one at a time: nothing is transposed or copied before or after it. Dropped weights are drawn by
    counting from ``seed`` (:mod:`goskill.ops.philox`): alike in the backward pass, and on every device.

    Args:
        qkv: [B, L, 3 * W], queries, keys and values side by side, each of ``heads`` times a head's width;
            float32, bfloat16, float16 or float64.
        heads: divides W.
        bias: [3 * W], added to ``qkv`` first; float32 or the type of ``qkv``.
        dropout: probability to drop a weight, rounded to 1 / 65536.
        seed: int64 [1] on the device of ``qkv``, needed with dropout.
        impl: ``"auto"``, ``"reference"``, or ``"triton"`` (CUDA, heads of 16, 32, 64 or 128).

    Returns:
        [B, L, W] in the type of ``qkv``.

    Raises:
        InputError: a wrong argument.
    """
    check_choice("impl", impl, ("auto", "reference", "triton"))
    check_floating("qkv", qkv)
    if heads < 1:
        raise InputError(f"heads must be positive, got {heads}")
    if qkv.ndim != 3 or qkv.shape[2] % (3 * heads) or qkv.shape[2] == 0:
        raise InputError(f"qkv must have shape [B, L, 3 * {heads} * width], got {list(qkv.shape)}")
    if bias is not None:
        check_device("bias", bias, qkv.device)
        if bias.shape != qkv.shape[2:]:
            raise InputError(f"bias must have shape [{qkv.shape[2]}], got {list(bias.shape)}")
    dropped = check_seed(dropout, seed, qkv.device)
    fits = qkv.shape[2] // (3 * heads) in HEAD_WIDTHS
    if runs_triton(impl, qkv, fits, f"heads of width {', '.join(map(str, HEAD_WIDTHS))}"):
        differentiable: Callable[..., Tensor] = _PackedAttention.apply
        return differentiable(qkv.contiguous(), bias, seed, heads, dropped)
    return reference_packed_attention(qkv, bias, seed, heads, dropped)


def reference_packed_attention(
    qkv: Tensor, bias: Tensor | None, seed: Tensor | None, heads: int, dropped: int
) -> Tensor:
    """The same in plain PyTorch: in float64 for float64, in float32 for everything else."""
    B, L, width = qkv.shape
    exact = torch.promote_types(qkv.dtype, torch.float32)
    if bias is not None:
        qkv = (qkv.to(exact) + bias.to(exact)).to(qkv.dtype)
    parts = qkv.to(exact).view(B, L, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)
    query, key, value = parts.unbind(0)  # each [B, heads, L, head width]
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
    future = torch.ones(L, L, dtype=torch.bool, device=qkv.device).triu(1)
    weights = philox.dropout(scores.masked_fill(future, -math.inf).softmax(-1), seed, dropped)
    return (weights @ value).transpose(1, 2).reshape(B, L, width // 3).to(qkv.dtype)


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, bias: Tensor | None, seed: Tensor | None, heads: int, dropped: int
    ) -> Tensor:
        out, log_sums = torch.ops.goskill.packed_attention(qkv, bias, seed, heads, dropped)
        # A sequence of one tile needs neither: its backward pass computes them again.
        kept = (out, log_sums) if log_sums.numel() else (None, None)
        ctx.save_for_backward(qkv, bias, seed, *kept)
        ctx.options = heads, dropped
        return cast(Tensor, out)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        qkv, bias, seed, out, log_sums = ctx.saved_tensors
        result, sums = torch.ops.goskill.packed_attention_gradient(
            qkv, bias, seed, *ctx.options, out, log_sums, gradient.contiguous()
        )
        bias_gradient = None if bias is None else sum_parts(sums.flatten(0, 1)).to(bias.dtype)
        return result, bias_gradient, None, None, None
