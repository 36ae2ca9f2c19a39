"""Dropout's law."""

from __future__ import annotations

import math

import pytest
import torch

from goskill.models.dropout import dropout


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
    assert torch.equal(torch.get_rng_state(), state)
