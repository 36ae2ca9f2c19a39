"""The operations on a real CUDA device."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from goskill import ops
from goskill.nn import VectorQuantize

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

EPSILON = torch.finfo(torch.float32).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("rows", "dim", "codes"),
    [(0, 4, 3), (1, 1, 1), (1000, 64, 16), (5000, 64, 1024), (333, 512, 100), (99, 17, 5000)],
)
def test_nearest_code_is_nearest(rows: int, dim: int, codes: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(rows, 2 * dim, device="cuda").to(dtype)[:, ::2]
    codebook = torch.randn(codes, dim, device="cuda")
    indices, distance = ops.nearest_code(x, codebook, return_distance=True, impl="triton")
    if rows == 0:
        assert indices.shape == (0,)
        return
    distances = torch.cdist(x.double(), codebook.double()).square()
    chosen = distances.gather(1, indices[:, None]).squeeze(1)
    largest = codebook.square().sum(-1).max() + 2 * x.double().norm(dim=-1) * codebook.norm(dim=-1).max()
    assert (chosen - distances.min(1).values <= 4 * EPSILON * (dim**0.5 + 4) * largest).all()
    torch.testing.assert_close(distance.double(), chosen, rtol=1e-4, atol=1e-6)


def run_kernels(module: ModuleType, x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    indices = torch.full((len(x),), -7, device="cuda")
    distance = torch.full((len(x),), torch.nan, device="cuda")
    module.nearest_code(x, codebook, False, indices, distance)
    alone = torch.full((len(x),), -7, device="cuda")
    module.nearest_code(x, codebook, False, alone, None)
    assert torch.equal(alone, indices)
    return indices, distance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("rows", "dim", "codes"),
    [
        (300_000, 64, 16),
        (100_000, 64, 100),
        (100_001, 64, 256),
        (5000, 64, 8192),
        (20_000, 100, 300),
        (7, 3, 2),
    ],
)
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_screened_indices_are_those_of_the_direct_kernel(
    rows: int, dim: int, codes: int, offset: float, dtype: torch.dtype
) -> None:
    from goskill.kernels import nearest_code, screened

    torch.manual_seed(0)
    x = (torch.randn(rows, dim, device="cuda") + offset).to(dtype)
    codebook = torch.randn(codes, dim, device="cuda") + offset
    codebook[codes // 2] = codebook[0]
    x[5, 1], x[6, 2] = torch.nan, torch.inf
    ours, distance = run_kernels(screened, x, codebook)
    expected, expected_distance = run_kernels(nearest_code, x, codebook)
    assert torch.equal(ours, expected)
    torch.testing.assert_close(distance, expected_distance, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert torch.equal(run_kernels(screened, x, codebook)[0], ours)


def test_screening_replays_as_a_cuda_graph_for_other_rows() -> None:
    torch.manual_seed(0)
    x, codebook = torch.randn(100_000, 64, device="cuda"), torch.randn(256, 64, device="cuda")
    ops.nearest_code(x, codebook)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            indices = ops.nearest_code(x, codebook)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # How many rows are scored twice is known on the device alone: almost all of the second ones.
    for rows in (torch.randn_like(x), torch.randn_like(x) * 1e-6, torch.randn_like(x)):
        x.copy_(rows)
        graph.replay()
        assert torch.equal(indices, ops.nearest_code(rows, codebook))


def test_nearest_code_reaches_rows_beyond_int32_offsets() -> None:
    rows = 2**31 // 64 + 1000
    if torch.cuda.mem_get_info()[0] < 8 * 2**30:
        pytest.skip("needs 8 GiB of device memory")
    x = torch.zeros(rows, 64, dtype=torch.bfloat16, device="cuda")
    x[-1] = 1.0
    codebook = torch.stack([torch.zeros(64), torch.ones(64)]).cuda()
    indices = ops.nearest_code(x, codebook)
    assert indices[-1] == 1
    assert indices.sum() == 1


@pytest.mark.parametrize("codes", [16, 1024])
@pytest.mark.parametrize("masked", [False, True])
def test_vector_quantize_equals_float64_and_repeats_bit_for_bit(codes: int, masked: bool) -> None:
    torch.manual_seed(0)
    x, codebook = torch.randn(4000, 64, device="cuda"), torch.randn(codes, 64, device="cuda")
    mask = torch.rand(4000, device="cuda") > 0.3 if masked else None

    def run(x: Tensor, codebook: Tensor) -> list[Any]:
        rows, codes = x.clone().requires_grad_(), codebook.clone().requires_grad_()
        result = ops.vector_quantize(rows, codes, mode="gradient", mask=mask, return_statistics=True)
        (result[0].square().sum() + 3 * result[2]).backward()
        return [result[0].detach(), result[1], result[2].detach(), *result[3], rows.grad, codes.grad]

    first, second, exact = run(x, codebook), run(x, codebook), run(x.double(), codebook.double())
    for ours, again, truth in zip(first, second, exact, strict=True):
        assert torch.equal(ours, again)
        torch.testing.assert_close(ours.double(), truth.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (8000, 16), (40_000, 10), (70, 32_768), (3, 262_144)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss_equals_float64(rows: int, classes: int, smoothing: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(rows, classes, device="cuda") * 3).to(dtype)
    target = torch.randint(0, classes, (rows,), device="cuda")
    target[1::7] = -100
    for reduction in ("none", "mean", "sum"):
        results = []
        for kind, impl in ((dtype, "triton"), (torch.float64, "reference")):
            leaf = logits.to(kind, copy=True).requires_grad_()
            loss = ops.focal_loss(leaf, target, label_smoothing=smoothing, reduction=reduction, impl=impl)  # type: ignore[arg-type]
            loss.sum().backward()
            results.append((loss.detach().double(), leaf.grad.double()))
        size = results[1][1].abs().max()
        torch.testing.assert_close(results[0][0], results[1][0], rtol=2e-5, atol=1e-6)
        assert (results[0][1] - results[1][1]).abs().max() <= 4 * torch.finfo(dtype).eps * size


def training_step(module: VectorQuantize, x: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    quantized, _, loss = module(x)
    total = quantized.square().mean() + loss + ops.focal_loss(logits, target)
    total.backward()
    return total.detach()


@pytest.mark.parametrize("codes", [16, 1024])
def test_a_training_step_replays_as_a_cuda_graph_without_synchronisation(codes: int) -> None:
    torch.manual_seed(0)
    module = VectorQuantize(64, codes, threshold_ema_dead_code=2).cuda()
    other = VectorQuantize(64, codes, threshold_ema_dead_code=2).cuda()
    x = torch.randn(800, 64, device="cuda", requires_grad=True)
    logits, target = (
        torch.randn(800, 16, device="cuda", requires_grad=True),
        torch.randint(0, 16, (800,), device="cuda"),
    )
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        training_step(other, x, logits, target)
        training_step(module, x, logits, target)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        x.grad = logits.grad = None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = training_step(module, x, logits, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    assert captured.isfinite()
    assert x.grad is not None
    assert logits.grad is not None
    assert (x.grad != 0).any()


def test_operations_compile_as_one_graph() -> None:
    torch.manual_seed(0)
    module = VectorQuantize(64, 16).cuda()
    step = torch.compile(module, fullgraph=True)
    x = torch.randn(800, 64, device="cuda", requires_grad=True)
    quantized, _, loss = step(x)
    (quantized.sum() + loss).backward()
    assert x.grad is not None


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_operations_run_on_the_tensors_own_device() -> None:
    x, codebook = torch.randn(100, 8, device="cuda:1"), torch.randn(5, 8, device="cuda:1")
    with torch.cuda.device(0):
        indices = ops.nearest_code(x, codebook)
    assert indices.device == x.device
    assert torch.equal(indices.cpu(), ops.nearest_code(x.cpu(), codebook.cpu()))
