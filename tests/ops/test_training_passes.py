"""What a transformer in training does between its products, in C++, against the formulas in float64."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from goskill.ops.random import LEVELS, random_levels
from goskill.ops.training_passes import bias_relu, dropped_sum

DROPPED = 6554
SHAPES = [(1, 16), (3, 48), (41, 256)]


def budget(dtype: torch.dtype) -> dict[str, float]:
    """Results are rounded once; sums over up to 41 rows in between are float32."""
    return {"rtol": 2e-5, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_branch_is_dropped_added_and_normalised_and_so_are_the_gradients(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(shape[1])
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    random = torch.randint(-LEVELS // 2, LEVELS // 2, shape, dtype=torch.int16)
    residual, bias = torch.randn(shape, requires_grad=True), torch.randn(shape[1], requires_grad=True)
    branch = torch.randn(shape).to(dtype).requires_grad_()
    before = [part.detach().clone() for part in (residual, branch, bias)]
    total, normal = dropped_sum(residual, branch, bias, norm, random, DROPPED, LEVELS)
    assert total.dtype == torch.float32
    assert normal.dtype == dtype
    by_total, by_normal = torch.randn_like(total), torch.randn_like(normal)
    torch.autograd.backward((total, normal), (by_total, by_normal))
    inputs = [residual, branch, bias, norm.weight, norm.bias]
    exact = [part.detach().double().requires_grad_() for part in inputs]
    kept = (random.double() >= DROPPED - LEVELS // 2) * (LEVELS / (LEVELS - DROPPED))
    exact_total = exact[0] + (exact[1] + exact[2]) * kept
    exact_normal = F.layer_norm(exact_total, shape[1:], exact[3], exact[4])
    torch.autograd.backward((exact_total, exact_normal), (by_total.double(), by_normal.double()))
    torch.testing.assert_close(total.double(), exact_total, **budget(torch.float32))
    torch.testing.assert_close(normal.double(), exact_normal, **budget(dtype))
    for mine, theirs in zip(inputs, exact, strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad.double(), theirs.grad, **budget(mine.dtype))
    for now, was in zip((residual, branch, bias), before, strict=True):
        assert torch.equal(now, was)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_relu_of_a_product_and_its_bias_has_the_formulas_gradients(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    product = torch.randn(shape).to(dtype).requires_grad_()
    bias = torch.randn(shape[1], requires_grad=True)
    result = bias_relu(product.clone(), bias)
    assert result.dtype == dtype
    gradient = torch.randn_like(result)
    result.backward(gradient)
    exact = [part.detach().double().requires_grad_() for part in (product, bias)]
    expected = F.relu(exact[0] + exact[1])
    expected.backward(gradient.double())
    torch.testing.assert_close(result.double(), expected, **budget(dtype))
    assert product.grad is not None
    assert bias.grad is not None
    assert torch.equal(product.grad.double(), exact[0].grad)
    torch.testing.assert_close(bias.grad.double(), exact[1].grad, **budget(torch.float32))


def test_relu_of_nan_is_nan_and_so_is_what_is_added_to_a_stream() -> None:
    values = torch.zeros(1, 16)
    values[0, 3] = torch.nan
    assert torch.equal(bias_relu(values.clone(), torch.zeros(16)).isnan(), values.isnan())
    total, normal = dropped_sum(
        torch.zeros(1, 16), values, torch.zeros(16), nn.LayerNorm(16), random_levels((1, 16)), 0, LEVELS
    )
    assert torch.equal(total.isnan(), values.isnan())
    assert normal.isnan().all()


@pytest.mark.parametrize("count", [0, 1, 2, 33, 100_001])
def test_random_levels_are_even_whatever_their_number_and_the_seed_is_torchs(count: int) -> None:
    torch.manual_seed(0)
    first, second = random_levels((count,)), random_levels((count,))
    assert first.shape == (count,)
    torch.manual_seed(0)
    assert torch.equal(random_levels((count,)), first)
    if count < 1000:
        return
    assert not torch.equal(first, second)
    for levels in (first, second):
        bits = (levels[:, None].int() >> torch.arange(16)) & 1
        assert (bits.double().mean(0) - 0.5).abs().max() < 5 * 0.5 / count**0.5
        # Of neighbours, of streams side by side and of a block and the next.
        for distance in (1, 2, 16, 32, 2 << 14):
            pairs = torch.stack([levels[distance:], levels[:-distance]]).double()
            assert torch.corrcoef(pairs)[0, 1].abs() < 5 / (count - distance) ** 0.5


def test_random_levels_are_the_same_by_every_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """And whatever the threads."""
    script = (
        "import torch; torch.manual_seed(0); torch.set_num_threads({}); "
        "from goskill.ops.random import random_levels; "
        "print(hash(bytes(random_levels((3_000_001,)).numpy())))"
    )
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    found = set()
    for instructions, threads in (("baseline", 1), ("", 1), ("", 2)):
        if instructions:
            monkeypatch.setenv("GOSKILL_CPU", instructions)
        else:
            monkeypatch.delenv("GOSKILL_CPU", raising=False)
        run = subprocess.run(
            [sys.executable, "-c", script.format(threads)], capture_output=True, text=True, check=True
        )
        found.add(run.stdout)
    assert len(found) == 1
