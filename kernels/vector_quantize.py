"""One training pass of vector quantisation on a GPU: lookup, codes, squared error and codebook statistics.

Up to ``SUMS_ON_CHIP`` codes the sums are gathered as onehot^T x while the tile of x is on chip, in one
partial sum per program, and a second kernel adds the partial sums in order. More codes: rows are sorted by
code and each code adds its own. Both orders are fixed, so the results are deterministic.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from goskill.kernels.launch import on_device_of, power_of_two
from goskill.kernels.nearest_code import assign, block_sizes, moved_codes, part_of_centre

SUMS_ON_CHIP = 32
WIDEST_ON_CHIP = 128  # dimensions of a codebook whose sums stay on chip
MOST_PROGRAMS = 512  # partial sums at most; each program takes every MOST_PROGRAMS-th tile of rows


@triton.jit(do_not_specialize=["rows"])
def quantize_kernel(
    x,
    codebook,
    scored,
    norms,
    centre,
    mask,
    quantized,
    indices,
    partial_error,
    partial_counts,
    partial_sums,
    rows,
    row_stride,
    column_stride,
    codes,
    dim: tl.constexpr,
    MASK: tl.constexpr,
    SUMS: tl.constexpr,
    NORMS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WHOLE_D: tl.constexpr,
):
    program = tl.program_id(0)
    error = tl.zeros([BLOCK_N], tl.float32)
    selected_rows = tl.zeros([BLOCK_N], tl.float32)
    counts = tl.zeros([BLOCK_M], tl.float32)
    sums = tl.zeros([BLOCK_M, WHOLE_D], tl.float32)
    begin = program.to(tl.int64) * BLOCK_N
    first_centre = part_of_centre(scored, centre, codes, 0, dim, False, NORMS, BLOCK_M, BLOCK_D)
    for first in range(begin, rows, tl.num_programs(0) * BLOCK_N):
        row = first + tl.arange(0, BLOCK_N).to(tl.int64)  # [BN]
        nearest = assign(
            x,
            scored,
            norms,
            centre,
            first_centre,
            row,
            rows,
            row_stride,
            column_stride,
            codes,
            dim,
            False,
            NORMS,
            PRECISION,
            BLOCK_N,
            BLOCK_M,
            BLOCK_D,
        )
        selected = row < rows
        if MASK:
            selected = selected & (tl.load(mask + row, row < rows, 0) != 0)
        tl.store(indices + row, tl.where(selected, nearest, -1).to(tl.int64), row < rows)
        for start in range(0, dim, WHOLE_D):
            d = start + tl.arange(0, WHOLE_D)  # [WD]
            inside = selected[:, None] & (d < dim)[None, :]
            x_at = row[:, None] * row_stride + d.to(tl.int64)[None, :] * column_stride
            tile = tl.load(x + x_at, inside, 0.0).to(tl.float32)  # [BN, WD]
            code = tl.load(codebook + nearest.to(tl.int64)[:, None] * dim + d[None, :], inside, 0.0)
            error += tl.sum((tile - code) * (tile - code), 1)
            written = (row < rows)[:, None] & (d < dim)[None, :]
            out = quantized + row[:, None] * dim + d[None, :]
            tl.store(out, code.to(quantized.dtype.element_ty), written)
            if SUMS:
                taken = (tl.arange(0, BLOCK_M)[:, None] == nearest[None, :]) & selected[None, :]
                sums = tl.dot(taken.to(tl.float32), tile, sums, input_precision="ieee")
        if SUMS:
            taken = (tl.arange(0, BLOCK_M)[:, None] == nearest[None, :]) & selected[None, :]
            counts += tl.sum(taken.to(tl.float32), 1)
        selected_rows += selected.to(tl.float32)
    tl.store(partial_error + 2 * program, tl.sum(error, 0))
    tl.store(partial_error + 2 * program + 1, tl.sum(selected_rows, 0))
    if SUMS:
        m = tl.arange(0, BLOCK_M)  # [BM]
        d = tl.arange(0, WHOLE_D)  # [WD]
        tl.store(partial_counts + program * codes + m, counts, m < codes)
        at = (program * codes + m).to(tl.int64)[:, None] * dim + d[None, :]
        tl.store(partial_sums + at, sums, (m < codes)[:, None] & (d < dim)[None, :])


@triton.jit(do_not_specialize=["parts"])
def add_parts_kernel(
    partial_error,
    partial_counts,
    partial_sums,
    loss,
    elements,
    counts,
    sums,
    loss_weight,
    parts,
    codes,
    dim: tl.constexpr,
    SUMS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Program 0 adds the loss; with SUMS, every program adds BLOCK of the codes' sums, then counts."""
    program = tl.program_id(0)
    if program == 0:
        part = tl.arange(0, BLOCK_P)  # [BP]
        error = tl.sum(tl.load(partial_error + 2 * part, part < parts, 0.0), 0)
        selected = tl.sum(tl.load(partial_error + 2 * part + 1, part < parts, 0.0), 0)
        tl.store(loss, loss_weight * error / tl.maximum(selected * dim, 1.0))
        tl.store(elements, selected * dim)
    if SUMS:
        at = program * BLOCK + tl.arange(0, BLOCK)  # [B]
        total = tl.zeros([BLOCK], tl.float32)
        count = tl.zeros([BLOCK], tl.float32)
        for part in range(0, parts):
            total += tl.load(partial_sums + part * codes * dim + at, at < codes * dim, 0.0)
            count += tl.load(partial_counts + part * codes + at, at < codes, 0.0)
        tl.store(sums + at, total, at < codes * dim)
        tl.store(counts + at, count, at < codes)


@triton.jit
def segment_sums_kernel(
    x,
    order,
    ends,
    counts,
    sums,
    row_stride,
    column_stride,
    dim: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program adds the rows of one code, BLOCK_D dimensions of them."""
    code = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)  # [BD]
    begin = tl.load(ends + code)
    end = tl.load(ends + code + 1)
    total = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for first in range(begin, end, BLOCK_N):
        place = first + tl.arange(0, BLOCK_N)  # [BN]
        row = tl.load(order + place, place < end, 0)
        x_at = row[:, None] * row_stride + d.to(tl.int64)[None, :] * column_stride
        total += tl.load(x + x_at, (place < end)[:, None] & (d < dim)[None, :], 0.0).to(tl.float32)
    tl.store(sums + code * dim + d, tl.sum(total, 0), d < dim)
    if tl.program_id(1) == 0:
        tl.store(counts + code, (end - begin).to(tl.float32))


@triton.jit
def move_sizes_kernel(cluster_size, counts, total, decay, codes, BLOCK: tl.constexpr):
    """One program, since every code needs the sum of all sizes."""
    summed = tl.zeros([BLOCK], tl.float32)
    for first in range(0, codes, BLOCK):
        code = first + tl.arange(0, BLOCK)  # [B]
        size = tl.load(cluster_size + code, code < codes, 0.0)
        size += (1 - decay) * (tl.load(counts + code, code < codes, 0.0) - size)
        tl.store(cluster_size + code, size, code < codes)
        summed += size
    tl.store(total, tl.sum(summed, 0))


@triton.jit
def move_codes_kernel(
    cluster_size, average, out, sums, total, decay, eps, codes, dim: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [B]
    inside = at // dim < codes
    whole = tl.load(total)
    size = tl.load(cluster_size + at // dim, inside, 1.0)
    # Laplace smoothing keeps codes that no row chose finite.
    smoothed = (size + eps) / (whole + codes * eps) * whole
    filled = inside & (smoothed > 0)
    value = tl.load(average + at, inside, 0.0)
    value += (1 - decay) * (tl.load(sums + at, inside, 0.0) - value)
    tl.store(average + at, value, inside)
    tl.store(out + at, value / tl.where(filled, smoothed, 1.0), filled)


@triton.jit
def straight_through_kernel(
    x,
    codes,
    indices,
    gradient,
    loss_gradient,
    elements,
    out,
    weight,
    row_stride,
    column_stride,
    gradient_row_stride,
    gradient_column_stride,
    rows,
    dim: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BN]
    index = tl.load(indices + row, row < rows, -1)
    selected = index >= 0
    scale = 2 * weight * tl.load(loss_gradient).to(tl.float32) / tl.maximum(tl.load(elements), 1.0)
    for start in range(0, dim, BLOCK_D):
        d = (start + tl.arange(0, BLOCK_D)).to(tl.int64)  # [BD]
        inside = selected[:, None] & (d < dim)[None, :]
        value = tl.load(x + row[:, None] * row_stride + d[None, :] * column_stride, inside, 0.0).to(
            tl.float32
        )
        code = tl.load(codes + index[:, None] * dim + d[None, :], inside, 0.0)
        gradient_at = row[:, None] * gradient_row_stride + d[None, :] * gradient_column_stride
        passed = tl.load(gradient + gradient_at, inside, 0.0).to(tl.float32)
        result = passed + scale * (value - code)
        at = row[:, None] * dim + d[None, :]
        tl.store(out + at, result.to(out.dtype.element_ty), (row < rows)[:, None] & (d < dim)[None, :])


def vector_quantize(
    x: Tensor,
    codebook: Tensor,
    mask: Tensor | None,
    loss_weight: float,
    quantized: Tensor,
    indices: Tensor,
    loss: Tensor,
    counts: Tensor,
    sums: Tensor,
    elements: Tensor,
) -> None:
    """Fills the last six for x [N, D] and a contiguous float32 codebook [M, D].

    ``loss`` is the mean squared error over selected rows and dimensions, whose number is ``elements``, times
    ``loss_weight``.
    """
    rows, dim = x.shape
    codes = codebook.shape[0]
    sizes = block_sizes(codes, dim, x.element_size() == 2)
    on_chip = codes <= SUMS_ON_CHIP and dim <= WIDEST_ON_CHIP
    tiles = triton.cdiv(rows, sizes["BLOCK_N"])
    parts = max(1, min(tiles, MOST_PROGRAMS)) if on_chip else max(1, min(tiles, 4096))
    partial_error = x.new_empty(2 * parts, dtype=torch.float32)
    partial_counts = x.new_empty(parts * codes if on_chip else 0, dtype=torch.float32)
    partial_sums = x.new_empty(parts * codes * dim if on_chip else 0, dtype=torch.float32)
    with on_device_of(x):
        quantize_kernel[(parts,)](
            x=x,
            codebook=codebook,
            mask=mask,
            quantized=quantized,
            indices=indices,
            partial_error=partial_error,
            partial_counts=partial_counts,
            partial_sums=partial_sums,
            rows=rows,
            row_stride=x.stride(0),
            column_stride=x.stride(1),
            codes=codes,
            dim=dim,
            MASK=mask is not None,
            SUMS=on_chip,
            WHOLE_D=power_of_two(dim, 16) if on_chip else min(power_of_two(dim, 16), 64),
            **moved_codes(codebook, sizes),
            **sizes,
        )
        block = 256
        add_parts_kernel[(triton.cdiv(codes * dim, block) if on_chip else 1,)](
            partial_error,
            partial_counts,
            partial_sums,
            loss,
            elements,
            counts,
            sums,
            loss_weight,
            parts,
            codes,
            dim,
            SUMS=on_chip,
            BLOCK=block,
            BLOCK_P=MOST_PROGRAMS if on_chip else 4096,
        )
    if not on_chip:
        _sums_by_sorting(x, indices, counts, sums)


def _sums_by_sorting(x: Tensor, indices: Tensor, counts: Tensor, sums: Tensor) -> None:
    ordered, order = indices.sort(stable=True)
    # Rows that are masked out have index -1 and come first.
    ends = torch.searchsorted(ordered, torch.arange(counts.shape[0] + 1, device=x.device))
    dim = x.shape[1]
    block_d = min(power_of_two(dim, 16), 64)
    with on_device_of(x):
        segment_sums_kernel[(counts.shape[0], triton.cdiv(dim, block_d))](
            x,
            order,
            ends,
            counts,
            sums,
            x.stride(0),
            x.stride(1),
            dim,
            BLOCK_N=32,
            BLOCK_D=block_d,
        )


def straight_through(
    x: Tensor,
    codes: Tensor,
    indices: Tensor,
    gradient: Tensor,
    loss_gradient: Tensor,
    elements: Tensor,
    weight: float,
    out: Tensor,
) -> None:
    """out = gradient + 2 weight loss_gradient / elements * (x - codes[indices]), 0 where the index is -1.

    ``codes`` [M, D] is contiguous float32. ``elements`` float32 [] counts the selected numbers.
    """
    rows, dim = x.shape
    if rows == 0:
        return
    block_d = min(power_of_two(dim, 16), 64)
    with on_device_of(x):
        straight_through_kernel[(triton.cdiv(rows, 32),)](
            x,
            codes,
            indices,
            gradient,
            loss_gradient,
            elements,
            out,
            weight,
            x.stride(0),
            x.stride(1),
            gradient.stride(0),
            gradient.stride(1),
            rows,
            dim,
            BLOCK_N=32,
            BLOCK_D=block_d,
        )


def move_codebook(
    cluster_size: Tensor,
    average: Tensor,
    codes: Tensor,
    counts: Tensor,
    sums: Tensor,
    decay: float,
    eps: float,
) -> None:
    """Moves the contiguous float32 averages [M], [M, D] and codes [M, D] by counts [M] and sums [M, D]."""
    count, dim = codes.shape
    total = codes.new_empty(())
    with on_device_of(codes):
        move_sizes_kernel[(1,)](cluster_size, counts, total, decay, count, BLOCK=1024)
        move_codes_kernel[(triton.cdiv(count * dim, 1024),)](
            cluster_size, average, codes, sums, total, decay, eps, count, dim, BLOCK=1024
        )
