"""Offsets beyond 2^31 elements, in memory of which only the touched pages exist."""

from __future__ import annotations

import mmap

import pytest
import torch
from torch import Tensor

from goskill import ops

NO_RESERVE = 0x4000  # MAP_NORESERVE, which Python names from 3.13 on
FAR = 2**30 + 17  # between rows: the third begins beyond 2^31


def far_rows(rows: Tensor) -> Tensor:
    """The same rows [3, D], ``FAR`` elements apart."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    elements = 2 * FAR + rows.shape[1]
    memory = mmap.mmap(-1, elements * rows.element_size(), flags=flags)
    far = torch.frombuffer(memory, dtype=rows.dtype, count=elements).as_strided(rows.shape, (FAR, 1))
    return far.copy_(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_lie_beyond_32_bit_offsets(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows, codebook = torch.randn(3, 33).to(dtype), torch.randn(40, 33)
    indices, distance = ops.nearest_code(far_rows(rows), codebook, return_distance=True)
    near_indices, near_distance = ops.nearest_code(rows, codebook, return_distance=True)
    assert torch.equal(indices, near_indices)
    assert torch.equal(distance, near_distance)
    for far, near in zip(
        ops.vector_quantize(far_rows(rows), codebook), ops.vector_quantize(rows, codebook), strict=True
    ):
        assert torch.equal(far, near)
    target = torch.tensor([4, 0, 32])
    assert ops.focal_loss(far_rows(rows), target) == ops.focal_loss(rows, target)


def test_more_than_two_to_the_31_elements() -> None:
    """One row, repeated without memory; every one of the rows gets its index."""
    row = torch.zeros(512)
    row[0] = 1.0
    rows = 2**31 // 512 + 5
    indices = ops.nearest_code(row.expand(rows, 512), torch.stack([torch.zeros(512), row]))
    assert indices.shape == (rows,)
    assert (indices == 1).all()
