"""The transformer against a plain float64 computation, and what causality promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from goskill.errors import InputError
from goskill.models import CausalTransformer, padding_last, take_rows, transformer


def plain_forward(model: CausalTransformer, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
    """The released formulation: causal scores replaced by -1e4, padded keys offset by -1e4; float64."""
    weights = {name: value.double() for name, value in model.state_dict().items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = tokens.double()
    batch, length, width = x.shape
    for layer in range(len(model.blocks)):
        block = f"blocks.{layer}"
        projected = linear(norm(x, f"{block}.attention_norm"), f"{block}.query_key_value")
        query, key, value = (
            part.view(batch, length, model.heads, -1).transpose(1, 2) for part in projected.split(width, -1)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(width // model.heads)
        scores = torch.where(torch.ones(length, length).tril().bool(), scores, -1e4)
        if valid is not None:
            scores = scores - 1e4 * (~valid)[:, None, None, :].double()
        attended = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, width)
        x = x + linear(attended, f"{block}.attention_output")
        hidden = linear(norm(x, f"{block}.feedforward_norm"), f"{block}.feedforward_input").relu()
        x = x + linear(hidden, f"{block}.feedforward_output")
    return norm(x, "final_norm")


@pytest.fixture
def model() -> CausalTransformer:
    torch.manual_seed(0)
    model = CausalTransformer(width=32, layers=3, heads=4, dropout=0.1).eval()
    for parameter in model.parameters():  # the initial biases are zero and would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_equals_a_plain_float64_computation(model: CausalTransformer) -> None:
    tokens = torch.randn(3, 17, 32)
    torch.testing.assert_close(model(tokens).double(), plain_forward(model, tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize("read", [slice(1, None, 3), slice(-1, None), slice(2, None, 2)])
def test_reading_some_positions_changes_none_of_them(model: CausalTransformer, read: slice) -> None:
    tokens = torch.randn(2, 10, 32)
    torch.testing.assert_close(model(tokens, read), model(tokens)[:, read])


def test_the_future_never_changes_the_past(model: CausalTransformer) -> None:
    tokens = torch.randn(2, 12, 32)
    changed = tokens.clone()
    changed[:, 7:] = 100.0
    torch.testing.assert_close(model(changed)[:, :7], model(tokens)[:, :7])
    assert not torch.allclose(model(changed)[:, 7:], model(tokens)[:, 7:])


def test_moving_left_padding_last_equals_masked_attention(model: CausalTransformer) -> None:
    tokens = torch.randn(4, 9, 32)
    valid = torch.arange(9) >= torch.tensor([0, 3, 8, 9])[:, None]  # the last row is all padding
    valid[1, 5] = False  # a hole in the middle
    order, position = padding_last(valid)
    moved = take_rows(model(take_rows(tokens, order)), position)
    expected = plain_forward(model, tokens, valid)
    torch.testing.assert_close(moved[valid].double(), expected[valid], rtol=0, atol=1e-5)
    assert moved.isfinite().all()


def test_padding_last_keeps_the_order_and_its_inverse_returns() -> None:
    mask = torch.rand(50, 13) < 0.5
    order, position = padding_last(mask)
    for row in range(50):
        valid = torch.nonzero(mask[row]).flatten()
        assert order[row, : len(valid)].tolist() == valid.tolist()
        assert order[row][position[row]].tolist() == list(range(13))


@pytest.mark.parametrize("pieces", [[1] * 12, [3, 3, 3, 3], [5, 1, 6], [12]])
def test_a_cache_fed_in_pieces_equals_the_whole_sequence(model: CausalTransformer, pieces: list[int]) -> None:
    tokens = torch.randn(2, 12, 32)
    cache = model.new_cache(batch=2, capacity=12)
    parts = [model.extend(piece, cache) for piece in tokens.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_native_cache_equals_the_whole_sequence_whatever_is_read_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model, tokens = CausalTransformer(width=32, layers=2, heads=2, dropout=0.0).eval(), torch.randn(4, 9, 32)
    monkeypatch.setattr(transformer, "FEEDFORWARD_ROWS", 7)
    short, cache = model.new_cache(batch=2, capacity=3), model.new_cache(batch=4, capacity=9)
    assert cache.native
    first = model.extend(tokens[:2, :3], short)
    cache.load(short, torch.tensor([0, 1, 1, 0]))
    tokens[2:, :3] = tokens[[1, 0], :3]
    parts = [first[[0, 1, 1, 0]], model.extend(tokens[:, 3:8], cache), model.extend(tokens[:, 8:], cache)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=0, atol=1e-5)


def test_a_truncated_cache_forgets(model: CausalTransformer) -> None:
    tokens = torch.randn(2, 8, 32)
    cache = model.new_cache(batch=2, capacity=8)
    model.extend(tokens[:, :4], cache)
    model.extend(torch.randn(2, 4, 32), cache)
    cache.truncate(4)
    torch.testing.assert_close(model.extend(tokens[:, 4:], cache), model(tokens)[:, 4:], rtol=0, atol=1e-5)


def test_hidden_positions_of_a_cache_are_never_seen(model: CausalTransformer) -> None:
    tokens = torch.randn(3, 8, 32)
    visible = torch.arange(8) >= torch.tensor([0, 2, 5])[:, None]
    cache = model.new_cache(batch=3, capacity=8)
    cache.visible = visible
    parts = [model.extend(piece, cache) for piece in tokens.split([6, 1, 1], dim=1)]
    hidden = torch.cat(parts, 1)
    expected = plain_forward(model, tokens, visible)
    torch.testing.assert_close(hidden[visible].double(), expected[visible], rtol=0, atol=1e-5)
    assert hidden.isfinite().all()


def test_a_full_cache_is_refused(model: CausalTransformer) -> None:
    with pytest.raises(InputError, match="capacity of 4"):
        model.extend(torch.randn(1, 5, 32), model.new_cache(batch=1, capacity=4))


def test_dropout_acts_in_training_only() -> None:
    model = CausalTransformer(width=16, layers=1, heads=2, dropout=0.5)
    tokens = torch.randn(2, 5, 16)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_initial_weights_follow_gpt2() -> None:
    torch.manual_seed(0)
    model = CausalTransformer(width=256, layers=6, heads=8, dropout=0.1)
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_739_072
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert abs(parameter.std().item() - 0.02) < 4e-4, name


@pytest.mark.parametrize(("arguments", "name"), [((32, 1, 5, 0.0), "heads"), ((32, 0, 4, 0.0), "layers")])
def test_wrong_sizes_are_refused_by_name(arguments: tuple[int, int, int, float], name: str) -> None:
    with pytest.raises(InputError, match=name):
        CausalTransformer(*arguments)
