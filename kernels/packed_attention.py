"""Causal self-attention of short sequences, with dropout, from packed queries, keys and values to packed gradients.

A program attends for one head of one sequence and a block of 32 queries: a sequence of up to 32 tokens is one tile.
Nothing of the size of the weights is stored. Longer sequences keep the logarithm of each query's sum; of shorter ones
the backward pass computes all again, and reads nothing but what the forward pass read and the incoming gradient.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from goskill.kernels.dropout_bits import kept
from goskill.kernels.launch import on_device_of

BLOCK = 32  # queries, and keys at a time
LOG2E = tl.constexpr(math.log2(math.e))


@triton.jit
def _load(part, position, d, length, stride, bias, at, BIAS: tl.constexpr):
    """Rows of queries, keys or values: [BLOCK, D], with their bias, in the type of the input."""
    inside = (position < length)[:, None]
    rows = tl.load(part + position.to(tl.int64)[:, None] * stride + d[None, :], inside, 0.0)
    if BIAS:
        rows = (rows.to(tl.float32) + tl.load(bias + at + d).to(tl.float32)[None, :]).to(rows.dtype)
    return rows


@triton.jit
def _scores(q, k, row, column, length, scale):
    """Base-2 logits [BLOCK, BLOCK]; -inf for what a query does not see."""
    s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    return tl.where((column[None, :] <= row[:, None]) & (column < length)[None, :], s, float("-inf"))


@triton.jit
def _attend(
    part,
    q,
    bias,
    at,
    row,
    d,
    block,
    length,
    scale,
    seed,
    head,
    dropped,
    top,
    total,
    attended,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Adds a block of keys and values to queries: highest logit, sum of weights [BLOCK], and what they attend to."""
    WIDTH: tl.constexpr = HEADS * D
    column = block * BLOCK + tl.arange(0, BLOCK)
    k = _load(part + WIDTH, column, d, length, 3 * WIDTH, bias, WIDTH + at, BIAS)
    v = _load(part + 2 * WIDTH, column, d, length, 3 * WIDTH, bias, 2 * WIDTH + at, BIAS)
    s = _scores(q, k, row, column, length, scale)
    higher = tl.maximum(top, tl.max(s, 1))
    p = tl.exp2(s - higher[:, None])
    faded = tl.exp2(top - higher)
    total = total * faded + tl.sum(p, 1)
    if DROPOUT:
        stays = kept(seed, head * length + row, block * (BLOCK // 8), dropped, BLOCK // 8)
        p = tl.where(stays, p, 0.0)
    attended = tl.dot(p.to(v.dtype), v, attended * faded[:, None], input_precision="ieee")
    return higher, total, attended


@triton.jit(do_not_specialize=["length"])
def attention_kernel(
    qkv,
    bias,
    seeds,
    out,
    log_sums,
    length,
    scale,
    dropped,
    inverse,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    ALONE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    head = tl.program_id(0).to(tl.int64)  # of all sequences
    sequence = head // HEADS
    at = (head - sequence * HEADS) * D
    d = tl.arange(0, D)
    own_block = tl.program_id(1)
    row = own_block * BLOCK + tl.arange(0, BLOCK)
    part = qkv + sequence * length * (3 * HEADS * D) + at
    q = _load(part, row, d, length, 3 * HEADS * D, bias, at, BIAS)
    seed = head
    if DROPOUT:
        seed = tl.load(seeds)
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    attended = tl.zeros([BLOCK, D], tl.float32)
    if ALONE:
        top, total, attended = _attend(
            part,
            q,
            bias,
            at,
            row,
            d,
            0,
            length,
            scale,
            seed,
            head,
            dropped,
            top,
            total,
            attended,
            HEADS,
            D,
            BIAS,
            DROPOUT,
            BLOCK,
        )
    else:
        for block in range(own_block + 1):
            top, total, attended = _attend(
                part,
                q,
                bias,
                at,
                row,
                d,
                block,
                length,
                scale,
                seed,
                head,
                dropped,
                top,
                total,
                attended,
                HEADS,
                D,
                BIAS,
                DROPOUT,
                BLOCK,
            )
    attended = attended * (inverse / total)[:, None]
    inside = row < length
    place = (sequence * length + row) * (HEADS * D) + at
    tl.store(out + place[:, None] + d[None, :], attended.to(out.dtype.element_ty), inside[:, None])
    if not ALONE:
        tl.store(log_sums + head * length + row, top + tl.log2(total), inside)


@triton.jit
def _slopes(
    q,
    k,
    v,
    do,
    row,
    column,
    block,
    length,
    scale,
    seed,
    head,
    dropped,
    inverse,
    log_sum,
    delta,
    ALONE: tl.constexpr,
    DROPOUT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Weights behind the dropout, and the gradient of the logits, of queries and keys: [BLOCK, BLOCK] each.

    A block that is alone finds the sums of its queries itself: ``log_sum`` and ``delta`` are not looked at.
    """
    s = _scores(q, k, row, column, length, scale)
    if ALONE:
        p = tl.exp2(s - tl.max(s, 1)[:, None])
        p = p / tl.sum(p, 1)[:, None]
    else:
        p = tl.exp2(s - log_sum[:, None])
    slope = tl.dot(do, tl.trans(v), input_precision="ieee")
    used = p
    if DROPOUT:
        stays = kept(seed, head * length + row, block * (BLOCK // 8), dropped, BLOCK // 8)
        used = tl.where(stays, p * inverse, 0.0)
        slope = tl.where(stays, slope * inverse, 0.0)
    if ALONE:
        delta = tl.sum(p * slope, 1)
    return used, p * (slope - delta[:, None])


@triton.jit
def _sums_of(out, log_sums, do, row, d, length, stride):
    """The logarithm of each query's sum, and what its gradient has in common for all keys: [BLOCK] each."""
    inside = row < length
    o = tl.load(out + row.to(tl.int64)[:, None] * stride + d[None, :], inside[:, None], 0.0)
    delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    return tl.load(log_sums + row, inside, float("inf")), delta


@triton.jit(do_not_specialize=["length"])
def attention_gradient_kernel(
    qkv,
    bias,
    seeds,
    out,
    log_sums,
    gradient,
    result,
    sums,
    length,
    scale,
    factor,
    dropped,
    inverse,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    ALONE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradients of a block of keys and values, and of the same block of queries."""
    head = tl.program_id(0).to(tl.int64)
    sequence = head // HEADS
    at = (head - sequence * HEADS) * D
    WIDTH: tl.constexpr = HEADS * D
    d = tl.arange(0, D)
    own_block = tl.program_id(1)
    own = own_block * BLOCK + tl.arange(0, BLOCK)
    part = qkv + sequence * length * (3 * WIDTH) + at
    place = sequence * length * WIDTH + at  # of this head in what is one third as wide
    seed = head
    if DROPOUT:
        seed = tl.load(seeds)
    k = _load(part + WIDTH, own, d, length, 3 * WIDTH, bias, WIDTH + at, BIAS)
    v = _load(part + 2 * WIDTH, own, d, length, 3 * WIDTH, bias, 2 * WIDTH + at, BIAS)
    q = _load(part, own, d, length, 3 * WIDTH, bias, at, BIAS)
    do = _load(gradient + place, own, d, length, WIDTH, bias, at, False)
    if ALONE:
        used, ds = _slopes(
            q,
            k,
            v,
            do,
            own,
            own,
            0,
            length,
            scale,
            seed,
            head,
            dropped,
            inverse,
            0.0,
            0.0,
            ALONE,
            DROPOUT,
            BLOCK,
        )
        ds = ds.to(q.dtype)
        dv = tl.dot(tl.trans(used.to(do.dtype)), do, input_precision="ieee")
        dk = tl.dot(tl.trans(ds), q, input_precision="ieee")
        dq = tl.dot(ds, k, input_precision="ieee")
    else:
        dq = tl.zeros([BLOCK, D], tl.float32)
        dk = tl.zeros([BLOCK, D], tl.float32)
        dv = tl.zeros([BLOCK, D], tl.float32)
        own_log_sum, own_delta = _sums_of(out + place, log_sums + head * length, do, own, d, length, WIDTH)
        for block in range(own_block, tl.cdiv(length, BLOCK)):
            row = block * BLOCK + tl.arange(0, BLOCK)
            q_there = _load(part, row, d, length, 3 * WIDTH, bias, at, BIAS)
            do_there = _load(gradient + place, row, d, length, WIDTH, bias, at, False)
            log_sum, delta = _sums_of(out + place, log_sums + head * length, do_there, row, d, length, WIDTH)
            used, ds = _slopes(
                q_there,
                k,
                v,
                do_there,
                row,
                own,
                own_block,
                length,
                scale,
                seed,
                head,
                dropped,
                inverse,
                log_sum,
                delta,
                ALONE,
                DROPOUT,
                BLOCK,
            )
            dv = tl.dot(tl.trans(used.to(do.dtype)), do_there, dv, input_precision="ieee")
            dk = tl.dot(tl.trans(ds.to(q.dtype)), q_there, dk, input_precision="ieee")
        for block in range(own_block + 1):
            column = block * BLOCK + tl.arange(0, BLOCK)
            k_there = _load(part + WIDTH, column, d, length, 3 * WIDTH, bias, WIDTH + at, BIAS)
            v_there = _load(part + 2 * WIDTH, column, d, length, 3 * WIDTH, bias, 2 * WIDTH + at, BIAS)
            used, ds = _slopes(
                q,
                k_there,
                v_there,
                do,
                own,
                column,
                block,
                length,
                scale,
                seed,
                head,
                dropped,
                inverse,
                own_log_sum,
                own_delta,
                ALONE,
                DROPOUT,
                BLOCK,
            )
            dq = tl.dot(ds.to(k.dtype), k_there, dq, input_precision="ieee")
    dq *= factor
    dk *= factor
    inside = (own < length)[:, None]
    target = result + (sequence * length + own)[:, None] * (3 * WIDTH) + at + d[None, :]
    tl.store(target, dq.to(result.dtype.element_ty), inside)
    tl.store(target + WIDTH, dk.to(result.dtype.element_ty), inside)
    tl.store(target + 2 * WIDTH, dv.to(result.dtype.element_ty), inside)
    if BIAS:
        # Rows behind the end have gradients of zero: as queries their incoming gradient is, as keys nobody sees them.
        total = sums + (sequence * tl.num_programs(1) + own_block) * (3 * WIDTH) + at + d
        tl.store(total, tl.sum(dq, 0))
        tl.store(total + WIDTH, tl.sum(dk, 0))
        tl.store(total + 2 * WIDTH, tl.sum(dv, 0))


def _options(qkv: Tensor, heads: int, bias: Tensor | None, dropped: int) -> dict[str, object]:
    D = qkv.shape[2] // (3 * heads)
    return {
        "length": qkv.shape[1],
        "scale": math.log2(math.e) / math.sqrt(D),
        "dropped": dropped,
        "inverse": 65536 / (65536 - dropped),
        "HEADS": heads,
        "D": D,
        "BIAS": bias is not None,
        "DROPOUT": dropped > 0,
        "BLOCK": BLOCK,
        "num_warps": 2 if D <= 32 else 4,
        "num_stages": 2,
    }


def blocks(length: int) -> int:
    """Blocks of queries of a sequence."""
    return triton.cdiv(length, BLOCK)


def attention(
    qkv: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    heads: int,
    dropped: int,
    out: Tensor,
    log_sums: Tensor | None,
) -> None:
    """Fills ``out`` [B, L, W] and, with more than one block, ``log_sums`` float32 [B * heads, L].

    qkv [B, L, 3 * W] contiguous; bias [3 * W]; seed int64 [1]; ``dropped`` of 65536 weights are dropped.
    """
    B, L, _ = qkv.shape
    if B == 0 or L == 0:
        return
    with on_device_of(qkv):
        attention_kernel[(B * heads, blocks(L))](
            qkv,
            bias,
            seed,
            out,
            log_sums,
            ALONE=blocks(L) == 1,
            **_options(qkv, heads, bias, dropped),
        )


def attention_gradient(
    qkv: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    heads: int,
    dropped: int,
    out: Tensor | None,
    log_sums: Tensor | None,
    gradient: Tensor,
    result: Tensor,
    sums: Tensor | None,
) -> None:
    """Fills ``result``, as qkv, and with a bias ``sums`` float32 [B, blocks, 3 * W], whose sum is its gradient.

    ``out`` and ``log_sums`` are needed with more than one block; gradient [B, L, W] is contiguous.
    """
    B, L, W = gradient.shape
    if B == 0 or L == 0:
        return
    with on_device_of(qkv):
        attention_gradient_kernel[(B * heads, blocks(L))](
            qkv,
            bias,
            seed,
            out,
            log_sums,
            gradient,
            result,
            sums,
            factor=math.sqrt(heads / W),
            ALONE=blocks(L) == 1,
            **_options(qkv, heads, bias, dropped),
        )
