"""The operations of a fused transformer block against plain float64 formulas, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from goskill.errors import InputError
from goskill.ops import dropout_add_norm, linear_relu, packed_attention, philox

SEED = torch.tensor([99])


def stock_attention(qkv: Tensor, heads: int) -> Tensor:
    B, L, width = qkv.shape
    parts = qkv.view(B, L, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).reshape(B, L, width // 3)


@pytest.mark.parametrize("shape", [(0, 5, 24), (2, 1, 24), (3, 17, 48)])
def test_attention_without_dropout_is_the_stock_one(shape: tuple[int, int, int]) -> None:
    qkv, bias = torch.randn(shape, dtype=torch.float64), torch.randn(shape[2], dtype=torch.float64)
    torch.testing.assert_close(packed_attention(qkv, 2), stock_attention(qkv, 2))
    torch.testing.assert_close(packed_attention(qkv, 2, bias=bias), stock_attention(qkv + bias, 2))


def test_attention_with_dropout_drops_weights() -> None:
    """Values that are an identity show the weights: those that stay are scaled, the others are zero."""
    qkv = torch.randn(2, 8, 3, 1, 8, dtype=torch.float64)
    qkv[:, :, 2, 0] = torch.eye(8, dtype=torch.float64)
    weights = packed_attention(qkv.flatten(2), 1)
    dropped = packed_attention(qkv.flatten(2), 1, dropout=0.25, seed=SEED)
    stays = philox.kept(SEED, 16, 8, philox.LEVELS // 4).view(2, 8, 8)
    torch.testing.assert_close(dropped, torch.where(stays, weights * 4 / 3, 0.0))


def test_gradients_of_the_references() -> None:
    """Of attention and of the residual stream, with dropout and biases, by finite differences."""
    torch.manual_seed(0)

    def double(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(
        lambda qkv, bias: packed_attention(qkv, 2, bias=bias, dropout=0.3, seed=SEED),
        (double(2, 5, 12), double(12)),
    )
    assert torch.autograd.gradcheck(
        lambda residual, branch, weight, bias, branch_bias: dropout_add_norm(
            residual, branch, weight, bias, branch_bias=branch_bias, dropout=0.3, seed=SEED
        ),
        (double(4, 6), double(4, 6), double(6), double(6), double(6)),
    )


@pytest.mark.parametrize("with_residual", [False, True])
def test_the_residual_stream_equals_its_formula(with_residual: bool) -> None:
    residual, branch = torch.randn(2, 3, 16, dtype=torch.float64).unbind(0)
    weight, bias, branch_bias = torch.randn(3, 16, dtype=torch.float64).unbind(0)
    total, normal = dropout_add_norm(
        residual if with_residual else None,
        branch,
        weight,
        bias,
        branch_bias=branch_bias,
        dropout=0.5,
        seed=SEED,
    )
    stays = philox.kept(SEED, 3, 16, philox.LEVELS // 2)
    expected = torch.where(stays, 2 * (branch + branch_bias), 0.0) + (residual if with_residual else 0)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(normal, F.layer_norm(expected, (16,), weight, bias))


def test_the_norm_is_that_of_the_stored_sum() -> None:
    residual, branch = torch.randn(2, 4, 64).unbind(0)
    weight, bias = torch.randn(2, 64).unbind(0)
    total, normal = dropout_add_norm(residual, branch, weight, bias, dtype=torch.bfloat16)
    assert total.dtype == normal.dtype == torch.bfloat16
    torch.testing.assert_close(normal, F.layer_norm(total.float(), (64,), weight, bias).bfloat16())


def test_linear_relu_is_the_stock_one() -> None:
    x, weight, bias = torch.randn(2, 3, 5), torch.randn(7, 5), torch.randn(7)
    torch.testing.assert_close(linear_relu(x, weight, bias), F.relu(F.linear(x, weight, bias)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: packed_attention(x, 0), "heads must be positive, got 0"),
        (
            lambda x: packed_attention(x, 5),
            r"qkv must have shape \[B, L, 3 \* 5 \* width\], got \[2, 4, 48\]",
        ),
        (lambda x: packed_attention(x.long(), 2), "qkv must be a floating-point tensor"),
        (lambda x: packed_attention(x, 2, bias=x[0, 0, :5]), r"bias must have shape \[48\], got \[5\]"),
        (lambda x: packed_attention(x, 2, dropout=0.1), r"seed must be an int64 tensor .* got None"),
        (lambda x: packed_attention(x, 2, dropout=1.0), "dropout must be at least 0 and below 1, got 1.0"),
        (lambda x: packed_attention(x, 2, impl="triton"), "impl='triton' needs tensors on cuda, got cpu"),
        (lambda x: packed_attention(x, 2, impl="cpp"), "impl must be one of auto, reference, triton"),
        (
            lambda x: packed_attention(x.to("meta"), 2, impl="triton"),
            "impl='triton' takes heads of width 16, 32, 64, 128",
        ),
        (lambda x: dropout_add_norm(x, x[:1], x[0, 0], x[0, 0]), r"residual must have shape \[1, 4, 48\]"),
        (
            lambda x: dropout_add_norm(None, x, x[0, 0, :3], x[0, 0]),
            r"weight must have shape \[48\], got \[3\]",
        ),
        (lambda x: dropout_add_norm(None, x, x[0, 0], x[0, 0], impl="triton"), "needs tensors on cuda"),
        (
            lambda x: linear_relu(x, x[0].T, x[0, 0]),
            r"weight must have shape \[N, 48\] to match x, got \[48, 4\]",
        ),
        (lambda x: linear_relu(x, x[0], x[0, 0]), r"bias must have shape \[4\], got \[48\]"),
        (lambda x: linear_relu(x, x[0].double(), x[0, :, 0]), "weight must be torch.float32 as x"),
    ],
)
def test_wrong_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(torch.randn(2, 4, 48))
