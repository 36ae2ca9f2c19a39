"""Attention with dropout in C++, and its gradient, against the formula in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from goskill.models import CausalTransformer
from goskill.models.attending import self_attention
from goskill.ops.self_attention import LONGEST, dropped_attention, random_shape, runs_native

SHAPES = list(itertools.product((1, 5, 16, 74, 100), (1, 3), (16, 48)))
DROPPED, LEVELS = 6554, 1 << 16


def expected(projected: Tensor, random: Tensor) -> Tensor:
    L, D = projected.shape[1], projected.shape[-1]
    query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
    scores = query @ key.transpose(-1, -2) / math.sqrt(D)
    weights = scores.masked_fill(~torch.ones(L, L).tril().bool(), -math.inf).softmax(-1)
    kept = (random[..., :L].double() >= DROPPED - LEVELS // 2) * (LEVELS / (LEVELS - DROPPED))
    return ((weights * kept) @ value).transpose(1, 2)


@pytest.mark.parametrize(("L", "heads", "D"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attention_and_its_gradient_are_the_formulas(L: int, heads: int, D: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    projected = torch.randn(2, L, 3, heads, D).to(dtype).requires_grad_()
    exact = projected.detach().double().requires_grad_()
    random = torch.randint(-LEVELS // 2, LEVELS // 2, random_shape(projected), dtype=torch.int16)
    before = projected.detach().clone()
    result, reference = dropped_attention(projected, random, DROPPED, LEVELS), expected(exact, random)
    gradient = torch.randn_like(result)
    result.backward(gradient)
    reference.backward(gradient.double())
    assert projected.grad is not None
    assert exact.grad is not None
    # What comes out is rounded once; sums of up to 100 in between are float32.
    budget = (
        {"rtol": 2e-6, "atol": 4e-6}
        if dtype == torch.float32
        else {"rtol": torch.finfo(dtype).eps, "atol": 1e-3}
    )
    torch.testing.assert_close(result.double(), reference, **budget)
    torch.testing.assert_close(projected.grad.double(), exact.grad, **budget)
    assert torch.equal(projected, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_of_what_is_projected_is_added_and_has_its_gradient(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    projected = torch.randn(3, 9, 3, 2, 16).to(dtype).requires_grad_()
    bias = torch.randn(3 * 2 * 16, requires_grad=True)
    exact = [part.detach().double().requires_grad_() for part in (projected, bias)]
    random = torch.randint(-LEVELS // 2, LEVELS // 2, random_shape(projected), dtype=torch.int16)
    result = dropped_attention(projected, random, DROPPED, LEVELS, bias)
    reference = expected(exact[0] + exact[1].view(3, 2, 16), random)
    gradient = torch.randn_like(result)
    result.backward(gradient)
    reference.backward(gradient.double())
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(result.double(), reference, rtol=max(eps, 1e-5), atol=max(eps / 4, 1e-5))
    for mine, theirs in zip((projected, bias), exact, strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(
            mine.grad.double(), theirs.grad, rtol=max(eps, 1e-5), atol=max(eps / 4, 1e-5)
        )


def test_other_types_widths_and_lengths_run_in_torch() -> None:
    fine = torch.zeros(1, 4, 3, 1, 16)
    assert runs_native(fine)
    for other in (fine.double(), fine[..., :8], torch.zeros(1, LONGEST + 1, 3, 1, 16)):
        assert not runs_native(other)
        assert self_attention(other, 0.5).shape == (1, 1, other.shape[1], other.shape[-1])


def test_a_share_of_the_weights_is_dropped_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    projected = torch.zeros(4, 32, 3, 2, 32)
    projected[:, :, 2] = torch.eye(32)[:, None]  # values that show the weights
    weights = torch.stack([self_attention(projected, 0.25) for _ in range(200)])
    seen = torch.ones(32, 32).tril().bool()
    uniform = (1 / torch.arange(1, 33))[:, None].expand(32, 32)
    assert (weights[..., ~seen] == 0).all()
    dropped = (weights[..., seen] == 0).float().mean()
    torch.testing.assert_close(dropped, torch.tensor(0.25), rtol=0, atol=0.005)
    torch.testing.assert_close(weights.mean((0, 1, 2))[seen], uniform[seen], rtol=0.1, atol=0)


def test_a_transformer_in_training_has_the_gradients_of_one_in_float64_without_dropout() -> None:
    """Of probability 2^-20 nothing is dropped, and the native pass runs."""
    torch.manual_seed(0)
    transformer = CausalTransformer(32, 2, 2, 2.0**-20)
    exact = CausalTransformer(32, 2, 2, 0.0).double()
    exact.load_state_dict(transformer.state_dict())
    tokens = torch.randn(3, 9, 32)
    transformer(tokens).square().sum().backward()
    exact(tokens.double()).square().sum().backward()
    for mine, theirs in zip(transformer.parameters(), exact.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4)
