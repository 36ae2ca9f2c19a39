"""A block's branch behind its dropout, added to the residual stream, and the LayerNorm of the sum, in one pass.

The norm is that of the sum as it is stored, so that the backward pass computes it again from that. Its programs share
the rows among them and leave the sums for the parameters as one part each.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from goskill.kernels.dropout_bits import kept
from goskill.kernels.launch import on_device_of, power_of_two

ELEMENTS = 2048  # that a program holds at a time


@triton.jit
def _normalized(x, inside, eps, WIDTH: tl.constexpr):
    """Rows [N, W] with mean 0 and variance 1, and what they were multiplied by [N]."""
    centred = tl.where(inside, x - (tl.sum(x, 1) / WIDTH)[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 1) / WIDTH + eps)
    return centred * scale[:, None], scale


@triton.jit(do_not_specialize=["rows"])
def add_norm_kernel(
    residual,
    branch,
    branch_bias,
    weight,
    bias,
    seeds,
    total,
    normal,
    rows,
    dropped,
    inverse,
    eps,
    WIDTH: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BRANCH_BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BN]
    c = tl.arange(0, BLOCK_W)  # [BW]
    column = c < WIDTH
    inside = (row < rows)[:, None] & column[None, :]
    at = row[:, None] * WIDTH + c[None, :]
    x = tl.load(branch + at, inside, 0.0).to(tl.float32)  # [BN, BW]
    if BRANCH_BIAS:
        x += tl.load(branch_bias + c, column, 0.0).to(tl.float32)[None, :]
    if DROPOUT:
        stays = kept(tl.load(seeds), row, 0, dropped, BLOCK_W // 8)
        x = tl.where(stays, x * inverse, 0.0)
    if RESIDUAL:
        x += tl.load(residual + at, inside, 0.0).to(tl.float32)
    stored = tl.where(inside, x, 0.0).to(total.dtype.element_ty)
    tl.store(total + at, stored, inside)
    y, _ = _normalized(stored.to(tl.float32), inside, eps, WIDTH)
    w = tl.load(weight + c, column, 0.0).to(tl.float32)
    b = tl.load(bias + c, column, 0.0).to(tl.float32)
    tl.store(normal + at, (y * w[None, :] + b[None, :]).to(normal.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["rows"])
def add_norm_gradient_kernel(
    total,
    weight,
    seeds,
    total_gradient,
    normal_gradient,
    residual_gradient,
    branch_gradient,
    sums,
    rows,
    dropped,
    inverse,
    eps,
    WIDTH: tl.constexpr,
    RESIDUAL: tl.constexpr,
    TOTAL_GRADIENT: tl.constexpr,
    NORMAL_GRADIENT: tl.constexpr,
    DROPOUT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK_W)
    column = c < WIDTH
    w = tl.load(weight + c, column, 0.0).to(tl.float32)
    weight_sum = tl.zeros([BLOCK_W], tl.float32)
    bias_sum = tl.zeros([BLOCK_W], tl.float32)
    branch_sum = tl.zeros([BLOCK_W], tl.float32)
    if DROPOUT:
        seed = tl.load(seeds)
    for block in range(tl.cdiv(rows, BLOCK_N * tl.num_programs(0))):
        first = (program + block * tl.num_programs(0)) * BLOCK_N
        row = first + tl.arange(0, BLOCK_N)
        inside = (row < rows)[:, None] & column[None, :]
        at = row[:, None] * WIDTH + c[None, :]
        slope = tl.zeros([BLOCK_N, BLOCK_W], tl.float32)
        if NORMAL_GRADIENT:
            x = tl.load(total + at, inside, 0.0).to(tl.float32)
            y, scale = _normalized(x, inside, eps, WIDTH)
            dy = tl.load(normal_gradient + at, inside, 0.0).to(tl.float32)
            weight_sum += tl.sum(dy * y, 0)
            bias_sum += tl.sum(dy, 0)
            dy *= w[None, :]
            slope = dy - (tl.sum(dy, 1) / WIDTH)[:, None] - y * (tl.sum(dy * y, 1) / WIDTH)[:, None]
            slope *= scale[:, None]
        if TOTAL_GRADIENT:
            slope += tl.load(total_gradient + at, inside, 0.0).to(tl.float32)
        if RESIDUAL:
            tl.store(residual_gradient + at, slope.to(residual_gradient.dtype.element_ty), inside)
        if DROPOUT:
            stays = kept(seed, row, 0, dropped, BLOCK_W // 8)
            slope = tl.where(stays, slope * inverse, 0.0)
        slope = tl.where(inside, slope, 0.0)
        branch_sum += tl.sum(slope, 0)
        tl.store(branch_gradient + at, slope.to(branch_gradient.dtype.element_ty), inside)
    part = sums + program * (3 * WIDTH) + c
    tl.store(part, weight_sum, column)
    tl.store(part + WIDTH, bias_sum, column)
    tl.store(part + 2 * WIDTH, branch_sum, column)


def _options(width: int, dropped: int) -> dict[str, object]:
    block_w = power_of_two(width, 8)
    return {
        "dropped": dropped,
        "inverse": 65536 / (65536 - dropped),
        "WIDTH": width,
        "DROPOUT": dropped > 0,
        "BLOCK_N": max(1, ELEMENTS // block_w),
        "BLOCK_W": block_w,
        "num_warps": 4 if block_w <= ELEMENTS else 8,
    }


def dropout_add_norm(
    residual: Tensor | None,
    branch: Tensor,
    branch_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    seed: Tensor | None,
    dropped: int,
    eps: float,
    total: Tensor,
    normal: Tensor,
) -> None:
    """Fills ``total`` = residual + dropout(branch + branch_bias) and ``normal`` = LayerNorm(total), [N, W] each.

    Inputs are contiguous; ``dropped`` of 65536 elements are dropped, by ``seed`` int64 [1].
    """
    rows, width = branch.shape
    if rows == 0:
        return
    options = _options(width, dropped)
    with on_device_of(branch):
        add_norm_kernel[(triton.cdiv(rows, options["BLOCK_N"]),)](
            residual,
            branch,
            branch_bias,
            weight,
            bias,
            seed,
            total,
            normal,
            rows,
            eps=eps,
            RESIDUAL=residual is not None,
            BRANCH_BIAS=branch_bias is not None,
            **options,
        )


def dropout_add_norm_gradient(
    total: Tensor,
    weight: Tensor,
    seed: Tensor | None,
    dropped: int,
    eps: float,
    total_gradient: Tensor | None,
    normal_gradient: Tensor | None,
    residual_gradient: Tensor | None,
    branch_gradient: Tensor,
    sums: Tensor,
) -> None:
    """Fills the gradients [N, W] of residual and branch, and ``sums`` float32 [programs, 3, W].

    Each program's part of the sums is of the gradients of weight, bias and branch_bias.
    """
    rows, width = total.shape
    if rows == 0:
        sums.zero_()
        return
    with on_device_of(total):
        add_norm_gradient_kernel[(sums.shape[0],)](
            total,
            weight,
            seed,
            total_gradient,
            normal_gradient,
            residual_gradient,
            branch_gradient,
            sums,
            rows,
            eps=eps,
            RESIDUAL=residual_gradient is not None,
            TOTAL_GRADIENT=total_gradient is not None,
            NORMAL_GRADIENT=normal_gradient is not None,
            **_options(width, dropped),
        )
