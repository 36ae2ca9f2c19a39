"""Memory for batches: packed, reused, and never while anyone still looks at it."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_ALIGNMENT = 64
TORCH_DTYPES = {
    np.dtype(name): getattr(torch, name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
    )
}

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class ArraySpec:
    """One array of a batch, of numbers or truth values."""

    name: str
    dtype: np.dtype[Any] | type[np.generic]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class HostBatch:
    """One batch in host memory: the same bytes as arrays to fill, as tensors, and packed if they are pinned."""

    arrays: Arrays
    tensors: dict[str, Tensor]
    packed: Tensor | None


class BatchBuffers:
    """Hands out the arrays of a batch as views of one packed block of memory, and makes tensors of them.

    Ordinary memory: a block is used again once no tensor looks at it, and not before, so that a caller may
    keep a batch, or a slice of it, as long as it likes. (Fresh memory costs a page fault every 4 KiB,
    which is more than filling it.) Pinned memory comes from torch's caching allocator, which in the same
    way waits for the batch to be dropped, and for copies to a device that are under way. A batch for a
    device is filled in pinned memory and crosses in one copy.
    """

    def __init__(self, specs: list[ArraySpec], device: torch.device, pin_memory: bool, kept: int = 4) -> None:
        self._specs = specs
        self._device = device
        self._pinned = pin_memory or device.type == "cuda"
        self._kept = kept
        self._offsets: list[int] = []
        size = 0
        for spec in specs:
            self._offsets.append(size)
            used = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
            size += -(-used // _ALIGNMENT) * _ALIGNMENT
        self._size = size
        self._blocks: list[Arrays] = []
        self._unused_references = 0

    def take(self) -> HostBatch:
        """The memory of one batch, to be filled and handed to :meth:`deliver`."""
        if not self._pinned:
            arrays = self._free_block()
            return HostBatch(arrays, {name: torch.from_numpy(array) for name, array in arrays.items()}, None)
        packed = torch.empty(self._size, dtype=torch.uint8, pin_memory=True)
        return HostBatch(self._views(packed.numpy()), self._split(packed), packed)

    def deliver(self, batch: HostBatch) -> dict[str, Tensor]:
        """What :meth:`take` gave, once filled, as tensors on the device."""
        if self._device.type == "cpu":
            return batch.tensors
        if batch.packed is None:
            return {name: tensor.to(self._device) for name, tensor in batch.tensors.items()}
        return self._split(batch.packed.to(self._device, non_blocking=True))

    def _split(self, packed: Tensor) -> dict[str, Tensor]:
        result = {}
        for spec, offset in zip(self._specs, self._offsets, strict=True):
            size = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
            part = packed[offset : offset + size]
            result[spec.name] = part.view(TORCH_DTYPES[np.dtype(spec.dtype)]).view(spec.shape)
        return result

    def _views(self, block: npt.NDArray[np.uint8]) -> Arrays:
        return {
            spec.name: np.ndarray(spec.shape, spec.dtype, buffer=block, offset=offset)
            for spec, offset in zip(self._specs, self._offsets, strict=True)
        }

    def _free_block(self) -> Arrays:
        for arrays in self._blocks:
            if _references(arrays) == self._unused_references:
                return arrays
        arrays = self._views(np.empty(self._size, dtype=np.uint8))
        if len(self._blocks) < self._kept:
            self._blocks.append(arrays)
            self._unused_references = _references(arrays)
        return arrays


def _references(arrays: Arrays) -> int:
    """How many references the most used of the arrays has: each tensor that looks at one holds one."""
    return max(map(sys.getrefcount, arrays.values()))
