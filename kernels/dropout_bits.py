"""Random bits for dropout, counted and not stored: the backward pass draws the same ones again.

Philox-4x32 with seven rounds (Salmon et al. 2011). A call gives four words: eight numbers of 16 bits for eight
neighbouring elements of a row; ``goskill.ops.philox`` is the same in plain PyTorch.
"""

from __future__ import annotations

import triton
import triton.language as tl

ROUNDS = tl.constexpr(7)


@triton.jit
def kept(seed, row, first_group, dropped, GROUPS: tl.constexpr):
    """Whether elements stay: bool [R, 8 * GROUPS], for rows int64 [R] from element ``8 * first_group`` on.

    ``dropped`` is the probability to drop one, in 1 / 65536.
    """
    zero = tl.zeros([row.shape[0], GROUPS], tl.uint32)
    group = first_group + tl.arange(0, GROUPS)
    low = (row & 0xFFFFFFFF).to(tl.uint32)[:, None] + zero
    high = (row >> 32).to(tl.uint32)[:, None] + zero
    a, b, c, d = tl.philox(seed, low, group.to(tl.uint32)[None, :] + zero, high, zero, ROUNDS)
    halves = tl.join(_four(a, b, c, d, 0), _four(a, b, c, d, 16))  # [R, G, 2, 2, 2]
    numbers = tl.reshape(tl.permute(halves, (0, 1, 4, 2, 3)), [row.shape[0], 8 * GROUPS])
    return numbers >= dropped


@triton.jit
def _four(a, b, c, d, SHIFT: tl.constexpr):
    """16 bits of each word: [R, G, 2, 2], in the order a, c, b, d."""
    left = tl.join((a >> SHIFT) & 0xFFFF, (b >> SHIFT) & 0xFFFF)
    right = tl.join((c >> SHIFT) & 0xFFFF, (d >> SHIFT) & 0xFFFF)
    return tl.join(left, right).to(tl.int32)
