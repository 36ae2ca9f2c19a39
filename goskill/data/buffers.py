"""Memory for batches: packed, reused, and never while anyone still looks at it."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 64


@dataclass(frozen=True)
class ArraySpec:
    """One array of a batch."""

    name: str
    dtype: npt.DTypeLike
    shape: tuple[int, ...]


class BatchBuffers:
    """Hands out the arrays of a batch as views of one block of memory.

    A block is used again once no view of it is left, and not before: a caller may keep a batch, or a slice of
    it, as long as it likes. Fresh memory costs a page fault every 4 KiB, which is more than filling it.
    """

    def __init__(self, specs: list[ArraySpec], kept: int = 4) -> None:
        self._specs = specs
        self._kept = kept
        self._offsets: list[int] = []
        size = 0
        for spec in specs:
            self._offsets.append(size)
            used = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
            size += -(-used // _ALIGNMENT) * _ALIGNMENT
        self._size = size
        self._blocks: list[npt.NDArray[np.uint8]] = []
        self._unused_references = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return BatchBuffers, (self._specs, self._kept)

    def take(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays of one batch by name, uninitialised."""
        block = self._block()
        return {
            spec.name: np.ndarray(spec.shape, spec.dtype, buffer=block, offset=offset)
            for spec, offset in zip(self._specs, self._offsets, strict=True)
        }

    def _block(self) -> npt.NDArray[np.uint8]:
        for index in range(len(self._blocks)):
            if sys.getrefcount(self._blocks[index]) == self._unused_references:
                return self._blocks[index]
        block = np.empty(self._size, dtype=np.uint8)
        if len(self._blocks) < self._kept:
            self._blocks.append(block)
            del block
            self._unused_references = sys.getrefcount(self._blocks[-1])
            return self._blocks[-1]
        return block
