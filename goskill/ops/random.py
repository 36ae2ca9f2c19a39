"""Random numbers for dropout on the CPU, in C++: torch's generators draw one after the other, these many at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from goskill import _core

LEVELS = 1 << 16


def random_levels(shape: Sequence[int]) -> Tensor:
    """Random numbers, evenly over ``LEVELS``: int16 of that shape on the CPU.

    They follow from one number that torch's default generator draws, whatever the threads and the processor.
    """
    count = math.prod(shape)
    words = torch.empty((count + 1) // 2, dtype=torch.int32)
    seed = int(torch.empty((), dtype=torch.int64).random_())
    _core.random_words(seed=seed, out=words.data_ptr(), count=len(words), threads=torch.get_num_threads())
    return words.view(torch.int16)[:count].view(shape)
