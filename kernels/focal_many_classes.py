"""Focal loss of many classes on a GPU: one row per program, an online softmax over chunks of it and a second read,
which the cache serves, for the gradient."""

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
def many_classes_kernel(
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
    classes,
    gamma,
    ignore_index,
    smoothing,
    GAMMA: tl.constexpr,
    REDUCTION: tl.constexpr,
    PARTS: tl.constexpr,
    WEIGHT: tl.constexpr,
    MASK: tl.constexpr,
    SMOOTHING: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    scale = gradient_scale(
        target, weight, mask, parts, rows, classes, ignore_index, REDUCTION == 1, PARTS, WEIGHT, MASK
    )
    row = tl.program_id(0).to(tl.int64)
    y, selected, valid = targets_of(target, mask, row, row < rows, classes, ignore_index, MASK)
    logits += row * row_stride
    if GRADIENT:
        gradient += row * classes
    row_loss = 0.0
    if selected:
        top = float("-inf")
        total = 0.0
        for start in range(0, classes, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)  # [BC]
            z = tl.load(logits + c.to(tl.int64) * column_stride, c < classes, float("-inf")).to(tl.float32)
            higher = tl.maximum(top, tl.max(z, 0))
            shift = tl.where(higher == float("-inf"), 0.0, higher)
            total = total * tl.exp(top - shift) + tl.sum(tl.exp(z - shift), 0)
            top = higher
        log_total = tl.log(total)
        own_z = tl.load(logits + y * column_stride, valid, 0.0).to(tl.float32)
        own_log_p = own_z - top - log_total
        own_weight = 1.0
        if WEIGHT:
            own_weight = tl.load(weight + y, valid, 0.0).to(tl.float32)
        if SMOOTHING:
            all_loss = tl.zeros([BLOCK_C], tl.float32)
            slope_sums = tl.zeros([BLOCK_C], tl.float32)
            for start in range(0, classes, BLOCK_C):
                c = start + tl.arange(0, BLOCK_C)  # [BC]
                z = tl.load(logits + c.to(tl.int64) * column_stride, c < classes, top).to(tl.float32)
                share = tl.full([BLOCK_C], 1.0, tl.float32)
                if WEIGHT:
                    share = tl.load(weight + c, c < classes, 0.0).to(tl.float32)
                share = tl.where(c == y, share * (1 - smoothing), 0.0) + share * (smoothing / classes)
                loss, slope = class_loss(z - top - log_total, gamma, GAMMA)
                all_loss += tl.where(c < classes, share * loss, 0.0)
                slope_sums += tl.where(c < classes, share * slope, 0.0)
            row_loss = tl.sum(all_loss, 0)
            all_slopes = tl.sum(slope_sums, 0)
        else:
            loss, slope = class_loss(own_log_p, gamma, GAMMA)
            row_loss = own_weight * loss
            all_slopes = own_weight * slope
        row_loss = tl.where(valid, row_loss, float("nan"))
        if GRADIENT:
            own_miss = one_minus_exp(own_log_p)
            for start in range(0, classes, BLOCK_C):
                c = start + tl.arange(0, BLOCK_C)  # [BC]
                z = tl.load(logits + c.to(tl.int64) * column_stride, c < classes, top).to(tl.float32)
                log_p = z - top - log_total
                if SMOOTHING:
                    share = tl.full([BLOCK_C], 1.0, tl.float32)
                    if WEIGHT:
                        share = tl.load(weight + c, c < classes, 0.0).to(tl.float32)
                    share = tl.where(c == y, share * (1 - smoothing), 0.0) + share * (smoothing / classes)
                    _, slope = class_loss(log_p, gamma, GAMMA)
                    result = share * slope - tl.exp(log_p) * all_slopes
                else:
                    result = all_slopes * tl.where(c == y, own_miss, -tl.exp(log_p))
                tl.store(gradient + c, (result * scale).to(gradient.dtype.element_ty), c < classes)
    else:
        if GRADIENT:
            for start in range(0, classes, BLOCK_C):
                c = start + tl.arange(0, BLOCK_C)  # [BC]
                tl.store(gradient + c, tl.zeros([BLOCK_C], gradient.dtype.element_ty), c < classes)
    if REDUCTION == 0:
        tl.store(losses + row, row_loss)
    else:
        add_losses_of_all_programs(partial, reduced, tickets, row_loss * scale, 1024)
