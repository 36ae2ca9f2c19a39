"""What the focal loss of few and of many classes share on a GPU."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def one_minus_exp(x):
    """1 - e^x for x <= 0, without cancellation near 0."""
    p = x * (1.0 / 40320) + (1.0 / 5040)
    p = p * x + (1.0 / 720)
    p = p * x + (1.0 / 120)
    p = p * x + (1.0 / 24)
    p = p * x + (1.0 / 6)
    p = p * x + 0.5
    p = p * x + 1.0
    return tl.where(x > -0.5, -(p * x), 1.0 - tl.exp(x))


@triton.jit
def class_loss(log_p, gamma, GAMMA: tl.constexpr):
    """-(1 - p)^gamma log p and its derivative by log p. GAMMA is gamma if that is 0, 1 or 2, else -1."""
    miss = one_minus_exp(log_p)
    if GAMMA == 0:
        focus = tl.full(log_p.shape, 1.0, tl.float32)
    elif GAMMA == 1:
        focus = miss
    elif GAMMA == 2:
        focus = miss * miss
    else:
        focus = tl.where(miss > 0, tl.exp2(gamma * tl.log2(tl.maximum(miss, 1.2e-38))), 0.0)
    p = tl.exp(log_p)
    # p log p / (1 - p) tends to -1 as p tends to 1 and to 0 as p tends to 0.
    ratio = tl.where(p > 0, tl.where(miss > 0, p * log_p / tl.where(miss > 0, miss, 1.0), -1.0), 0.0)
    return -(focus * log_p), -(focus * (1.0 - gamma * ratio))


@triton.jit
def rows_weight(
    target,
    weight,
    mask,
    first,
    last,
    step,
    classes,
    ignore_index,
    WEIGHT: tl.constexpr,
    MASK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Summed weight of the selected rows in [first, last), taken in blocks ``step`` apart."""
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(first, last, step):
        row = start + tl.arange(0, BLOCK).to(tl.int64)  # [B]
        y = tl.load(target + row, row < last, ignore_index)
        selected = (row < last) & (y != ignore_index)
        if MASK:
            selected = selected & (tl.load(mask + row, row < last, 0) != 0)
        w = tl.full([BLOCK], 1.0, tl.float32)
        if WEIGHT:
            valid = selected & (y >= 0) & (y < classes)
            w = tl.load(weight + y, valid, 0.0).to(tl.float32)
        total += tl.where(selected, w, 0.0)
    return tl.sum(total, 0)


@triton.jit(do_not_specialize=["rows"])
def weight_parts_kernel(
    target,
    weight,
    mask,
    parts,
    rows,
    classes,
    ignore_index,
    WEIGHT: tl.constexpr,
    MASK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    step = tl.num_programs(0).to(tl.int64) * BLOCK
    total = rows_weight(target, weight, mask, first, rows, step, classes, ignore_index, WEIGHT, MASK, BLOCK)
    tl.store(parts + tl.program_id(0), total)


@triton.jit
def gradient_scale(
    target,
    weight,
    mask,
    parts,
    rows,
    classes,
    ignore_index,
    MEAN_OF: tl.constexpr,
    PARTS: tl.constexpr,
    WEIGHT: tl.constexpr,
    MASK: tl.constexpr,
):
    """What a row's loss and gradient are multiplied by: 1, or 1 / summed weight for the mean."""
    scale = 1.0
    if MEAN_OF:
        if PARTS > 0:
            total = tl.sum(tl.load(parts + tl.arange(0, PARTS)), 0)
        else:
            total = rows_weight(
                target, weight, mask, 0, rows, 2048, classes, ignore_index, WEIGHT, MASK, 2048
            )
        scale = tl.where(total > 0, 1.0 / tl.where(total > 0, total, 1.0), 1.0)
    return scale


@triton.jit
def add_losses_of_all_programs(partial, reduced, tickets, mine, BLOCK: tl.constexpr):
    """The last program to come here adds the partial losses of all in order."""
    programs = tl.num_programs(0)
    tl.store(partial + tl.program_id(0), mine)
    tl.debug_barrier()
    if tl.atomic_add(tickets, 1) == programs - 1:
        total = tl.zeros([BLOCK], tl.float32)
        for start in range(0, programs, BLOCK):
            at = start + tl.arange(0, BLOCK)
            # The other programs' stores must not come from a stale line of this processor's cache.
            total += tl.load(partial + at, at < programs, 0.0, cache_modifier=".cg")
        tl.store(reduced, tl.sum(total, 0))
        tl.atomic_xchg(tickets, 0)


@triton.jit
def targets_of(target, mask, row, present, classes, ignore_index, MASK: tl.constexpr):
    """Target of each row, whether the row counts, and whether its target is a class."""
    y = tl.load(target + row, present, ignore_index)
    selected = present & (y != ignore_index)
    if MASK:
        selected = selected & (tl.load(mask + row, present, 0) != 0)
    valid = (y >= 0) & (y < classes)
    tl.device_assert(valid | (selected == 0), "target out of range")
    return y, selected, valid
