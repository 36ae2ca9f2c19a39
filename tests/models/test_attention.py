"""Attention with dropout is attention whose weights were dropped, and cuDNN never does it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from goskill.models.attending import causal_attention, masked_attention


def test_no_dropout_draws_nothing() -> None:
    x = torch.randn(3, 2, 5, 4)
    state = torch.get_rng_state()
    causal_attention(x, x, x, 0.0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("enabled", [False, True])
def test_cudnn_never_does_attention_on_a_gpu(enabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta tensors stand for those of a GPU; what the process had allowed is allowed again afterwards."""
    allowed: list[bool] = []
    original = F.scaled_dot_product_attention

    def watched(*args: Tensor, **options: object) -> Tensor:
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return original(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(enabled)
    try:
        x = torch.randn(3, 2, 5, 4, device="meta")
        causal_attention(x, x, x, 0.1)
        masked_attention(x, x, x, torch.ones(1, 1, 5, 5, dtype=torch.bool, device="meta"))
        assert torch.backends.cuda.cudnn_sdp_enabled() is enabled
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
    assert allowed == [False, False]


def test_attention_compiles_without_a_break() -> None:
    x = torch.randn(3, 2, 5, 4, device="meta")
    compiled = torch.compile(causal_attention, fullgraph=True, backend="eager")
    assert compiled(x, x, x, 0.1).shape == x.shape


def test_attention_with_dropout_drops_weights_of_causal_attention() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 4)
    value = torch.eye(6).expand(2, 3, 6, 6)
    weights = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    # causal_attention takes one width: that of the values. Zeros change no score, the square root its scale.
    query, key = (torch.cat([part, torch.zeros(2, 3, 6, 2)], -1) for part in (query, key))
    scaled = query * math.sqrt(6 / 4)
    dropped = torch.stack([causal_attention(scaled, key, value, 0.25) for _ in range(2000)])
    ratio = dropped / weights.clamp(min=1e-9)
    assert (dropped.triu(1) == 0).all()
    lower = torch.ones(6, 6).tril().bool()
    assert ((ratio[..., lower].abs() < 1e-6) | ((ratio[..., lower] - 4 / 3).abs() < 1e-3)).all()
    torch.testing.assert_close(dropped.mean(0), weights, rtol=0, atol=0.08)
