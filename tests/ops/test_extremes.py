"""NaN, infinities and cancellation: the right value, or NaN where there is none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from goskill import ops

IMPLEMENTATIONS = ["cpp", "reference"]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_nan_logits_make_their_own_row_nan(impl: Any, dtype: torch.dtype, gamma: float) -> None:
    for classes in (3, 16, 17, 40):
        for place in (0, classes // 2, classes - 1):
            logits = torch.linspace(-3, 3, 4 * classes).reshape(4, classes).to(dtype)
            whole = ops.focal_loss(
                logits, torch.arange(4) % classes, gamma=gamma, reduction="none", impl=impl
            )
            logits[2, place] = math.nan
            logits.requires_grad_()
            losses = ops.focal_loss(
                logits, torch.arange(4) % classes, gamma=gamma, reduction="none", impl=impl
            )
            assert losses.isnan().tolist() == [False, False, True, False]
            assert torch.equal(losses[[0, 1, 3]], whole[[0, 1, 3]])
            (gradient,) = torch.autograd.grad(losses.sum(), logits)
            assert gradient.isnan().any(1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classes_with_no_probability_have_no_gradient(impl: Any, gamma: float, smoothing: float) -> None:
    logits = torch.tensor([[0.5, -math.inf, 1.0], [0.2, 0.1, -math.inf]], requires_grad=True)
    loss = ops.focal_loss(logits, torch.tensor([0, 1]), gamma=gamma, label_smoothing=smoothing, impl=impl)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = torch.autograd.grad(
        F.cross_entropy(logits, torch.tensor([0, 1]), label_smoothing=smoothing), logits
    )[0]
    if smoothing == 0:
        assert gradient.isfinite().all()
        assert gradient[0, 1] == gradient[1, 2] == 0
        if gamma == 0:
            torch.testing.assert_close(gradient, expected)
    else:
        assert float(loss) == math.inf


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("offset", [0.0, 100.0, -3e4])
@pytest.mark.parametrize(("codes", "dim"), [(16, 8), (33, 5), (200, 64)])
def test_codes_close_together_far_from_zero(impl: Any, offset: float, codes: int, dim: int) -> None:
    """Held to distances in float64: those chosen are the least, up to the rounding of the codes' own scale."""
    generator = torch.Generator().manual_seed(0)
    spread = 0.05 * max(1.0, abs(offset) / 100)
    codebook = offset + spread * torch.randn(codes, dim, generator=generator)
    x = offset + spread * torch.randn(500, dim, generator=generator)
    distances = torch.cdist(
        x.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist"
    ).square()
    least = distances.min(1).values
    for chosen in (
        ops.nearest_code(x, codebook, impl=impl),
        ops.vector_quantize(x, codebook, impl=impl)[1],
    ):
        found = distances.gather(1, chosen.unsqueeze(1)).squeeze(1)
        assert ((found - least) <= 1e-5 * spread**2 * dim).all()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_an_average_without_a_past_and_without_rows_keeps_its_codes(impl: Any) -> None:
    codes = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    kept, size, average = codes.clone(), torch.ones(4), codes.clone()
    statistics = ops.CodeStatistics(torch.zeros(4), torch.zeros(4, 3))
    ops.move_codebook(size, average, codes, statistics, decay=0.0, impl=impl)
    assert torch.equal(codes, kept)
