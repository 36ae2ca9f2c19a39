"""The kernels of a fused transformer block in the interpreter: TRITON_INTERPRET=1 pytest -m interpret."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from goskill.ops import philox
from goskill.ops.attention import reference_packed_attention
from goskill.ops.residual import reference_dropout_add_norm

triton = pytest.importorskip("triton")

pytestmark = [
    pytest.mark.interpret,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") != "1",
        reason="needs TRITON_INTERPRET=1 before Triton is imported: TRITON_INTERPRET=1 pytest -m interpret",
    ),
]

SEED = torch.tensor([2**40 + 7])


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An output that shows which of its numbers were not written."""
    return torch.full(shape, torch.nan, dtype=dtype)


@pytest.mark.parametrize(
    ("batch", "length", "heads", "width", "dropout", "biased"),
    [
        (1, 30, 2, 32, 0.1, True),
        (1, 70, 1, 16, 0.1, True),
        (1, 1, 1, 16, 0.0, False),
        (2, 33, 1, 64, 0.3, False),
        (1, 64, 1, 16, 0.0, True),
    ],
)
def test_attention_and_its_gradient(
    batch: int, length: int, heads: int, width: int, dropout: float, biased: bool
) -> None:
    from goskill.kernels import packed_attention as kernels

    torch.manual_seed(0)
    W, dropped, blocks = heads * width, philox.dropped_levels(dropout), kernels.blocks(length)
    qkv, gradient = torch.randn(batch, length, 3 * W), torch.randn(batch, length, W)
    bias = torch.randn(3 * W) if biased else None
    leaf = qkv.double().requires_grad_()
    bias_leaf = None if bias is None else bias.double().requires_grad_()
    exact = reference_packed_attention(leaf, bias_leaf, SEED, heads, dropped)
    exact.backward(gradient.double())

    out = poisoned(batch, length, W)
    log_sums = poisoned(batch * heads, length) if blocks > 1 else None
    kernels.attention(qkv, bias, SEED, heads, dropped, out, log_sums)
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-5)

    result = poisoned(batch, length, 3 * W)
    sums = poisoned(batch, blocks, 3 * W) if biased else None
    known = out if blocks > 1 else None  # a sequence of one block needs nothing of the forward pass
    kernels.attention_gradient(qkv, bias, SEED, heads, dropped, known, log_sums, gradient, result, sums)
    torch.testing.assert_close(result.double(), leaf.grad, rtol=1e-4, atol=1e-5)
    if sums is not None:
        assert bias_leaf is not None
        torch.testing.assert_close(sums.sum((0, 1)).double(), bias_leaf.grad, rtol=1e-4, atol=1e-4)


def test_attention_of_large_logits_stays_finite() -> None:
    """Rows behind the end of a sequence compute something as well, which must stay out of everything."""
    from goskill.kernels import packed_attention as kernels

    qkv, bias = 40 * torch.randn(1, 35, 48), torch.full((48,), 90.0)
    out, log_sums = poisoned(1, 35, 16), poisoned(1, 35)
    kernels.attention(qkv, bias, None, 1, 0, out, log_sums)
    result, sums = poisoned(1, 35, 48), poisoned(1, 2, 48)
    kernels.attention_gradient(qkv, bias, None, 1, 0, out, log_sums, torch.ones(1, 35, 16), result, sums)
    for found in (out, log_sums, result, sums):
        assert found.isfinite().all()


@pytest.mark.parametrize(
    ("rows", "width", "dropout", "gradients", "with_residual"),
    [
        (1, 1, 0.0, "both", True),
        (37, 96, 0.1, "both", True),
        (37, 96, 0.1, "both", False),
        (9, 256, 0.4, "total", True),
        (9, 256, 0.4, "normal", True),
    ],
)
def test_residual_stream_and_its_gradient(
    rows: int, width: int, dropout: float, gradients: str, with_residual: bool
) -> None:
    from goskill.kernels import add_norm as kernels

    torch.manual_seed(0)
    dropped = philox.dropped_levels(dropout)
    residual, branch, up, down = torch.randn(4, rows, width)
    weight, bias, branch_bias = torch.randn(3, width)
    up_there, down_there = gradients != "normal", gradients != "total"
    leaves = [part.double().requires_grad_() for part in (residual, branch, branch_bias, weight, bias)]
    total, normal = reference_dropout_add_norm(
        leaves[0] if with_residual else None, *leaves[1:], SEED, dropped, 1e-5, torch.float64
    )
    (up_there * (total * up).sum() + down_there * (normal * down).sum()).backward()

    stored, normed = poisoned(rows, width), poisoned(rows, width)
    kernels.dropout_add_norm(
        residual if with_residual else None,
        branch,
        branch_bias,
        weight,
        bias,
        SEED,
        dropped,
        1e-5,
        stored,
        normed,
    )
    torch.testing.assert_close(stored.double(), total.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(normed.double(), normal.detach(), rtol=1e-4, atol=1e-4)

    found = poisoned(rows, width) if with_residual else None
    branch_gradient, sums = poisoned(rows, width), poisoned(3, 3, width)
    kernels.dropout_add_norm_gradient(
        stored,
        weight,
        SEED,
        dropped,
        1e-5,
        up if up_there else None,
        down if down_there else None,
        found,
        branch_gradient,
        sums,
    )
    pairs = [(branch_gradient, leaves[1]), *zip(sums.sum(0), (leaves[3], leaves[4], leaves[2]), strict=True)]
    pairs += [(found, leaves[0])] if found is not None else []
    for ours, leaf in pairs:
        truth = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        torch.testing.assert_close(ours.double(), truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (23, 700), (50, 64)])
def test_relu_gradient(rows: int, width: int) -> None:
    from goskill.kernels.relu_gradient import relu_gradient

    torch.manual_seed(0)
    activation, gradient = torch.randn(rows, width).relu(), torch.randn(rows, width)
    result, sums = poisoned(rows, width), poisoned(5, width)
    relu_gradient(activation, gradient, result, sums)
    exact = torch.where(activation > 0, gradient, 0.0)
    assert torch.equal(result, exact)
    torch.testing.assert_close(sums.sum(0), exact.sum(0), rtol=1e-5, atol=1e-5)


def test_no_rows_leave_sums_of_zero() -> None:
    from goskill.kernels import add_norm
    from goskill.kernels.relu_gradient import relu_gradient

    none, sums = torch.zeros(0, 8), poisoned(2, 8)
    relu_gradient(none, none, none, sums)
    assert (sums == 0).all()
    parts = poisoned(1, 3, 8)
    add_norm.dropout_add_norm_gradient(none, torch.ones(8), None, 0, 1e-5, none, none, none, none, parts)
    assert (parts == 0).all()
