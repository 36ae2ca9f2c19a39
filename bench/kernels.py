"""Nearest code, the vector-quantisation training step and focal loss beside what people use today.

Every test first asserts that both sides give the same answer. On a GPU (``-m gpu``) the same work runs as a CUDA
graph as well, and ``byte_floor`` is the time that reading and writing every byte once takes at the bandwidth
of a copy measured in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from goskill import ops
from goskill.nn import VectorQuantize

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
LOOKUPS = [(1_000_000, 64, 16), (1_000_000, 64, 1024)]
STEPS = [(800, 64, 16), (65_536, 64, 1024)]
LOSSES = [(8192, 16), (2048, 32_768)]


def measure(benchmark: Any, run: Callable[[], Any], peer: bool = False, **facts: Any) -> None:
    """Times ``run``; one warm-up round pays for compilation, and the rounds are few where a round is long."""
    benchmark.extra_info.update(facts)
    if peer:
        benchmark.extra_info["peer"] = True
    benchmark.pedantic(
        run, rounds=facts.get("rounds", 7), iterations=facts.get("iterations", 1), warmup_rounds=2
    )


def rounds(work: int) -> dict[str, int]:
    """Many short rounds, few long ones."""
    return {"rounds": 200, "iterations": 5} if work < 10_000_000 else {"rounds": 7, "iterations": 1}


def lookup_data(rows: int, dim: int, codes: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, codebook = torch.randn(rows, dim, generator=generator), torch.randn(codes, dim, generator=generator)
    return x.to(device), codebook.to(device)


def lookup(name: str, x: Tensor, codebook: Tensor) -> Callable[[], Any]:
    """The function that finds the nearest codes by ``name``."""
    if name == "goskill":
        return lambda: ops.nearest_code(x, codebook)
    if name == "torch.cdist argmin":
        return lambda: torch.cdist(x, codebook).argmin(-1)
    if name == "compiled cdist argmin":
        compiled = torch.compile(lambda x, codebook: torch.cdist(x, codebook).argmin(-1))
        return lambda: compiled(x, codebook)
    if name == "faiss knn":
        faiss = pytest.importorskip("faiss")
        rows, codes = x.numpy(), codebook.numpy()
        return lambda: torch.from_numpy(faiss.knn(rows, codes, 1)[1][:, 0])
    sklearn = pytest.importorskip("sklearn.metrics")
    rows, codes = x.numpy(), codebook.numpy()
    return lambda: torch.from_numpy(np.asarray(sklearn.pairwise_distances_argmin(rows, codes)))


def assert_as_near(x: Tensor, codebook: Tensor, ours: Tensor, theirs: Tensor) -> None:
    """Both chose codes at the same distance, up to the rounding of float32."""
    mine, other = ((x - codebook[indices]).square().sum(-1) for indices in (ours, theirs))
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["goskill", "torch.cdist argmin", "compiled cdist argmin", "faiss knn", "scikit-learn argmin"]
)
@pytest.mark.parametrize(("rows", "dim", "codes"), LOOKUPS)
def test_nearest_code(benchmark: Any, rows: int, dim: int, codes: int, name: str) -> None:
    benchmark.group = f"nearest code {rows}x{dim}, {codes} codes"
    x, codebook = lookup_data(rows, dim, codes)
    run = lookup(name, x, codebook)
    few = 20_000
    assert_as_near(x[:few], codebook, ops.nearest_code(x[:few], codebook), lookup(name, x[:few], codebook)())
    count = 7 if codes < 100 else 3
    measure(benchmark, run, peer=name != "goskill", label=name, rounds=count, bytes=x.nbytes + 8 * rows)


def quantizer(name: str, dim: int, codes: int, device: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if name == "goskill":
        return VectorQuantize(dim, codes).to(device)
    package = pytest.importorskip("vector_quantize_pytorch")
    # Straight-through on both sides: the package's default gradient costs more.
    module: torch.nn.Module = package.VectorQuantize(dim, codes, rotation_trick=False).to(device)
    return module


def training_step(module: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """One step from a leaf: quantise, move the codebook, gradients back to x."""
    x.grad = None
    quantized, _, loss = module(x)
    (quantized.sum() + loss).backward()
    result: Tensor = loss
    return result


@pytest.mark.parametrize("name", ["goskill", "vector-quantize-pytorch", "vector-quantize-pytorch compiled"])
@pytest.mark.parametrize(("rows", "dim", "codes"), STEPS)
def test_vector_quantize_step(benchmark: Any, rows: int, dim: int, codes: int, name: str) -> None:
    benchmark.group = f"vector quantisation step {rows}x{dim}, {codes} codes"
    x = lookup_data(rows, dim, codes)[0].unsqueeze(0).requires_grad_()
    ours, module = quantizer("goskill", dim, codes, "cpu"), quantizer(name, dim, codes, "cpu")
    ours.load_state_dict(module.state_dict())
    step = torch.compile(module) if name.endswith("compiled") else module
    torch.testing.assert_close(training_step(ours, x), training_step(step, x))
    for mine, other in zip(ours.buffers(), module._codebook.buffers(), strict=True):
        # A few rows in 100,000 lie as near to two codes as float32 can tell.
        assert (mine.float() - other.float()).abs().sum() <= 1e-3 * other.float().abs().sum()
    measure(
        benchmark,
        lambda: training_step(step, x),
        peer=name != "goskill",
        label=name,
        **rounds(rows * dim * codes),
    )


def composed_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    log_p = F.log_softmax(logits, -1).gather(1, target.unsqueeze(1)).squeeze(1)
    return (-((1 - log_p.exp()) ** 2) * log_p).mean()


def loss_function(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    if name == "goskill":
        return ops.focal_loss
    if name == "eager composition":
        return composed_focal_loss
    compiled: Callable[[Tensor, Tensor], Tensor] = torch.compile(composed_focal_loss)
    return compiled


def loss_step(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor) -> Tensor:
    logits.grad = None
    loss = function(logits, target)
    loss.backward()
    return loss


@pytest.mark.parametrize("name", ["goskill", "eager composition", "compiled composition"])
@pytest.mark.parametrize(("rows", "classes"), LOSSES)
def test_focal_loss(benchmark: Any, rows: int, classes: int, name: str) -> None:
    benchmark.group = f"focal loss forward+backward {rows}x{classes}"
    logits = torch.randn(rows, classes, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.arange(rows) % classes
    function = loss_function(name)
    torch.testing.assert_close(loss_step(function, logits, target), loss_step(ops.focal_loss, logits, target))
    assert logits.grad is not None
    ours = logits.grad.clone()
    loss_step(function, logits, target)
    torch.testing.assert_close(logits.grad, ours, rtol=1e-4, atol=1e-8)
    measure(
        benchmark,
        lambda: loss_step(function, logits, target),
        peer=name != "goskill",
        label=name,
        bytes=2 * logits.nbytes,
        **rounds(logits.numel()),
    )


def synchronized(run: Callable[[], Any]) -> Callable[[], None]:
    def call() -> None:
        run()
        torch.cuda.synchronize()

    return call


def graphed(run: Callable[[], Any]) -> Callable[[], None]:
    """``run`` captured as a CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return synchronized(graph.replay)


def byte_floor(count: int) -> float:
    """Seconds that moving ``count`` bytes takes at the bandwidth of a copy on this device, now."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    times = []
    for _ in range(10):
        start.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return count / (2 * source.numel() / sorted(times)[5])


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", ["goskill", "compiled cdist argmin"])
@pytest.mark.parametrize(
    ("rows", "dim", "codes"), [(10_000_000, 64, 16), (10_000_000, 64, 256), (1_000_000, 64, 8192)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nearest_code_on_gpu(
    benchmark: Any, rows: int, dim: int, codes: int, dtype: torch.dtype, name: str
) -> None:
    benchmark.group = f"GPU nearest code {rows}x{dim}, {codes} codes, {dtype}"
    x, codebook = lookup_data(rows, dim, codes, "cuda")
    x, codebook = x.to(dtype), codebook.to(dtype)
    few = 20_000
    assert_as_near(
        x[:few].float(),
        codebook.float(),
        ops.nearest_code(x[:few], codebook),
        lookup("torch.cdist argmin", x[:few].float(), codebook.float())(),
    )
    if name != "goskill":
        x, codebook = x[: rows // 10], codebook  # the dense matrix does not fit otherwise
    measure(
        benchmark,
        synchronized(lookup(name, x, codebook)),
        peer=name != "goskill",
        label=name,
        rows=len(x),
        byte_floor=byte_floor(x.nbytes + 8 * len(x)),
    )


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("graph", [False, True], ids=["launched", "graph"])
@pytest.mark.parametrize("name", ["goskill", "vector-quantize-pytorch"])
@pytest.mark.parametrize(("rows", "dim", "codes"), STEPS)
def test_vector_quantize_step_on_gpu(
    benchmark: Any, rows: int, dim: int, codes: int, name: str, graph: bool
) -> None:
    benchmark.group = f"GPU vector quantisation step {rows}x{dim}, {codes} codes"
    x = lookup_data(rows, dim, codes, "cuda")[0].unsqueeze(0).requires_grad_()
    module = quantizer(name, dim, codes, "cuda")
    run = (graphed if graph else synchronized)(lambda: training_step(module, x))
    measure(benchmark, run, peer=name != "goskill", label=name, graph=graph, rounds=100)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("graph", [False, True], ids=["launched", "graph"])
@pytest.mark.parametrize("name", ["goskill", "eager composition", "compiled composition"])
@pytest.mark.parametrize(("rows", "classes"), [(8192, 16), (8192, 4096), (8192, 128_256)])
def test_focal_loss_on_gpu(benchmark: Any, rows: int, classes: int, name: str, graph: bool) -> None:
    benchmark.group = f"GPU focal loss forward+backward {rows}x{classes}, bfloat16"
    logits = torch.randn(rows, classes, device="cuda", dtype=torch.bfloat16).requires_grad_()
    target = torch.randint(0, classes, (rows,), device="cuda")
    function = loss_function(name)
    run = (graphed if graph else synchronized)(lambda: loss_step(function, logits, target))
    facts = {"graph": graph, "byte_floor": byte_floor(2 * logits.nbytes)}
    measure(benchmark, run, peer=name != "goskill", label=name, rounds=50, **facts)
