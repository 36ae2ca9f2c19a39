"""Dropout's law, and that attention with dropout is attention whose weights were dropped."""

from __future__ import annotations

import math

import pytest
import torch

from goskill.models.dropout import causal_attention, dropout


@pytest.mark.parametrize("probability", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elements_are_dropped_independently_and_the_rest_scaled(
    probability: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    kept = dropout(torch.ones(1001, 333, dtype=dtype), probability) != 0
    deviation = math.sqrt(probability * (1 - probability) / kept.numel())
    assert abs(kept.float().mean().item() - (1 - probability)) < 5 * deviation
    # Neighbours share no randomness: pairs at distances 1 to 4 are kept together with (1 - p)^2.
    flat = kept.flatten().float()
    for distance in range(1, 5):
        together = (flat[distance:] * flat[:-distance]).mean().item()
        assert abs(together - (1 - probability) ** 2) < 8 * deviation
    values = dropout(torch.full((1000,), 3.0), probability)
    torch.testing.assert_close(
        values[values != 0].unique(), torch.tensor([3 / (1 - probability)]), rtol=1e-4, atol=0
    )


def test_the_gradient_is_dropped_alike() -> None:
    x = torch.randn(50, 7, requires_grad=True)
    y = dropout(x, 0.3)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, y)


def test_the_default_generator_decides() -> None:
    x = torch.ones(1000)
    torch.manual_seed(1)
    first = dropout(x, 0.1)
    assert not torch.equal(dropout(x, 0.1), first)
    torch.manual_seed(1)
    assert torch.equal(dropout(x, 0.1), first)


def test_no_dropout_draws_nothing() -> None:
    x = torch.randn(3, 2, 5, 4)
    state = torch.get_rng_state()
    assert dropout(x, 0.0) is x
    causal_attention(x, x, x, 0.0)
    assert torch.equal(torch.get_rng_state(), state)


def test_attention_with_dropout_drops_weights_of_causal_attention() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 4)
    value = torch.eye(6).expand(2, 3, 6, 6)
    weights = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    # causal_attention takes one width: that of the values. Zeros change no score, the square root its scale.
    query, key = (torch.cat([part, torch.zeros(2, 3, 6, 2)], -1) for part in (query, key))
    scaled = query * math.sqrt(6 / 4)
    dropped = torch.stack([causal_attention(scaled, key, value, 0.25) for _ in range(2000)])
    ratio = dropped / weights.clamp(min=1e-9)
    assert (dropped.triu(1) == 0).all()
    lower = torch.ones(6, 6).tril().bool()
    assert ((ratio[..., lower].abs() < 1e-6) | ((ratio[..., lower] - 4 / 3).abs() < 1e-3)).all()
    torch.testing.assert_close(dropped.mean(0), weights, rtol=0, atol=0.08)
