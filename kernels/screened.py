"""Nearest code of many rows on a GPU: half-precision products on the tensor cores decide most rows, and only those
that they leave open are scored again as ``nearest_code`` scores them. The indices are the same.

Rows x and codes e are taken less the codebook's centre, as there: what follows is about the differences.

A row is decided when every other code's score |e|^2 - 2 x.e is worse than the best by more than ``margin``. Let X
bound the row's length, G what its rounding to float16 loses (2^-11 of it, but nothing of 16-bit rows where the centre
is 0; 2^-25 for each number at least), E and F the same of all codes. By Cauchy and Schwarz x.e is then off by at most
G E + (X + G) F. The sums, here and in ``nearest_code``, add c X E to that and c E^2 to |e|^2: c = (4 D + 32) 2^-22 is
one truncation to 22 bits for every product (at most 3 D there, D here) and what splitting in TF32 terms drops. Each of
two scores differs between the kernels by at most half of ``margin`` = 4 (G E + (X + G) F + c X E) + 2 c E^2. See
docs/kernels.md for what that costs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from goskill.kernels.launch import on_device_of, power_of_two
from goskill.kernels.nearest_code import (
    CODES_PER_PROGRAM,
    SAMPLE,
    assign,
    load_rows,
    nearest_sizes,
    part_of_centre,
    sampled_centre,
    squared_norms,
    store_distance,
)

LEAST_WORK = 2**23  # rows times codes from which two launches more pay
WIDEST_ROW = 128  # dimensions of rows that stay on chip whole
MOST_TILES = 32  # of rows that one program screens
PROGRAMS = 4096  # at least so many share the rows before one takes a second tile
RESCORING_PROGRAMS = 1024  # they share however many rows are left open


@triton.jit
def length(square, dim: tl.constexpr):
    """An upper bound of the root of a float32 sum of squares; some may have been too small for float32."""
    # Maxima pass over NaN, and not over infinity.
    square = tl.where(square == square, square, float("inf"))
    return tl.sqrt(square) * 1.001 + dim * 2.2e-19


@triton.jit
def round_codes_kernel(
    codebook,
    moved,
    centre,
    rounded,
    norms,
    bounds,
    undecided,
    codes,
    padded_codes,
    dim: tl.constexpr,
    COSINE: tl.constexpr,
    MOVED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The centre [BD], and of the codes less it: themselves if MOVED, the same in float16, their squared norms
    (infinite behind the last one), and E and F of BLOCK_M of them.
    """
    program = tl.program_id(0)
    code = program * BLOCK_M + tl.arange(0, BLOCK_M)  # [BM]
    d = tl.arange(0, BLOCK_D)  # [BD]
    inside = (code < codes)[:, None] & (d < dim)[None, :]
    c = tl.zeros([BLOCK_D], tl.float32)
    if not COSINE:
        c = sampled_centre(codebook, codes, 0, dim, SAMPLE, BLOCK_D)
    at = code.to(tl.int64)[:, None] * dim + d[None, :]
    e = tl.where(inside, tl.load(codebook + at, inside, 0.0) - c[None, :], 0.0)  # [BM, BD]
    if MOVED:
        tl.store(moved + at, e, inside)
    half = e.to(tl.float16)
    tl.store(
        rounded + code.to(tl.int64)[:, None] * BLOCK_D + d[None, :], half, (code < padded_codes)[:, None]
    )
    square = squared_norms(e)
    norm = tl.zeros([BLOCK_M], tl.float32) if COSINE else square
    tl.store(norms + code, tl.where(code < codes, norm, float("inf")), code < padded_codes)
    lost = e - half.to(tl.float32)
    tl.store(bounds + 2 * program, tl.max(length(square, dim), 0))
    tl.store(bounds + 2 * program + 1, tl.max(length(tl.sum(lost * lost, 1), dim), 0))
    if program == 0:
        tl.store(undecided, 0)
        tl.store(centre + d, c)


@triton.jit
def challenge(best, nearest, sure, margin, tile, e, norms, first, BLOCK_M: tl.constexpr):
    """Compares the best code so far of rows ``tile`` [BN, BD] with codes ``e`` [BD, BM] from number ``first``.

    ``sure`` says that no code but ``nearest`` is within ``margin`` of ``best``; ``nearest`` means nothing otherwise.
    """
    norm = tl.load(norms + first + tl.arange(0, BLOCK_M))  # [BM]
    score = norm[None, :] - 2 * tl.dot(tile, e)  # [BN, BM]
    least = tl.min(score, 1)  # [BN]
    near = score <= (least + margin)[:, None]
    # The upper half counts the near codes, the lower adds their numbers: the number of one alone.
    tally = tl.sum(tl.where(near, (65536 + tl.arange(0, BLOCK_M))[None, :], 0), 1)
    closer = least < best - margin
    sure = tl.where(closer, (tally >> 16) == 1, sure & (least > best + margin))
    nearest = tl.where(closer, first + (tally & 65535), nearest)
    return tl.minimum(best, least), nearest, sure


@triton.jit(do_not_specialize=["rows", "tiles", "parts"])
def screen_kernel(
    x,
    codebook,
    centre,
    rounded,
    norms,
    bounds,
    indices,
    distance,
    undecided,
    open_rows,
    rows,
    row_stride,
    column_stride,
    padded_codes,
    tiles,
    parts,
    dim: tl.constexpr,
    HALF: tl.constexpr,
    COSINE: tl.constexpr,
    DISTANCE: tl.constexpr,
    RESIDENT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr,
    MOST_ROWS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Writes the indices of rows that are decided and appends the others to ``open_rows``.

    One or two blocks of codes (RESIDENT) stay on chip for all the rows of a program; more pass by for each tile.
    """
    E = 0.0
    F = 0.0
    for first in range(0, parts, BLOCK_P):
        part = first + tl.arange(0, BLOCK_P)  # [BP]
        E = tl.maximum(E, tl.max(tl.load(bounds + 2 * part, part < parts, 0.0), 0))
        F = tl.maximum(F, tl.max(tl.load(bounds + 2 * part + 1, part < parts, 0.0), 0))
    sums: tl.constexpr = (4 * dim + 32) / 4194304
    m = tl.arange(0, BLOCK_M)  # [BM]
    d = tl.arange(0, BLOCK_D)  # [BD]
    c = tl.load(centre + d)  # [BD]
    exact_rows = HALF and tl.max(tl.abs(c), 0) == 0
    if RESIDENT > 0:
        e = tl.load(rounded + m[None, :] * BLOCK_D + d[:, None])  # [BD, BM]
    if RESIDENT > 1:
        e2 = tl.load(rounded + (BLOCK_M + m)[None, :] * BLOCK_D + d[:, None])
    begin = tl.program_id(0).to(tl.int64) * tiles * BLOCK_N
    end = tl.minimum(begin + tiles * BLOCK_N, rows)
    for first_row in tl.range(begin, end, BLOCK_N, num_stages=STAGES):
        row = first_row + tl.arange(0, BLOCK_N).to(tl.int64)  # [BN]
        exact = load_rows(x, row, end, row_stride, column_stride, 0, dim, BLOCK_D) - c[None, :]  # [BN, BD]
        X = length(tl.sum(exact * exact, 1), dim)  # [BN]
        G = tl.where(exact_rows, 0.0, X * 0.00048828125) + dim * 2.98e-8
        margin = 4 * (G * E + (X + G) * F + sums * X * E) + (2 * sums * E * E + 1e-30)
        tile = exact.to(tl.float16)
        best = tl.full([BLOCK_N], float("inf"), tl.float32)
        nearest = tl.zeros([BLOCK_N], tl.int32)
        sure = tl.zeros([BLOCK_N], tl.int1)
        if RESIDENT > 0:
            best, nearest, sure = challenge(best, nearest, sure, margin, tile, e, norms, 0, BLOCK_M)
            if RESIDENT > 1:
                best, nearest, sure = challenge(
                    best, nearest, sure, margin, tile, e2, norms, BLOCK_M, BLOCK_M
                )
        else:
            for first in range(0, padded_codes, BLOCK_M):
                code = (first + m).to(tl.int64)
                e = tl.load(rounded + code[None, :] * BLOCK_D + d[:, None])  # [BD, BM]
                best, nearest, sure = challenge(best, nearest, sure, margin, tile, e, norms, first, BLOCK_M)
        # The bounds hold for numbers that float16 holds: none of a shorter row exceeds its range.
        sure = sure & (margin < float("inf")) & (X < 65504.0)
        tl.store(indices + row, tl.where(sure, nearest, -1).to(tl.int64), row < end)
        if DISTANCE:
            nearest = tl.where(sure, nearest, 0)
            store_distance(
                x, codebook, distance, row, end, nearest, row_stride, column_stride, dim, COSINE, BLOCK_D
            )
    # The whole program's open rows join the list at once.
    tl.debug_barrier()
    row = begin + tl.arange(0, MOST_ROWS).to(tl.int64)  # [R]
    is_open = (tl.load(indices + row, row < end, 0) < 0).to(tl.int32)
    place = tl.cumsum(is_open, 0) - is_open
    place += tl.atomic_add(undecided, tl.sum(is_open, 0), sem="relaxed")
    tl.store(open_rows + place, row.to(open_rows.dtype.element_ty), is_open != 0)


@triton.jit(do_not_specialize=["rows"])
def rescore_kernel(
    x,
    codebook,
    scored,
    norms,
    centre,
    indices,
    distance,
    undecided,
    open_rows,
    rows,
    row_stride,
    column_stride,
    codes,
    dim: tl.constexpr,
    COSINE: tl.constexpr,
    DISTANCE: tl.constexpr,
    NORMS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """What ``nearest_code_kernel`` does, for the rows of a list."""
    count = tl.load(undecided)
    begin = tl.program_id(0).to(tl.int64) * BLOCK_N
    first_centre = part_of_centre(scored, centre, codes, 0, dim, COSINE, NORMS, BLOCK_M, BLOCK_D)
    for first in range(begin, count, tl.num_programs(0) * BLOCK_N):
        place = first + tl.arange(0, BLOCK_N)  # [BN]
        row = tl.load(open_rows + place, place < count, 0).to(tl.int64)
        row = tl.where(place < count, row, rows)
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


def pays(rows: int, codes: int, dim: int) -> bool:
    """Whether screening is for so many rows and codes. Fewer rows are a matter of launches, of which it takes three."""
    return dim <= WIDEST_ROW and rows * codes >= LEAST_WORK


def screen_sizes(codes: int, dim: int, distance: bool) -> dict[str, int]:
    """Tile sizes for a codebook; nothing depends on the number of rows."""
    narrow = dim <= 64
    most_resident = 256 if narrow and not distance else 64
    if codes > most_resident:
        resident, block_n, block_m = 0, 128, 64
    else:
        resident, block_n, block_m = (1 if codes <= 128 else 2), 64, min(power_of_two(codes, 16), 128)
    return {
        "RESIDENT": resident,
        "BLOCK_N": block_n,
        "BLOCK_M": block_m,
        "BLOCK_D": power_of_two(dim, 16),
        "MOST_ROWS": MOST_TILES * block_n,
        # A loop that looks codes up for their distances cannot be pipelined: the loads depend on its products.
        "STAGES": 1 if distance else 3 if narrow else 2,
        "num_warps": 4 if narrow or resident else 8,
        "num_stages": 3,
    }


def nearest_code(x: Tensor, codebook: Tensor, cosine: bool, indices: Tensor, distance: Tensor | None) -> None:
    """Fills ``indices`` int64 [N] and ``distance`` float32 [N] for x [N, D] and a codebook [M, D].

    The codebook is contiguous float32, its codes of unit length if ``cosine``.
    """
    rows, dim = x.shape
    if rows == 0:
        return
    codes = codebook.shape[0]
    sizes = screen_sizes(codes, dim, distance is not None)
    block_n, block_m, block_d = sizes["BLOCK_N"], sizes["BLOCK_M"], sizes["BLOCK_D"]
    padded_codes = triton.cdiv(codes, block_m) * block_m
    parts = triton.cdiv(padded_codes, CODES_PER_PROGRAM)
    number = torch.int32 if rows < 2**31 else torch.int64
    exactly = nearest_sizes(codes, dim, x.element_size() == 2, cosine)
    # What scores the codes once more finds few codes' centre itself.
    moved = torch.empty_like(codebook) if exactly["NORMS"] else codebook
    centre = codebook.new_empty(block_d)
    rounded = codebook.new_empty(padded_codes, block_d, dtype=torch.float16)
    norms = codebook.new_empty(padded_codes)
    bounds = codebook.new_empty(parts, 2)
    undecided = x.new_empty(1, dtype=number)
    open_rows = x.new_empty(rows, dtype=number)
    tiles = triton.cdiv(rows, block_n)
    tiles_each = min(triton.cdiv(tiles, PROGRAMS), MOST_TILES)
    common = {"dim": dim, "COSINE": cosine}
    data = {
        "x": x,
        "codebook": codebook,
        "norms": norms,
        "centre": centre,
        "indices": indices,
        "distance": distance,
        "undecided": undecided,
        "open_rows": open_rows,
        "rows": rows,
        "row_stride": x.stride(0),
        "column_stride": x.stride(1),
        "DISTANCE": distance is not None,
        **common,
    }
    with on_device_of(x):
        round_codes_kernel[(parts,)](
            codebook,
            moved,
            centre,
            rounded,
            norms,
            bounds,
            undecided,
            codes,
            padded_codes,
            MOVED=exactly["NORMS"],
            BLOCK_M=CODES_PER_PROGRAM,
            BLOCK_D=block_d,
            **common,
        )
        screen_kernel[(triton.cdiv(tiles, tiles_each),)](
            rounded=rounded,
            bounds=bounds,
            padded_codes=padded_codes,
            tiles=tiles_each,
            parts=parts,
            HALF=x.element_size() == 2,
            BLOCK_P=64,
            **data,
            **sizes,
        )
        programs = min(triton.cdiv(rows, exactly["BLOCK_N"]), RESCORING_PROGRAMS)
        rescore_kernel[(programs,)](scored=moved, codes=codes, **data, **exactly)
