"""Attention over cached tokens and sums with their LayerNorm, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from goskill.models import CausalTransformer
from goskill.ops.decoding import add_norm, cached_attention

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def plain_attention(projected: Tensor, heads: int, visible: Tensor | None) -> Tensor:
    """Causal attention over whole sequences [B, L, 3 * width], a mask and a softmax in float64."""
    B, L, tripled = projected.shape
    query, key, value = projected.double().view(B, L, 3, heads, -1).permute(2, 0, 3, 1, 4)
    seen = torch.ones(L, L, dtype=torch.bool).tril().expand(B, 1, L, L)
    if visible is not None:
        seen = seen & visible[:, None, None, :L] | torch.eye(L, dtype=torch.bool)
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return (weights @ value).transpose(1, 2).reshape(B, L, tripled // 3)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize(("heads", "head_width"), [(2, 16), (3, 32), (1, 48)])
def test_attention_fed_in_pieces(dtype: torch.dtype, hidden: bool, heads: int, head_width: int) -> None:
    torch.manual_seed(0)
    B, capacity, pieces = 3, 70, [1, 2, 3, 4, 5, 31, 1, 20, 3]
    whole = torch.randn(B, capacity, 3 * heads * head_width).to(dtype)
    visible = (torch.rand(B, capacity) < 0.6) if hidden else None
    expected = plain_attention(whole, heads, visible)
    keys = torch.zeros(B, heads, head_width, 96)
    values = torch.zeros(B, heads, capacity, head_width)
    length = 0
    for piece in whole.split(pieces, dim=1):
        first = length % piece.shape[1]
        length += piece.shape[1]
        attended = cached_attention(piece.contiguous(), keys, values, length, visible, first)
        own = expected[:, length - piece.shape[1] + first : length]
        torch.testing.assert_close(attended.double(), own, rtol=0, atol=TOLERANCE[dtype])
        assert attended.dtype == dtype


def test_attention_survives_large_scores() -> None:
    projected = 60 * torch.randn(2, 9, 3 * 32, generator=torch.Generator().manual_seed(1))
    attended = cached_attention(projected, torch.zeros(2, 2, 16, 32), torch.zeros(2, 2, 9, 16), 9)
    torch.testing.assert_close(attended.double(), plain_attention(projected, 2, None), rtol=0, atol=0.1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("with_addend", [False, True])
def test_add_norm(dtype: torch.dtype, with_addend: bool) -> None:
    torch.manual_seed(0)
    norm = torch.nn.LayerNorm(48)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    residual = 3 + torch.randn(2, 5, 48)
    addend = torch.randn(2, 5, 48).to(dtype) if with_addend else None
    total = residual.clone() if addend is None else residual + addend.float()
    with torch.inference_mode():
        normal = add_norm(residual, addend, norm, dtype)
    expected = torch.nn.functional.layer_norm(
        total.double(), (48,), norm.weight.double(), norm.bias.double(), norm.eps
    )
    torch.testing.assert_close(residual, total, rtol=0, atol=0)
    torch.testing.assert_close(normal.double(), expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("read", [slice(None), slice(-1, None), slice(2, None), slice(1, None, 2)])
def test_a_native_cache_equals_the_whole_sequence(read: slice) -> None:
    torch.manual_seed(0)
    model = CausalTransformer(width=64, layers=3, heads=2, dropout=0.1).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tokens = torch.randn(4, 20, 64)
    rows = torch.tensor([3, 0, 0])
    visible = torch.arange(20) >= torch.tensor([0, 3, 8, 1])[:, None]
    with torch.inference_mode():
        cache = model.new_cache(batch=4, capacity=20)
        assert cache.native
        cache.visible = visible
        model.extend(tokens[:, :12], cache)
        chosen = model.new_cache(batch=3, capacity=20)
        chosen.load(cache, rows)
        chosen.visible = visible[rows]
        cache = chosen
        model.extend(torch.randn(3, 8, 64), cache)
        cache.truncate(12)
        hidden = model.extend(tokens[rows, 12:], cache, read)
        plain = model.double().new_cache(batch=4, capacity=20)
        assert not plain.native
        plain.visible = visible
        expected = model.extend(tokens.double(), plain)[rows, 12:][:, read]
    torch.testing.assert_close(hidden.double(), expected, rtol=0, atol=1e-5)
