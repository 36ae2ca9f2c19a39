"""Focal loss of many classes on a GPU: one row per program, an online softmax over chunks of it and a second read,
which the cache serves, for the gradient.

Loops are pipelined, and no chunk waits for a sum over all threads. The second read goes backwards: what was read last
is still in the cache when the rows at work are together larger than it.
"""

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

LOG2E = tl.constexpr(1.4426950408889634)


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
    VECTOR: tl.constexpr,
    STAGES: tl.constexpr,
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
        # [BC / V, V]: the V numbers that a thread reads at once share a maximum and a sum of their own.
        lane = tl.arange(0, BLOCK_C // VECTOR)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
        tops = tl.full([BLOCK_C // VECTOR], -3e38, tl.float32)
        totals = tl.zeros([BLOCK_C // VECTOR], tl.float32)
        for start in tl.range(0, classes, BLOCK_C, num_stages=STAGES):
            c = start + lane
            z = tl.load(logits + c.to(tl.int64) * column_stride, c < classes, float("-inf")).to(tl.float32)
            higher = tl.maximum(tops, tl.max(z, 1))
            added = tl.sum(tl.exp2((z - higher[:, None]) * LOG2E), 1)
            totals = totals * tl.exp2((tops - higher) * LOG2E) + added
            tops = higher
        top = tl.max(tops, 0)
        total = tl.sum(totals * tl.exp2((tops - top) * LOG2E), 0)
        log_total = tl.log(total)
        own_z = tl.load(logits + y * column_stride, valid, 0.0).to(tl.float32)
        own_log_p = own_z - top - log_total
        own_weight = 1.0
        if WEIGHT:
            own_weight = tl.load(weight + y, valid, 0.0).to(tl.float32)
        if SMOOTHING:
            all_loss = tl.zeros([BLOCK_C], tl.float32)
            slope_sums = tl.zeros([BLOCK_C], tl.float32)
            for start in tl.range(0, classes, BLOCK_C, num_stages=STAGES):
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
            factor = -all_slopes * scale / total
            last = (classes - 1) // BLOCK_C * BLOCK_C
            for start in tl.range(0, classes, BLOCK_C, num_stages=STAGES):
                c = last - start + tl.arange(0, BLOCK_C)  # [BC]
                z = tl.load(logits + c.to(tl.int64) * column_stride, c < classes, top).to(tl.float32)
                if SMOOTHING:
                    share = tl.full([BLOCK_C], 1.0, tl.float32)
                    if WEIGHT:
                        share = tl.load(weight + c, c < classes, 0.0).to(tl.float32)
                    share = tl.where(c == y, share * (1 - smoothing), 0.0) + share * (smoothing / classes)
                    log_p = z - top - log_total
                    _, slope = class_loss(log_p, gamma, GAMMA)
                    result = (share * slope - tl.exp(log_p) * all_slopes) * scale
                else:
                    result = tl.exp2((z - top) * LOG2E) * factor
                result = result.to(gradient.dtype.element_ty)
                tl.store(gradient + c, result, c < classes, eviction_policy="evict_first")
            if not SMOOTHING:
                tl.debug_barrier()
                own = all_slopes * one_minus_exp(own_log_p) * scale
                tl.store(gradient + y, own.to(gradient.dtype.element_ty), valid)
    else:
        if GRADIENT:
            for start in range(0, classes, BLOCK_C):
                c = start + tl.arange(0, BLOCK_C)  # [BC]
                tl.store(gradient + c, tl.zeros([BLOCK_C], gradient.dtype.element_ty), c < classes)
    if REDUCTION == 0:
        tl.store(losses + row, row_loss)
    else:
        add_losses_of_all_programs(partial, reduced, tickets, row_loss * scale, 1024)
