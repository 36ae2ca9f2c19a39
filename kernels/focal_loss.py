"""Focal loss on a GPU: the gradient by the logits is computed in the forward pass, into a buffer of its own.

Few classes: many rows per program, a whole row on chip. Many classes: one row per program, an online softmax
over chunks and a second read, which the cache serves, for the gradient. The last program of a launch adds the
losses of all, in order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from goskill.kernels.launch import on_device_of, power_of_two, ticket
from torch import Tensor

NONE, MEAN, SUM = 0, 1, 2
FEW_CLASSES = 1024
COUNT_IN_PLACE = 16_384  # up to so many rows every program of few classes sums the weights itself
WEIGHT_PARTS = 256


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
        focus = tl.where(miss > 0, tl.exp2(gamma * tl.log2(tl.maximum(miss, 1.0e-38))), 0.0)
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
    y = tl.load(target + row, row < rows, ignore_index)
    selected = (row < rows) & (y != ignore_index)
    if MASK:
        selected = selected & (tl.load(mask + row, row < rows, 0) != 0)
    valid = (y >= 0) & (y < classes)
    tl.device_assert(valid | (selected == 0), "target out of range")
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


@triton.jit
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
        target, weight, mask, parts, 0, classes, ignore_index, REDUCTION == 1, PARTS, WEIGHT, MASK
    )
    row = tl.program_id(0).to(tl.int64)
    y = tl.load(target + row)
    selected = y != ignore_index
    if MASK:
        selected = selected & (tl.load(mask + row) != 0)
    valid = (y >= 0) & (y < classes)
    tl.device_assert(valid | (selected == 0), "target out of range")
    logits += row * row_stride
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


@triton.jit(do_not_specialize=["rows"])
def scale_rows_kernel(
    rows_in,
    factor,
    out,
    rows,
    columns,
    factor_stride,
    IN_PLACE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BN]
    scale = tl.load(factor + row * factor_stride, row < rows, 1.0).to(tl.float32)
    # Multiplying by 1 in place is no work: most losses are differentiated with a factor of 1.
    if not IN_PLACE or tl.max(tl.abs(scale - 1.0), 0) != 0.0:
        for start in range(0, columns, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)  # [BC]
            inside = (row < rows)[:, None] & (c < columns)[None, :]
            at = row[:, None] * columns + c[None, :]
            value = tl.load(rows_in + at, inside, 0.0).to(tl.float32)
            tl.store(out + at, (value * scale[:, None]).to(out.dtype.element_ty), inside)


def focal_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    gamma: float,
    ignore_index: int,
    label_smoothing: float,
    reduction: int,
    loss: Tensor,
    gradient: Tensor | None,
) -> None:
    """Fills ``loss`` float32, [N] for NONE, else [], and ``gradient`` [N, C] for logits [N, C], target [N].

    A target out of range gives a NaN loss, or stops the device if kernels are compiled with TRITON_DEBUG=1.
    """
    rows, classes = logits.shape
    if rows == 0:
        if reduction != NONE:
            loss.zero_()
        return
    few = classes <= FEW_CLASSES
    options = {
        "GAMMA": int(gamma) if gamma in (0.0, 1.0, 2.0) else -1,
        "REDUCTION": reduction,
        "WEIGHT": weight is not None,
        "MASK": mask is not None,
        "SMOOTHING": label_smoothing > 0,
        "GRADIENT": gradient is not None,
    }
    counted_in_place = reduction != MEAN or (few and rows <= COUNT_IN_PLACE)
    block_c = power_of_two(classes, 2) if few else 4096
    block_n = min(128, max(1, 4096 // block_c)) if few else 1
    programs = triton.cdiv(rows, block_n)
    partial = logits.new_empty(0 if reduction == NONE else programs, dtype=torch.float32)
    tickets = None if reduction == NONE else ticket(logits)
    with on_device_of(logits):
        parts = None
        if not counted_in_place:
            parts = logits.new_empty(WEIGHT_PARTS, dtype=torch.float32)
            weight_parts_kernel[(WEIGHT_PARTS,)](
                target,
                weight,
                mask,
                parts,
                rows,
                classes,
                ignore_index,
                WEIGHT=weight is not None,
                MASK=mask is not None,
                BLOCK=1024,
            )
        options["PARTS"] = 0 if counted_in_place else WEIGHT_PARTS
        if few:
            few_classes_kernel[(programs,)](
                logits,
                target,
                weight,
                mask,
                parts,
                loss,
                partial,
                loss,
                tickets,
                gradient,
                rows,
                logits.stride(0),
                logits.stride(1),
                float(gamma),
                ignore_index,
                float(label_smoothing),
                classes,
                BLOCK_N=block_n,
                BLOCK_C=block_c,
                num_warps=4,
                **options,
            )
        else:
            many_classes_kernel[(programs,)](
                logits,
                target,
                weight,
                mask,
                parts,
                loss,
                partial,
                loss,
                tickets,
                gradient,
                logits.stride(0),
                logits.stride(1),
                classes,
                float(gamma),
                ignore_index,
                float(label_smoothing),
                BLOCK_C=block_c,
                num_warps=16,
                **options,
            )


def scale_rows(rows: Tensor, factor: Tensor, out: Tensor) -> None:
    """out = rows * factor for contiguous rows [N, C] and a factor [] or [N]; ``out`` may be ``rows``."""
    count, columns = rows.shape
    if count == 0:
        return
    block_c = min(power_of_two(columns), 4096)
    block_n = min(128, max(1, 4096 // block_c))
    with on_device_of(rows):
        scale_rows_kernel[(triton.cdiv(count, block_n),)](
            rows,
            factor,
            out,
            count,
            columns,
            factor.stride(0) if factor.ndim else 0,
            IN_PLACE=out.data_ptr() == rows.data_ptr(),
            BLOCK_N=block_n,
            BLOCK_C=block_c,
            num_warps=8,
        )
