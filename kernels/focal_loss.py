"""Focal loss on a GPU: the gradient by the logits is computed in the forward pass, into a buffer of its own.

The last program of a launch adds the losses of all, in order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from goskill.kernels.focal_few_classes import few_classes_kernel
from goskill.kernels.focal_many_classes import many_classes_kernel
from goskill.kernels.focal_parts import weight_parts_kernel
from goskill.kernels.launch import on_device_of, power_of_two, ticket

NONE, MEAN, SUM = 0, 1, 2
FEW_CLASSES = 1024
COUNT_IN_PLACE = 16_384  # up to so many rows every program of few classes sums the weights itself
WEIGHT_PARTS = 256
LONG_ROW = 65_536  # bytes: on an H200 more of them than its cache holds are at work otherwise


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
    if not IN_PLACE or tl.max((scale != 1.0).to(tl.int32), 0) != 0:
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
    # Long rows: fewer at a time, so that the cache holds them until their second read.
    long = classes * logits.element_size() > LONG_ROW and label_smoothing == 0
    block_c = power_of_two(classes, 2) if few else 8192 if long else 4096
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
        arguments = {
            "logits": logits,
            "target": target,
            "weight": weight,
            "mask": mask,
            "parts": parts,
            "losses": loss,
            "partial": partial,
            "reduced": loss,
            "tickets": tickets,
            "gradient": gradient,
            "rows": rows,
            "row_stride": logits.stride(0),
            "column_stride": logits.stride(1),
            "classes": classes,
            "gamma": float(gamma),
            "ignore_index": ignore_index,
            "smoothing": float(label_smoothing),
            "BLOCK_C": block_c,
            **options,
        }
        if few:
            few_classes_kernel[(programs,)](**arguments, BLOCK_N=block_n, num_warps=4)
        else:
            vector = 16 // logits.element_size()
            many_classes_kernel[(programs,)](
                **arguments, VECTOR=vector, STAGES=3, num_warps=32 if long else 16
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
