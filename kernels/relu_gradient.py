"""The gradient behind a ReLU, and its sums over rows for the bias before it, in one pass."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from goskill.kernels.launch import on_device_of, power_of_two

ROWS, COLUMNS = 4, 512  # of a tile


@triton.jit(do_not_specialize=["rows"])
def relu_gradient_kernel(
    activation,
    gradient,
    result,
    sums,
    rows,
    WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    column = c < WIDTH
    total = tl.zeros([BLOCK_W], tl.float32)
    for block in range(tl.cdiv(rows, BLOCK_N * tl.num_programs(0))):
        first = (program + block * tl.num_programs(0)) * BLOCK_N
        row = first + tl.arange(0, BLOCK_N)
        inside = (row < rows)[:, None] & column[None, :]
        at = row[:, None] * WIDTH + c[None, :]
        active = tl.load(activation + at, inside, 0.0) > 0
        slope = tl.where(active, tl.load(gradient + at, inside, 0.0).to(tl.float32), 0.0)
        total += tl.sum(slope, 0)
        tl.store(result + at, slope.to(result.dtype.element_ty), inside)
    tl.store(sums + program * WIDTH + c, total, column)


def relu_gradient(activation: Tensor, gradient: Tensor, result: Tensor, sums: Tensor) -> None:
    """Fills ``result`` [N, W], the gradient where the activation is positive, and ``sums`` float32 [programs, W].

    All are contiguous. The sums of all programs are those over rows.
    """
    rows, width = activation.shape
    if rows == 0:
        sums.zero_()
        return
    block_w = min(COLUMNS, power_of_two(width))
    with on_device_of(activation):
        relu_gradient_kernel[(sums.shape[0], triton.cdiv(width, block_w))](
            activation,
            gradient,
            result,
            sums,
            rows,
            WIDTH=width,
            BLOCK_N=ROWS * COLUMNS // block_w,
            BLOCK_W=block_w,
            num_warps=4,
        )
