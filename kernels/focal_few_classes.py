"""Focal loss of few classes on a GPU: many rows per program, a whole row on chip."""

from __future__ import annotations

import triton
import triton.language as tl

from goskill.kernels.focal_parts import (
    add_losses_of_all_programs,
    class_loss,
    gradient_scale,
    one_minus_exp,
    targets_of,
)


@triton.jit(do_not_specialize=["rows"])
def few_classes_kernel(
    logits,
    target,
    weight,
    mask,
    parts,
    losses,
    partial,
    reduced,
    tickets,
    gradient,
    rows,
    row_stride,
    column_stride,
    gamma,
    ignore_index,
    smoothing,
    classes: tl.constexpr,
    GAMMA: tl.constexpr,
    REDUCTION: tl.constexpr,
    PARTS: tl.constexpr,
    WEIGHT: tl.constexpr,
    MASK: tl.constexpr,
    SMOOTHING: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    scale = gradient_scale(
        target, weight, mask, parts, rows, classes, ignore_index, REDUCTION == 1, PARTS, WEIGHT, MASK
    )
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BN]
    c = tl.arange(0, BLOCK_C)  # [BC]
    y, selected, valid = targets_of(target, mask, row, row < rows, classes, ignore_index, MASK)
    inside = selected[:, None] & (c < classes)[None, :]
    z_at = row[:, None] * row_stride + c.to(tl.int64)[None, :] * column_stride
    z = tl.load(logits + z_at, inside, float("-inf")).to(tl.float32)  # [BN, BC]
    z = tl.where(selected[:, None] | (c > 0)[None, :], z, 0.0)
    top = tl.max(z, 1)
    log_p = z - top[:, None]
    log_p -= tl.log(tl.sum(tl.exp(log_p), 1))[:, None]
    # Classes that do not exist and rows that do not count stay out of every product.
    log_p = tl.where(inside, log_p, -1.0)
    w = tl.full([BLOCK_C], 1.0, tl.float32)
    if WEIGHT:
        w = tl.load(weight + c, c < classes, 0.0).to(tl.float32)
    own = (c[None, :] == y[:, None]) & inside
    if SMOOTHING:
        share = tl.where(own, w[None, :] * (1 - smoothing), 0.0) + tl.where(
            inside, w[None, :] * (smoothing / classes), 0.0
        )
        loss, slope = class_loss(log_p, gamma, GAMMA)
        row_loss = tl.sum(share * loss, 1)
        slopes = share * slope  # [BN, BC]
        all_slopes = tl.sum(slopes, 1)
        result = slopes - tl.exp(log_p) * all_slopes[:, None]
    else:
        own_log_p = tl.sum(tl.where(own, log_p, 0.0), 1)  # [BN]
        own_weight = tl.sum(tl.where(own, w[None, :], 0.0), 1)
        loss, slope = class_loss(own_log_p, gamma, GAMMA)
        row_loss = own_weight * loss
        all_slopes = own_weight * slope
        result = all_slopes[:, None] * tl.where(own, one_minus_exp(own_log_p)[:, None], -tl.exp(log_p))
    row_loss = tl.where(selected, tl.where(valid, row_loss, float("nan")), 0.0)
    if GRADIENT:
        result = tl.where(inside, result * scale, 0.0).to(gradient.dtype.element_ty)
        tl.store(
            gradient + row[:, None] * classes + c[None, :],
            result,
            (row < rows)[:, None] & (c < classes)[None, :],
        )
    if REDUCTION == 0:
        tl.store(losses + row, row_loss, row < rows)
    else:
        add_losses_of_all_programs(partial, reduced, tickets, tl.sum(row_loss, 0) * scale, 1024)
