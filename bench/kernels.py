"""Nearest code, the vector-quantisation training step and focal loss beside what people use today.

Every test first asserts that both sides give the same answer. ``byte_floor`` is the time that reading and writing
every byte once takes at the bandwidth of a copy measured in the same run (``copy_gb_per_s``), ``gb_per_s`` what the
median reached; ``series`` and ``size`` place a row in the plots of time against size. On a GPU (``-m gpu``) one
replay of a CUDA graph is timed that holds ``calls`` calls, so that launches by the host do not count; a peer that
cannot be captured is launched ``calls`` times before the device is waited for.
"""

from __future__ import annotations

import functools
import gc
import importlib
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from goskill import ops
from goskill.methods.sequence.acting_graphs import GraphedSteps
from goskill.nn import VectorQuantize

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
LOOKUPS = [(rows, 64, 16) for rows in (1000, 10_000, 100_000, 1_000_000)] + [(1_000_000, 64, 1024)]
STEPS = [(800, 64, 16), (8000, 64, 16), (80_000, 64, 16), (65_536, 64, 1024)]
LOSSES = [(8192, 16), (2048, 64), (2048, 1024), (2048, 32_768)]
# Those whose time is asked for come first.
GPU_LOOKUPS = [
    *((10_000_000, 64, codes) for codes in (16, 64, 128, 256)),
    *((1_000_000, 64, codes) for codes in (16, 256, 8192)),
    *((10_000, 64, codes) for codes in (16, 256)),
]
GPU_STEPS = [(800, 64, 16), (65_536, 64, 1024)]
GPU_LOSSES = [(8192, 128_256), (8192, 32_768), (8192, 4096), (8192, 1024), (8192, 16)]
LEAST_SECONDS = 2e-3  # on a GPU, what is timed together should take by its byte floor
MOST_CALLS = 100
LARGEST_MATRIX = 2**30  # distances that a peer which writes them all down holds at a time


def installed(name: str) -> Any:
    """The module ``name``, or a skip that says why it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name}: {error}")


def measure(benchmark: Any, run: Callable[[], Any], peer: bool = False, **facts: Any) -> None:
    """Times ``run``; one warm-up round pays for compilation, and the rounds are few where a round is long."""
    benchmark.extra_info.update(facts)
    if peer:
        benchmark.extra_info["peer"] = True
    benchmark.pedantic(
        run, rounds=facts.get("rounds", 7), iterations=facts.get("iterations", 1), warmup_rounds=2
    )
    if "bytes" in facts and benchmark.stats is not None:  # None with --benchmark-disable
        seconds = benchmark.stats.stats.median / facts.get("calls", 1)
        benchmark.extra_info["gb_per_s"] = facts["bytes"] / seconds / 1e9


def rounds(work: int) -> dict[str, int]:
    """Many short rounds, few long ones."""
    return {"rounds": 200, "iterations": 5} if work < 10_000_000 else {"rounds": 7, "iterations": 1}


@functools.cache
def seconds_per_byte(device: str) -> float:
    """What a copy takes for each byte that it reads or writes, now."""
    source = torch.ones(2**30 if device == "cuda" else 2**28, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    copies = 8 if device == "cuda" else 1  # so that the host's share does not count
    times = []
    for _ in range(11):
        synchronize(device)
        begin = time.perf_counter()
        for _ in range(copies):
            target.copy_(source)
        synchronize(device)
        times.append(time.perf_counter() - begin)
    return sorted(times)[5] / (2 * source.numel() * copies)


def byte_floor(count: int, device: str = "cpu") -> dict[str, float]:
    """Facts: ``count`` bytes, and the seconds that moving them takes at the bandwidth of a copy."""
    pace = seconds_per_byte(device)
    return {"bytes": count, "byte_floor": count * pace, "copy_gb_per_s": 1e-9 / pace}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def normal(*shape: int, device: str = "cpu", seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device)


def lookup_data(rows: int, dim: int, codes: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    return normal(rows, dim, device=device), normal(codes, dim, device=device, seed=1)


def cdist_argmin(x: Tensor, codebook: Tensor) -> Tensor:
    return torch.cdist(x, codebook).argmin(-1)


def in_parts(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, codebook: Tensor) -> Tensor:
    """``function`` of as many rows at a time as its matrix of distances has room for."""
    parts = x.split(max(1, LARGEST_MATRIX // len(codebook)))
    return (
        torch.cat([function(part, codebook) for part in parts]) if len(parts) > 1 else function(x, codebook)
    )


def lookup(name: str, x: Tensor, codebook: Tensor) -> Callable[[], Any]:
    """The function that finds the nearest codes by ``name``."""
    if name == "goskill":
        return lambda: ops.nearest_code(x, codebook)
    if name == "torch.cdist argmin":
        return lambda: in_parts(cdist_argmin, x, codebook)
    if name == "compiled cdist argmin":
        compiled = torch.compile(cdist_argmin)
        return lambda: in_parts(compiled, x, codebook)
    if name == "flash-kmeans assignment":
        assign = installed("flash_kmeans.assign_euclid_triton").euclid_assign_triton
        squares = x.float().square().sum(-1)  # a clustering computes them once
        return lambda: assign(x[None], codebook[None], squares[None])[0]
    rows, codes = x.numpy(), codebook.numpy()
    if name == "faiss knn":
        faiss = installed("faiss")
        return lambda: torch.from_numpy(faiss.knn(rows, codes, 1)[1][:, 0])
    metrics = installed("sklearn.metrics")
    return lambda: torch.from_numpy(np.asarray(metrics.pairwise_distances_argmin(rows, codes)))


def lookup_facts(x: Tensor, codebook: Tensor) -> dict[str, Any]:
    """Where a lookup stands in the plots, and its byte floor."""
    codes, dim = codebook.shape
    moved = x.nbytes + codebook.nbytes + 8 * len(x)
    series = f"nearest code, {dim} dimensions, {codes} codes"
    if x.is_cuda:
        series = f"GPU {series}, {str(x.dtype).removeprefix('torch.')}"
    return {
        "series": series,
        "axis": "rows",
        "size": len(x),
        **byte_floor(moved, x.device.type),
    }


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
    facts = lookup_facts(x, codebook) | {"rounds": 3 if codes > 100 else 7 if rows > 10_000 else 100}
    measure(benchmark, run, peer=name != "goskill", label=name, **facts)


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
        **step_facts(rows, dim, codes),
        **rounds(rows * dim * codes),
    )


def step_facts(rows: int, dim: int, codes: int, device: str = "cpu") -> dict[str, Any]:
    """A step reads x, and x with its code and gradient on the way back; it writes codes, indices, gradient."""
    moved = rows * (6 * 4 * dim + 8)
    series = f"vector quantisation step, {dim} dimensions, {codes} codes"
    return {
        "series": f"GPU {series}" if device == "cuda" else series,
        "axis": "rows",
        "size": rows,
        **byte_floor(moved, device),
    }


def composed_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    log_p = F.log_softmax(logits, -1).gather(1, target.unsqueeze(1)).squeeze(1)
    return (-((1 - log_p.exp()) ** 2) * log_p).mean()


def loss_function(name: str, gamma: float = 2.0) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss by ``name``; the compositions have gamma 2, Liger has none."""
    function: Callable[[Tensor, Tensor], Tensor] = composed_focal_loss
    if name == "goskill":
        function = functools.partial(ops.focal_loss, gamma=gamma)
    elif name == "Liger cross-entropy":
        function = installed("liger_kernel.transformers.functional").liger_cross_entropy
    elif name == "compiled composition":
        function = torch.compile(composed_focal_loss)
    return function


def loss_facts(logits: Tensor, series: str) -> dict[str, Any]:
    """Forward and backward together read the logits and write their gradient."""
    return {
        "series": series,
        "axis": "classes",
        "size": logits.shape[1],
        **byte_floor(2 * logits.nbytes, logits.device.type),
    }


def loss_step(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor) -> Tensor:
    logits.grad = None
    loss = function(logits, target)
    loss.backward()
    return loss


@pytest.mark.parametrize("name", ["goskill", "eager composition", "compiled composition"])
@pytest.mark.parametrize(("rows", "classes"), LOSSES)
def test_focal_loss(benchmark: Any, rows: int, classes: int, name: str) -> None:
    benchmark.group = f"focal loss forward+backward {rows}x{classes}"
    logits = normal(rows, classes).requires_grad_()
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
        **loss_facts(logits, f"focal loss forward+backward, {rows} rows"),
        **rounds(logits.numel()),
    )


class OnDevice:
    """``run`` on a GPU so often at a time that the host does not count: one CUDA graph, or launched by the host.

    A peer that cannot be captured is launched; ours has to be captured.
    """

    def __init__(self, run: Callable[[], Any], floor: float, peer: bool) -> None:
        self.calls = min(MOST_CALLS, max(1, round(LEAST_SECONDS / floor)))
        self.facts: dict[str, Any] = {"calls": self.calls, "timed": "CUDA graph"}
        self._run = run
        # Leaves random numbers and memory as they should be when a capture fails.
        self._steps = GraphedSteps(torch.device("cuda", torch.cuda.current_device()), required=not peer)
        self()
        gc.collect()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            self()
        for warning in told:
            if "without CUDA graphs" in str(warning.message):
                self.facts["timed"] = f"launched: {str(warning.message).partition(': ')[2]}"

    def __call__(self) -> None:
        self._steps.run("calls", self._run_all)
        torch.cuda.synchronize()

    def _run_all(self) -> None:
        for _ in range(self.calls):
            self._run()


def measure_on_gpu(benchmark: Any, run: Callable[[], Any], name: str, **facts: Any) -> None:
    peer = name != "goskill"
    timed = OnDevice(run, facts["byte_floor"], peer)
    measure(benchmark, timed, peer=peer, label=name, **timed.facts, **facts)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", ["goskill", "eager composition", "compiled composition"])
@pytest.mark.parametrize(("rows", "classes"), GPU_LOSSES)
def test_focal_loss_on_gpu(benchmark: Any, rows: int, classes: int, name: str) -> None:
    time_loss_on_gpu(benchmark, "focal loss", 2.0, rows, classes, name)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", ["goskill", "compiled cdist argmin", "flash-kmeans assignment"])
@pytest.mark.parametrize(("rows", "dim", "codes"), GPU_LOOKUPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nearest_code_on_gpu(
    benchmark: Any, rows: int, dim: int, codes: int, dtype: torch.dtype, name: str
) -> None:
    benchmark.group = f"GPU nearest code {rows}x{dim}, {codes} codes, {dtype}"
    x, codebook = lookup_data(rows, dim, codes, "cuda")
    x, codebook = x.to(dtype), codebook.to(dtype)
    few = 20_000
    best = cdist_argmin(x[:few].double(), codebook.double())
    # Of all rows, since fewer may go another way.
    run = lookup(name, x, codebook)
    ours, theirs = ops.nearest_code(x, codebook)[:few], run()[:few]
    assert_as_near(x[:few].double(), codebook.double(), ours, best)
    # Peers on tensor cores are not exact: how often they are right is a fact, not a condition.
    right = float((theirs == best).double().mean())
    measure_on_gpu(benchmark, run, name, **lookup_facts(x, codebook), right=right, rounds=20)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", ["goskill", "vector-quantize-pytorch"])
@pytest.mark.parametrize(("rows", "dim", "codes"), GPU_STEPS)
def test_vector_quantize_step_on_gpu(benchmark: Any, rows: int, dim: int, codes: int, name: str) -> None:
    benchmark.group = f"GPU vector quantisation step {rows}x{dim}, {codes} codes"
    x = lookup_data(rows, dim, codes, "cuda")[0].unsqueeze(0).requires_grad_()
    ours, module = quantizer("goskill", dim, codes, "cuda"), quantizer(name, dim, codes, "cuda")
    ours.load_state_dict(module.state_dict())
    torch.testing.assert_close(training_step(ours, x), training_step(module, x), rtol=1e-3, atol=1e-5)
    facts = step_facts(rows, dim, codes, "cuda")
    measure_on_gpu(benchmark, lambda: training_step(module, x), name, **facts, rounds=50)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", ["goskill", "Liger cross-entropy"])
@pytest.mark.parametrize(("rows", "classes"), GPU_LOSSES)
def test_cross_entropy_on_gpu(benchmark: Any, rows: int, classes: int, name: str) -> None:
    time_loss_on_gpu(benchmark, "cross-entropy", 0.0, rows, classes, name)


def time_loss_on_gpu(benchmark: Any, what: str, gamma: float, rows: int, classes: int, name: str) -> None:
    benchmark.group = f"GPU {what} forward+backward {rows}x{classes}, bfloat16"
    logits = normal(rows, classes, device="cuda").bfloat16().requires_grad_()
    target = torch.arange(rows, device="cuda") % classes
    function = loss_function(name, gamma)
    # A copy: Liger writes the gradient over its input.
    result = function(logits.detach()[:64].clone(), target[:64])
    exact = ops.focal_loss(logits.detach()[:64].double(), target[:64], gamma=gamma)
    torch.testing.assert_close(result.double(), exact, rtol=3e-2, atol=1e-3)
    facts = loss_facts(logits, f"GPU {what} forward+backward, {rows} rows, bfloat16")
    measure_on_gpu(benchmark, lambda: loss_step(function, logits, target), name, **facts, rounds=20)
