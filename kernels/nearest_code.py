"""Nearest code on a GPU: scores |e|^2 - 2 x.e on chip, no N x M matrix in memory.

Rows x and codes e are taken less a centre of the codebook, so that an offset that all share costs no precision
(``goskill.ops.reference.codebook_centre``; here of up to ``SAMPLE`` codes spread over the codebook). Its coordinates
are 0 for codes around zero.

The tensor cores multiply, with each float32 split in three TF32 terms, whose error is that of float32 sums. Rows of 16
bits are TF32 numbers as they are: only the codes are split, in two terms. Less a centre that is not 0 the rows are no
longer, and take a third product. Up to ``SMALL_CODEBOOK`` codes one launch does everything.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from goskill.kernels.launch import on_device_of, power_of_two

SMALL_CODEBOOK = 32
WIDEST_CHUNK = 32  # dimensions of x on chip at a time
CODES_PER_PROGRAM = 32  # whose norms one program computes
SAMPLE = tl.constexpr(64)  # codes whose centre is taken as that of the codebook


@triton.jit
def squared_norms(e):
    return tl.sum(e * e, 1)


@triton.jit
def centre_of(e, present):
    """The centre [BD] of the codes ``e`` [BM, BD], of those that are ``present`` [BM, 1] and finite."""
    finite = present & (tl.abs(e) < float("inf"))
    least = tl.min(tl.where(finite, e, float("inf")), 0)
    spread = tl.max(tl.where(finite, e, float("-inf")), 0) - least
    # The power of two that is 2 to 4 times the range: two more in the exponent, and no fraction.
    exponent = (spread.to(tl.int32, bitcast=True) & 0x7F800000) + 0x01000000
    spacing = exponent.to(tl.float32, bitcast=True)
    centre = spacing * tl.floor((least + spread * 0.5) / spacing + 0.5)
    centre = tl.where(spread == 0, least, centre)
    return tl.where(tl.abs(centre) < float("inf"), centre, 0.0)


@triton.jit
def sampled_centre(codebook, codes, start, dim: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr):
    """Dimensions [start, start + BLOCK_D) of the centre of BLOCK_K codes, which are all if there are no more."""
    k = tl.arange(0, BLOCK_K).to(tl.int64)  # [BK]
    code = tl.where(codes > BLOCK_K, k * codes // BLOCK_K, k)
    d = start + tl.arange(0, BLOCK_D)  # [BD]
    inside = (code < codes)[:, None] & (d < dim)[None, :]
    e = tl.load(codebook + code[:, None] * dim + d[None, :], inside, 0.0)  # [BK, BD]
    return centre_of(e, (code < codes)[:, None])


@triton.jit
def code_norms_kernel(
    codebook,
    moved,
    centre,
    norms,
    codes,
    dim: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The centre [D], the codes less the centre [M, D], and the squared norms of these [M]."""
    program = tl.program_id(0)
    code = program * BLOCK_M + tl.arange(0, BLOCK_M)  # [BM]
    total = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, dim, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)  # [BD]
        c = sampled_centre(codebook, codes, start, dim, SAMPLE, BLOCK_D)  # [BD]
        if program == 0:
            tl.store(centre + d, c, d < dim)
        inside = (code < codes)[:, None] & (d < dim)[None, :]
        at = code.to(tl.int64)[:, None] * dim + d[None, :]
        e = tl.load(codebook + at, inside, 0.0) - c[None, :]  # [BM, BD]
        tl.store(moved + at, e, inside)
        total += squared_norms(e)
    tl.store(norms + code, total, code < codes)


@triton.jit
def load_rows(
    x,
    row,
    rows,
    row_stride,
    column_stride,
    start,
    dim: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Columns [start, start + BLOCK_D) of rows ``row`` [BN] (int64), float32; zero where there are none."""
    d = start + tl.arange(0, BLOCK_D)  # [BD]
    at = row[:, None] * row_stride + d.to(tl.int64)[None, :] * column_stride
    return tl.load(x + at, (row < rows)[:, None] & (d < dim)[None, :], 0.0).to(tl.float32)


@triton.jit
def part_of_centre(
    codebook,
    centre,
    codes,
    start,
    dim: tl.constexpr,
    COSINE: tl.constexpr,
    NORMS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Dimensions [start, start + BLOCK_D) of the centre, which few codes do not have in memory."""
    if COSINE:
        c = tl.zeros([BLOCK_D], tl.float32)
    elif NORMS:
        d = start + tl.arange(0, BLOCK_D)  # [BD]
        c = tl.load(centre + d, d < dim, 0.0)
    else:
        c = sampled_centre(codebook, codes, start, dim, BLOCK_M, BLOCK_D)
    return c


@triton.jit
def assign(
    x,
    codebook,
    norms,
    centre,
    first_centre,
    row,
    rows,
    row_stride,
    column_stride,
    codes,
    dim: tl.constexpr,
    COSINE: tl.constexpr,
    NORMS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Index of the nearest code for rows ``row`` [BN] (int64).

    With NORMS the codebook is less its centre already. ``first_centre`` [BD] is ``part_of_centre`` from 0 on. Rows of
    up to BLOCK_D dimensions are read once and stay on chip while the codes pass.
    """
    WHOLE: tl.constexpr = dim <= BLOCK_D
    best = tl.full([BLOCK_N], float("inf"), tl.float32)
    best_code = tl.zeros([BLOCK_N], tl.int32)
    c = first_centre
    if WHOLE:
        tile = load_rows(x, row, rows, row_stride, column_stride, 0, dim, BLOCK_D) - c[None, :]
    for first in range(0, codes, BLOCK_M):
        code = first + tl.arange(0, BLOCK_M)  # [BM]
        dots = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        norm = tl.zeros([BLOCK_M], tl.float32)
        for start in range(0, dim, BLOCK_D):
            if not WHOLE:
                c = part_of_centre(codebook, centre, codes, start, dim, COSINE, NORMS, BLOCK_M, BLOCK_D)
                tile = load_rows(x, row, rows, row_stride, column_stride, start, dim, BLOCK_D) - c[None, :]
            d = start + tl.arange(0, BLOCK_D)  # [BD]
            inside = (d < dim)[:, None] & (code < codes)[None, :]
            e = tl.load(codebook + code.to(tl.int64)[None, :] * dim + d[:, None], inside, 0.0)  # [BD, BM]
            if not NORMS and not COSINE:
                e -= c[:, None]
            if PRECISION == "tf32x2":
                # The upper 11 significant bits of a code, which TF32 holds, and the rest.
                high = (e.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
                dots = tl.dot(tile, e - high, dots, input_precision="tf32")
                dots = tl.dot(tile, high, dots, input_precision="tf32")
                if tl.max(tl.abs(c), 0) > 0:
                    upper = (tile.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
                    dots = tl.dot(tile - upper, high, dots, input_precision="tf32")
            else:
                dots = tl.dot(tile, e, dots, input_precision=PRECISION)
            if not NORMS and not COSINE:
                norm += tl.sum(e * e, 0)
        if NORMS:
            norm = tl.load(norms + code, code < codes, 0.0)
        score = norm[None, :] - 2 * dots
        # NaN is never equal to itself and never the least.
        score = tl.where((score == score) & (code < codes)[None, :], score, float("inf"))
        least = tl.min(score, 1)  # [BN]
        lowest = tl.min(tl.where(score == least[:, None], code[None, :], 2147483647), 1)
        # Strictly less: the first of equal codes stays.
        best_code = tl.where(least < best, lowest, best_code)
        best = tl.minimum(best, least)
    return best_code


@triton.jit
def store_distance(
    x,
    codebook,
    distance,
    row,
    rows,
    nearest,
    row_stride,
    column_stride,
    dim: tl.constexpr,
    COSINE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The distance of rows ``row`` [BN] (int64) to codes ``nearest`` [BN], from their differences."""
    squares = tl.zeros(nearest.shape, tl.float32)
    dots = tl.zeros(nearest.shape, tl.float32)
    for start in range(0, dim, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)  # [BD]
        inside = (row < rows)[:, None] & (d < dim)[None, :]
        tile = load_rows(x, row, rows, row_stride, column_stride, start, dim, BLOCK_D)  # [BN, BD]
        e = tl.load(codebook + nearest.to(tl.int64)[:, None] * dim + d[None, :], inside, 0.0)  # [BN, BD]
        if COSINE:
            dots += tl.sum(tile * e, 1)
            squares += tl.sum(tile * tile, 1)
        else:
            squares += tl.sum((tile - e) * (tile - e), 1)
    result = squares
    if COSINE:
        result = 1 - dots / tl.where(squares == 0, 1.0, tl.sqrt(squares))
    tl.store(distance + row, result, row < rows)


@triton.jit(do_not_specialize=["rows"])
def nearest_code_kernel(
    x,
    codebook,
    scored,
    norms,
    centre,
    indices,
    distance,
    rows,
    row_stride,
    column_stride,
    codes,
    dim: tl.constexpr,
    COSINE: tl.constexpr,
    NORMS: tl.constexpr,
    DISTANCE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BN]
    nearest = assign(
        x,
        scored,
        norms,
        centre,
        part_of_centre(scored, centre, codes, 0, dim, COSINE, NORMS, BLOCK_M, BLOCK_D),
        row,
        rows,
        row_stride,
        column_stride,
        codes,
        dim,
        COSINE,
        NORMS,
        PRECISION,
        BLOCK_N,
        BLOCK_M,
        BLOCK_D,
    )
    tl.store(indices + row, nearest.to(tl.int64), row < rows)
    if DISTANCE:
        store_distance(
            x, codebook, distance, row, rows, nearest, row_stride, column_stride, dim, COSINE, BLOCK_D
        )


def block_sizes(codes: int, dim: int, half: bool) -> dict[str, object]:
    """Tile sizes and precision for a codebook and rows of 16 bits or not; nothing depends on their number."""
    small = codes <= SMALL_CODEBOOK
    return {
        "PRECISION": "tf32x2" if half else "tf32x3",
        "NORMS": not small,
        "BLOCK_N": 64 if small else 128,
        "BLOCK_M": power_of_two(codes, 16) if small else 64,
        "BLOCK_D": min(power_of_two(dim, 16), WIDEST_CHUNK if small else WIDEST_CHUNK // 2),
        "num_warps": 4 if small else 8,
        "num_stages": 2,
    }


def nearest_sizes(codes: int, dim: int, half: bool, cosine: bool) -> dict[str, object]:
    """``block_sizes`` where nothing but the nearest code is asked for."""
    sizes = block_sizes(codes, dim, half)
    if half:
        # One term of x leaves room for whole rows, which are then read once; a training pass needs that room.
        sizes["BLOCK_D"] = min(power_of_two(dim, 16), WIDEST_CHUNK)
    sizes["NORMS"] = sizes["NORMS"] and not cosine
    return sizes


def moved_codes(codebook: Tensor, sizes: dict[str, object]) -> dict[str, Tensor]:
    """What kernels of these ``sizes`` score a contiguous float32 codebook [M, D] by.

    With NORMS the codes less their centre, the squared norms of these, and the centre; few codes as they are.
    """
    if not sizes["NORMS"]:
        return {"scored": codebook, "norms": codebook, "centre": codebook}
    codes, dim = codebook.shape
    moved, centre, norms = torch.empty_like(codebook), codebook.new_empty(dim), codebook.new_empty(codes)
    with on_device_of(codebook):
        code_norms_kernel[(triton.cdiv(codes, CODES_PER_PROGRAM),)](
            codebook,
            moved,
            centre,
            norms,
            codes,
            dim,
            BLOCK_M=CODES_PER_PROGRAM,
            BLOCK_D=min(power_of_two(dim, 16), 128),
        )
    return {"scored": moved, "norms": norms, "centre": centre}


def nearest_code(x: Tensor, codebook: Tensor, cosine: bool, indices: Tensor, distance: Tensor | None) -> None:
    """Fills ``indices`` int64 [N] and ``distance`` float32 [N] for x [N, D] and a codebook [M, D].

    The codebook is contiguous float32, its codes of unit length if ``cosine``.
    """
    rows, dim = x.shape
    if rows == 0:
        return
    sizes = nearest_sizes(codebook.shape[0], dim, x.element_size() == 2, cosine)
    with on_device_of(x):
        nearest_code_kernel[(triton.cdiv(rows, sizes["BLOCK_N"]),)](
            x=x,
            codebook=codebook,
            indices=indices,
            distance=distance,
            rows=rows,
            row_stride=x.stride(0),
            column_stride=x.stride(1),
            codes=codebook.shape[0],
            dim=dim,
            COSINE=cosine,
            DISTANCE=distance is not None,
            **moved_codes(codebook, sizes),
            **sizes,
        )
