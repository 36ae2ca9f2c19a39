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
_TORCH_DTYPES = {np.float32: torch.float32, np.int64: torch.int64, np.bool_: torch.bool}

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class ArraySpec:
    """One array of a batch; ``dtype`` is numpy.float32, numpy.int64 or numpy.bool_."""

    name: str
    dtype: type[np.generic]
    shape: tuple[int, ...]


class BatchBuffers:
    """Hands out the arrays of a batch as views of one packed block of memory, and makes tensors of them.

    Ordinary memory: a block is used again once no view of it is left, and not before, so that a caller may
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
        self._blocks: list[npt.NDArray[np.uint8]] = []
        self._unused_references = 0

    def take(self) -> tuple[Arrays, Tensor | None]:
        """The uninitialised arrays of one batch by name, and the packed tensor behind them, if it is one."""
        packed = torch.empty(self._size, dtype=torch.uint8, pin_memory=True) if self._pinned else None
        block = self._free_block() if packed is None else packed.numpy()
        arrays = {
            spec.name: np.ndarray(spec.shape, spec.dtype, buffer=block, offset=offset)
            for spec, offset in zip(self._specs, self._offsets, strict=True)
        }
        return arrays, packed

    def tensors(self, arrays: Arrays, packed: Tensor | None) -> dict[str, Tensor]:
        """What :meth:`take` gave, once filled, as tensors on the device."""
        if packed is None:
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            if self._device.type == "cpu":
                return tensors
            return {name: tensor.to(self._device) for name, tensor in tensors.items()}
        packed = packed.to(self._device, non_blocking=True)
        result = {}
        for spec, offset in zip(self._specs, self._offsets, strict=True):
            size = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
            result[spec.name] = (
                packed[offset : offset + size].view(_TORCH_DTYPES[spec.dtype]).view(spec.shape)
            )
        return result

    def _free_block(self) -> npt.NDArray[np.uint8]:
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
