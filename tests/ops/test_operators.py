"""The operations as torch operators: registration, compilation, autocast, grad modes, instruction sets."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from goskill import _core, ops
from goskill.nn import VectorQuantize
from goskill.ops import dispatch


def operator_arguments() -> dict[str, list[tuple[Any, ...]]]:
    torch.manual_seed(0)
    x, codebook = torch.randn(9, 4), torch.randn(5, 4)
    mask = torch.rand(9) > 0.3
    logits, target = torch.randn(6, 5), torch.randint(0, 5, (6,))
    focal = (2.0, -100, 0.0)
    return {
        "nearest_code": [(x, codebook, False, False), (x.T[:, :5].T[:0], codebook[:, :], True, True)],
        "vector_quantize": [
            (x, codebook, None, 1.0, 0.0),
            (x.bfloat16(), codebook, mask, 0.25, 1.0),
        ],
        "straight_through": [
            (x, codebook, torch.arange(9) % 6 - 1, x, torch.tensor(2.0), torch.tensor(28.0), 1.0)
        ],
        "move_codebook_": [
            (torch.ones(5), codebook.clone(), codebook.clone(), torch.ones(5), codebook + 1, 0.8, 1e-5)
        ],
        "focal_loss": [
            (logits, target, None, None, *focal, 1, False),
            (logits, target, torch.rand(5), mask[:6], *focal, 0, True),
        ],
        "scale_rows": [(x, torch.tensor(2.0), None), (x, torch.rand(9), x)],
        "scale_rows_": [(x.clone(), torch.tensor(2.0)), (x.clone(), torch.rand(9))],
    }


@pytest.mark.parametrize("name", operator_arguments())
def test_operators_pass_opcheck(name: str) -> None:
    for arguments in operator_arguments()[name]:
        torch.library.opcheck(getattr(torch.ops.goskill, name).default, arguments)


def run_all(x: Tensor, codebook: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    quantized, indices, loss = ops.vector_quantize(x, codebook, mode="gradient")
    distance = ops.nearest_code(x, codebook, return_distance=True)[1]
    focal = ops.focal_loss(logits, target, label_smoothing=0.1)
    return (quantized * indices.unsqueeze(-1)).sum() + 3 * loss + distance.sum() + 2 * focal


def test_compiles_as_one_graph_forward_and_backward() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(9, 4), torch.randn(5, 4), torch.randn(6, 5)]
    target = torch.randint(0, 5, (6,))
    results = []
    for function in (run_all, torch.compile(run_all, fullgraph=True, backend="aot_eager")):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        value = function(*leaves, target)
        value.backward()
        results.append([value.detach(), *(leaf.grad for leaf in leaves)])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager)


def test_module_compiles_as_one_graph_and_trains_the_same_codebook() -> None:
    torch.manual_seed(0)
    eager = VectorQuantize(4, 5, threshold_ema_dead_code=0)
    compiled = VectorQuantize(4, 5, threshold_ema_dead_code=0)
    compiled.load_state_dict(eager.state_dict())
    step = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        x = torch.randn(20, 4)
        first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
        eager(first)[2].backward()
        step(second)[2].backward()
        torch.testing.assert_close(first.grad, second.grad)
    torch.testing.assert_close(eager.codebook, compiled.codebook)


def test_autocast_keeps_distances_and_losses_in_float32() -> None:
    torch.manual_seed(0)
    x, codebook = torch.randn(50, 8), torch.randn(6, 8)
    layer = nn.Linear(8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = layer(x)
        assert hidden.dtype == torch.bfloat16
        for impl in ("auto", "reference"):
            quantized, indices, loss = ops.vector_quantize(hidden, codebook, impl=impl)  # type: ignore[call-overload]
            assert quantized.dtype == torch.bfloat16
            assert loss.dtype == torch.float32
            exact = torch.cdist(hidden.double(), codebook.double()).argmin(-1)
            assert torch.equal(indices, exact)
            focal = ops.focal_loss(hidden, torch.zeros(50, dtype=torch.int64), impl=impl)  # type: ignore[arg-type]
            assert focal.dtype == torch.float32
        (loss + quantized.sum() + focal).backward()
    assert layer.weight.grad is not None


def test_without_gradients_no_gradient_is_computed() -> None:
    x, codebook = torch.randn(5, 3, requires_grad=True), torch.randn(4, 3)
    with torch.no_grad():
        assert not ops.vector_quantize(x, codebook)[0].requires_grad
        assert not ops.focal_loss(x, torch.zeros(5, dtype=torch.int64)).requires_grad
    with torch.inference_mode():
        ops.vector_quantize(x, codebook)
    assert not ops.nearest_code(x, codebook, return_distance=True)[1].requires_grad


@pytest.mark.parametrize("name", ["avx512", "avx2", "baseline"])
def test_every_instruction_set_of_this_processor_passes_the_tests(name: str) -> None:
    script = "from goskill import _core; print(_core.instruction_set())"
    environment = {**os.environ, "GOSKILL_CPU": name}
    probe = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    if probe.returncode:
        assert "InputError: GOSKILL_CPU" in probe.stderr
        pytest.skip(f"this processor has no {name}")
    assert probe.stdout.strip() == name
    if name == _core.instruction_set():
        return  # the tests around this one run on it
    arguments = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    here = os.path.dirname(__file__)
    tests = [
        os.path.join(here, name)
        for name in ("test_operations.py", "test_decoding.py", "../training/test_adam.py")
    ]
    result = subprocess.run(
        [*arguments, *tests], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


def test_the_choice_of_an_implementation_searches_no_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile cannot trace a search: on CUDA, whole graphs would not compile."""

    def search(name: str) -> None:
        raise AssertionError(name)

    monkeypatch.setattr(importlib.util, "find_spec", search)
    tensor: Any = SimpleNamespace(dtype=torch.float32, device=torch.device("cuda"))
    monkeypatch.setattr(dispatch, "TRITON_INSTALLED", True)
    assert dispatch.implementation_for(tensor) == "triton"
