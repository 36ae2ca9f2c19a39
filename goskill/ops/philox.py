"""The random bits of dropout in plain PyTorch, as ``goskill.kernels.dropout_bits`` draws them on a GPU.

Philox-4x32 with seven rounds (Salmon et al. 2011): a pure function of a seed and an element's place, so that a
backward pass draws the bits of its forward pass again, and a CPU those of a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 1 << 16  # probabilities are rounded to 16 bits
ROUNDS = 7
_WORD = 0xFFFFFFFF
_ROUND_A, _ROUND_B = 0xD2511F53, 0xCD9E8D57
_KEY_A, _KEY_B = 0x9E3779B9, 0xBB67AE85


def draw_seeds(count: int, device: torch.device) -> Tensor:
    """Seeds int64 [count] from the device's default generator, also within a CUDA graph."""
    return torch.randint(-(1 << 63), (1 << 63) - 1, (count,), dtype=torch.int64, device=device)


def dropped_levels(probability: float) -> int:
    """How many of ``LEVELS`` numbers mean that an element is dropped."""
    return round(probability * LEVELS)


def kept(seed: Tensor, rows: int, columns: int, dropped: int) -> Tensor:
    """Which elements of a matrix stay: bool [rows, columns]. ``seed`` is int64 [1]."""
    groups = -(-columns // 8)
    row = torch.arange(rows, device=seed.device)[:, None].expand(rows, groups)
    group = torch.arange(groups, device=seed.device).expand(rows, groups)
    words = _philox(seed, row & _WORD, group, row >> 32, torch.zeros_like(row))
    first, second, third, fourth = words
    order = torch.stack([first, third, second, fourth], -1)  # [rows, groups, 4]
    numbers = torch.cat([order & 0xFFFF, order >> 16], -1)
    return numbers.flatten(1)[:, :columns] >= dropped


def dropout(x: Tensor, seed: Tensor | None, dropped: int) -> Tensor:
    """Zero elements of ``x`` [..., columns], as a matrix of rows, and scale up the others."""
    if dropped == 0:
        return x
    assert seed is not None
    rows = x.reshape(-1, x.shape[-1])
    stays = kept(seed, rows.shape[0], rows.shape[1], dropped).view(x.shape)
    return torch.where(stays, x * (LEVELS / (LEVELS - dropped)), 0.0)


def _philox(seed: Tensor, *counter: Tensor) -> tuple[Tensor, ...]:
    """Four words below 2^32, as int64, for counters of four words each."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _WORD, (seed >> 32) & _WORD
    for _ in range(ROUNDS):
        a, b = c0 * _ROUND_A, c2 * _ROUND_B  # what overflows are the bits beyond 64
        c0, c1 = ((b >> 32) & _WORD) ^ c1 ^ k0, b & _WORD
        c2, c3 = ((a >> 32) & _WORD) ^ c3 ^ k1, a & _WORD
        k0, k1 = (k0 + _KEY_A) & _WORD, (k1 + _KEY_B) & _WORD
    return c0, c1, c2, c3
