"""The Triton kernels' logic in the interpreter, on CPU tensors: TRITON_INTERPRET=1 pytest -m interpret."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from goskill.ops import reference

triton = pytest.importorskip("triton")

pytestmark = [
    pytest.mark.interpret,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") != "1",
        reason="needs TRITON_INTERPRET=1 before Triton is imported: TRITON_INTERPRET=1 pytest -m interpret",
    ),
]


def poisoned(*shape: int) -> Tensor:
    """An output that shows which of its numbers were not written."""
    return torch.full(shape, torch.nan)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize(
    ("rows", "dim", "codes"),
    [(1, 1, 1), (5, 3, 2), (130, 64, 16), (70, 17, 100), (65, 130, 33), (3, 512, 20)],
)
def test_nearest_code(rows: int, dim: int, codes: int, cosine: bool, dtype: torch.dtype) -> None:
    from goskill.kernels.nearest_code import nearest_code

    torch.manual_seed(0)
    wide = torch.randn(dim, 2 * rows).to(dtype)
    x = wide.T[::2]
    codebook = torch.randn(codes, dim)
    if cosine:
        codebook = F.normalize(codebook, dim=-1)
    indices, distance = torch.full((rows,), -7), poisoned(rows)
    nearest_code(x, codebook, cosine, indices, distance)
    wide_x, wide_codes, metric = x.double(), codebook.double(), "cosine" if cosine else "euclidean"
    exact = reference.nearest_code(wide_x, wide_codes, metric)
    exact_distance = reference.code_distance(wide_x, wide_codes, exact, metric)
    assert torch.equal(indices, exact)
    torch.testing.assert_close(distance.double(), exact_distance, rtol=1e-5, atol=1e-6)
    alone = torch.full((rows,), -7)
    nearest_code(x, codebook, cosine, alone, None)
    assert torch.equal(alone, indices)


def test_ties_and_nan() -> None:
    from goskill.kernels.nearest_code import nearest_code

    for codes in (20, 100):
        codebook = torch.ones(codes, 4)
        codebook[0], codebook[7] = 3.0, torch.nan
        x = torch.zeros(9, 4)
        x[4, 2] = torch.nan
        indices, distance = torch.full((9,), -7), poisoned(9)
        nearest_code(x, codebook, False, indices, distance)
        assert indices.tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1]
        assert distance.isnan().tolist() == [row == 4 for row in range(9)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("rows", "dim", "codes"), [(1, 1, 1), (150, 24, 16), (70, 130, 5), (80, 65, 70)])
def test_vector_quantize_and_its_gradient(rows: int, dim: int, codes: int, masked: bool) -> None:
    from goskill.kernels.vector_quantize import straight_through, vector_quantize

    torch.manual_seed(0)
    x, codebook, gradient = torch.randn(dim, rows).T, torch.randn(codes, dim), torch.randn(rows, dim)
    mask = torch.rand(rows) > 0.4 if masked else None
    results = (
        poisoned(rows, dim),
        torch.full((rows,), -7),
        poisoned(),
        poisoned(codes),
        poisoned(codes, dim),
    )
    leaf = x.double().requires_grad_()
    elements = poisoned()
    vector_quantize(x, codebook, mask, 1.5, *results, elements)
    exact = reference.vector_quantize(leaf, codebook.double(), mask, 1.5, 0.0)
    assert elements == results[3].sum() * dim
    for ours, truth in zip(results, exact, strict=True):
        torch.testing.assert_close(ours.double(), truth.detach().double(), rtol=1e-5, atol=1e-5)
    ((exact[0] * gradient).sum() + 3 * exact[2]).backward()
    out = poisoned(rows, dim)
    straight_through(x, codebook, results[1], gradient, torch.tensor(3.0), elements, 1.5, out)
    torch.testing.assert_close(out.double(), leaf.grad, rtol=1e-5, atol=1e-6)


def test_vector_quantize_of_no_rows() -> None:
    from goskill.kernels.vector_quantize import vector_quantize

    for codes in (4, 70):
        loss, counts, sums, elements = poisoned(), poisoned(codes), poisoned(codes, 3), poisoned()
        vector_quantize(
            torch.zeros(0, 3),
            torch.zeros(codes, 3),
            None,
            1.0,
            poisoned(0, 3),
            poisoned(0).long(),
            loss,
            counts,
            sums,
            elements,
        )
        assert loss == 0
        assert elements == 0
        assert (counts == 0).all()
        assert (sums == 0).all()


def test_move_codebook() -> None:
    from goskill.kernels.vector_quantize import move_codebook

    torch.manual_seed(0)
    for codes, dim in ((1, 1), (5, 7), (1500, 3)):
        ours = [torch.rand(codes) * 9, torch.randn(codes, dim), poisoned(codes, dim)]
        exact = [tensor.double() for tensor in ours]
        counts, sums = torch.randint(0, 5, (codes,)).float(), torch.randn(codes, dim)
        move_codebook(*ours, counts, sums, 0.8, 1e-5)
        reference.move_codebook(*exact, counts.double(), sums.double(), 0.8, 1e-5)
        for mine, truth in zip(ours, exact, strict=True):
            torch.testing.assert_close(mine.double(), truth, rtol=1e-5, atol=1e-6)


def check_focal(
    logits: Tensor, target: Tensor, weight: Tensor | None, mask: Tensor | None, *options: Any
) -> None:
    from goskill.kernels.focal_loss import focal_loss

    gamma, smoothing, reduction = options
    rows, classes = logits.shape
    loss = poisoned(rows) if reduction == 0 else poisoned()
    gradient = poisoned(rows, classes)
    focal_loss(logits, target, weight, mask, gamma, -100, smoothing, reduction, loss, gradient)
    leaf = logits.double().requires_grad_()
    exact = reference.focal_loss(
        leaf,
        target,
        None if weight is None else weight.double(),
        mask,
        gamma,
        -100,
        smoothing,
        ("none", "mean", "sum")[reduction],
    )
    exact.sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(loss.double(), exact.detach(), rtol=5e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), leaf.grad, rtol=5e-5, atol=1e-6)
    alone = torch.full_like(loss, torch.nan)
    focal_loss(logits, target, weight, mask, gamma, -100, smoothing, reduction, alone, None)
    assert torch.equal(alone, loss)


@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.7])
def test_focal_loss(gamma: float, smoothing: float, reduction: int) -> None:
    torch.manual_seed(0)
    for rows, classes in ((1, 2), (100, 10), (3, 1500)):
        logits, target = torch.randn(rows, classes) * 3, torch.randint(0, classes, (rows,))
        target[::5] = -100
        check_focal(logits, target, None, None, gamma, smoothing, reduction)
        check_focal(logits, target, torch.rand(classes), torch.rand(rows) > 0.3, gamma, smoothing, reduction)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [4096, 4097, 20_000])
def test_focal_loss_of_classes_in_several_chunks(classes: int, smoothing: float) -> None:
    """Maxima that rise and fall from chunk to chunk, and classes of no probability."""
    torch.manual_seed(0)
    rising = torch.linspace(-300, 300, classes)
    logits = torch.stack([rising, -rising, torch.randn(classes), torch.randn(classes) * 100])
    check_focal(logits, torch.tensor([classes - 1, 0, 5, classes // 2]), None, None, 2.0, smoothing, 0)
    if not smoothing:
        logits[2, ::2] = -torch.inf
        check_focal(
            logits, torch.tensor([0, classes - 1, 5, 7]), torch.rand(classes), None, 0.0, smoothing, 2
        )


def test_nan_logits_give_nan_for_their_row_alone() -> None:
    from goskill.kernels.focal_loss import focal_loss

    for classes in (5, 9000):
        logits, loss, gradient = torch.randn(3, classes), poisoned(3), poisoned(3, classes)
        logits[1, classes // 2] = torch.nan
        focal_loss(logits, torch.tensor([0, 1, 2]), None, None, 2.0, -100, 0.0, 0, loss, gradient)
        assert loss.isnan().tolist() == [False, True, False]
        assert gradient.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("reduction", [0, 1, 2])
def test_focal_loss_of_no_selected_row_is_zero(reduction: int) -> None:
    for classes in (5, 1500):
        check_focal(torch.randn(3, classes), torch.full((3,), -100), None, None, 2.0, 0.0, reduction)


def test_focal_loss_counts_many_rows_in_parts() -> None:
    from goskill.kernels import focal_loss as module

    torch.manual_seed(0)
    rows = module.COUNT_IN_PLACE + 1
    check_focal(torch.randn(rows, 4), torch.randint(0, 4, (rows,)), torch.rand(4), None, 2.0, 0.0, 1)


def test_focal_loss_is_finite_at_extremes_and_nan_for_a_target_out_of_range() -> None:
    from goskill.kernels.focal_loss import focal_loss

    for classes in (4, 2000):
        logits = torch.full((3, classes), -1e4)
        logits[:, 1] = 1e4
        for gamma in (0.0, 0.3, 2.0):
            check_focal(logits, torch.tensor([1, 0, 2]), None, None, gamma, 0.1, 0)
        loss, gradient = poisoned(3), poisoned(3, classes)
        focal_loss(logits, torch.tensor([1, classes, -100]), None, None, 2.0, -100, 0.0, 0, loss, gradient)
        assert loss.isnan().tolist() == [False, True, False]


def test_scale_rows() -> None:
    from goskill.kernels.focal_loss import scale_rows

    rows = torch.randn(40, 33)
    some_nan = torch.ones(40)
    some_nan[7] = torch.nan
    for factor in (
        torch.tensor(1.0),
        torch.tensor(-2.5),
        torch.tensor(torch.nan),
        torch.rand(40),
        some_nan,
    ):
        out = poisoned(40, 33)
        scale_rows(rows, factor, out)
        expected = rows * (factor.unsqueeze(-1) if factor.ndim else factor)
        torch.testing.assert_close(out, expected, equal_nan=True)
        in_place = rows.clone()
        scale_rows(in_place, factor, in_place)
        torch.testing.assert_close(in_place, expected, equal_nan=True)
