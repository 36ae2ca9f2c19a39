"""What every implementation must give: the float64 reference's answer within float32's error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from goskill import ops
from goskill.errors import InputError

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPSILON = torch.finfo(torch.float32).eps


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout."""
    if layout == "contiguous":
        return tensor.contiguous()
    if layout == "column_major":
        return tensor.mT.contiguous().mT
    # Every second column of a wider matrix that starts at an odd address.
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1), torch.nan).to(tensor)
    view = wide[..., 1::2]
    view.copy_(tensor)
    return view


def assert_nearest(x: Tensor, codebook: Tensor, indices: Tensor) -> None:
    """The chosen distances are the least ones, up to the rounding of |e|^2 - 2 x.e in float32."""
    rows, codes = x.double().reshape(-1, x.shape[-1]), codebook.double()
    distances = (rows.unsqueeze(1) - codes).square().sum(-1)
    chosen = distances.gather(1, indices.reshape(-1, 1)).squeeze(1)
    largest = codes.square().sum(-1).max() + 2 * rows.norm(dim=-1) * codes.norm(dim=-1).max()
    budget = 2 * EPSILON * (x.shape[-1] ** 0.5 + 4) * largest
    assert (chosen - distances.min(1).values <= budget).all()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 70),
    dim=st.integers(1, 40),
    codes=st.integers(1, 70),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["contiguous", "column_major", "strided"]),
    seed=st.integers(0, 1000),
)
def test_nearest_code_is_nearest_for_any_shape_dtype_and_layout(
    rows: int, dim: int, codes: int, dtype: torch.dtype, layout: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = laid_out(torch.randn(rows, dim, generator=generator).to(dtype), layout)
    codebook = torch.randn(codes, dim, generator=generator)
    before = x.clone()
    indices, distance = ops.nearest_code(x, codebook, return_distance=True)
    assert indices.dtype == torch.int64
    assert distance.dtype == torch.float32
    assert torch.equal(x, before)
    assert_nearest(x, codebook, indices)
    exact = (x.double() - codebook.double()[indices]).square().sum(-1)
    torch.testing.assert_close(distance.double(), exact, rtol=4 * EPSILON * dim, atol=1e-12)


@pytest.mark.parametrize(
    ("rows", "dim", "codes"), [(1000, 64, 16), (257, 512, 33), (65, 64, 1025), (3, 2, 65536)]
)
def test_nearest_code_is_nearest_at_sizes_in_use(rows: int, dim: int, codes: int) -> None:
    torch.manual_seed(0)
    x, codebook = torch.randn(rows, dim), torch.randn(codes, dim)
    assert_nearest(x[:100], codebook, ops.nearest_code(x, codebook)[:100])


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("codes", [2, 16, 17, 40, 100])
def test_the_lowest_of_equal_codes_wins(codes: int, impl: Any) -> None:
    codebook = torch.ones(codes, 5)
    codebook[0] = 3.0
    indices = ops.nearest_code(torch.zeros(50, 5), codebook, impl=impl)
    assert (indices == 1).all()


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_nan_rows_get_code_zero_and_nan_codes_are_never_chosen(impl: Any) -> None:
    x, codebook = torch.randn(9, 4), torch.randn(6, 4)
    x[2, 1] = torch.nan
    codebook[3, 0] = torch.nan
    indices, distance = ops.nearest_code(x, codebook, return_distance=True, impl=impl)
    assert indices[2] == 0
    assert distance[2].isnan()
    assert (indices != 3).all()
    assert distance.isnan().sum() == 1


def test_cosine_distance_equals_float64() -> None:
    torch.manual_seed(0)
    x, codebook = torch.randn(4, 25, 12), torch.randn(20, 12) * torch.rand(20, 1) * 5
    indices, distance = ops.nearest_code(x, codebook, metric="cosine", return_distance=True)
    similarity = F.normalize(x.double(), dim=-1) @ F.normalize(codebook.double(), dim=-1).T
    assert indices.shape == (4, 25)
    assert torch.equal(indices, similarity.argmax(-1))
    torch.testing.assert_close(distance.double(), 1 - similarity.max(-1).values, atol=1e-6, rtol=0)
    assert ops.nearest_code(torch.zeros(1, 12), codebook, metric="cosine", return_distance=True)[1] == 1


@pytest.mark.parametrize("mode", ["ema", "gradient"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masked", [False, True])
def test_vector_quantize_equals_the_float64_reference(mode: Any, dtype: torch.dtype, masked: bool) -> None:
    torch.manual_seed(0)
    x, codebook, weight = torch.randn(3, 50, 24).to(dtype), torch.randn(19, 24), torch.randn(3, 50, 24)
    mask = torch.rand(3, 50) > 0.4 if masked else None
    results = []
    for kind in (dtype, torch.float64):
        rows = x.to(kind, copy=True).requires_grad_()
        codes = codebook.to(
            torch.float64 if kind == torch.float64 else torch.float32, copy=True
        ).requires_grad_()
        quantized, indices, loss, statistics = ops.vector_quantize(
            rows,
            codes,
            mode=mode,
            commitment_weight=0.25,
            codebook_weight=1.5,
            mask=mask,
            return_statistics=True,
        )
        ((quantized.double() * weight).sum() + 3 * loss).backward()
        assert quantized.dtype == kind
        results.append((quantized, indices, loss, *statistics, rows.grad, codes.grad))
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    for name, ours, exact in zip(
        ("quantized", "indices", "loss", "counts", "sums", "dx", "dc"), *results, strict=True
    ):
        if exact is None:
            assert ours is None
            continue
        scale = max(1.0, float(exact.detach().abs().max()))
        limit = tolerance if name in ("quantized", "dx") else 1e-6
        assert float((ours.detach().double() - exact).abs().max()) <= limit * scale, name


def test_frozen_codebook_gets_no_gradient_and_x_still_does() -> None:
    x, codebook = torch.randn(9, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    for impl in ("auto", "reference"):
        quantized, _, loss = ops.vector_quantize(x, codebook, mode="gradient", freeze=True, impl=impl)  # type: ignore[call-overload]
        (quantized.sum() + loss).backward()
    assert codebook.grad is None
    assert x.grad is not None


def test_no_selected_row_gives_zero_loss_and_gradient() -> None:
    for impl in ("auto", "reference"):
        for x, mask in ((torch.randn(4, 3), torch.zeros(4, dtype=torch.bool)), (torch.zeros(0, 3), None)):
            rows = x.clone().requires_grad_()
            quantized, _, loss = ops.vector_quantize(rows, torch.randn(5, 3), mask=mask, impl=impl)  # type: ignore[call-overload]
            (quantized.sum() + loss).backward()
            assert loss == 0
            assert rows.grad is not None
            assert (rows.grad == 0).all()


def test_statistics_do_not_depend_on_the_number_of_threads() -> None:
    torch.manual_seed(0)
    x, codebook = torch.randn(9000, 16), torch.randn(40, 16)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(ops.vector_quantize(x, codebook, return_statistics=True))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(other[2], results[0][2])
        assert torch.equal(other[3].counts, results[0][3].counts)
        assert torch.equal(other[3].sums, results[0][3].sums)


def test_move_codebook_equals_float64_and_keeps_unused_codes_finite() -> None:
    torch.manual_seed(0)
    ours = [torch.rand(30) * 5, torch.randn(30, 7), torch.full((30, 7), torch.nan)]
    exact = [tensor.double() for tensor in ours]
    statistics = ops.CodeStatistics(torch.randint(0, 4, (30,)).float(), torch.randn(30, 7))
    ours[0][:5] = exact[0][:5] = 0
    statistics.counts[:5] = 0
    ops.move_codebook(*ours, statistics, decay=0.8, eps=1e-5)  # type: ignore[call-arg]
    ops.move_codebook(*exact, ops.CodeStatistics(*(t.double() for t in statistics)), decay=0.8, eps=1e-5)  # type: ignore[call-arg]
    for mine, truth in zip(ours, exact, strict=True):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine.double(), truth, rtol=1e-5, atol=1e-6)


def focal_results(rows: Tensor, target: Tensor, factor: float, **arguments: Any) -> tuple[Tensor, Tensor]:
    leaf = rows.detach().clone().requires_grad_()
    loss = ops.focal_loss(leaf, target, **arguments)
    gradient = torch.autograd.grad(loss.sum() * factor, leaf)[0]
    return loss.detach().double(), gradient.double()


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(0, 40),
    classes=st.integers(1, 70),
    gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.7]),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    reduction=st.sampled_from(["none", "mean", "sum"]),
    weighted=st.booleans(),
    masked=st.booleans(),
    factor=st.sampled_from([1.0, -0.3]),
    dtype=st.sampled_from(DTYPES),
    spread=st.sampled_from([0.0, 3.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_focal_loss_stays_within_twice_the_plain_error_from_float64(
    rows: int,
    classes: int,
    gamma: float,
    smoothing: float,
    reduction: str,
    weighted: bool,
    masked: bool,
    factor: float,
    dtype: torch.dtype,
    spread: float,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, classes, generator=generator) * spread).to(dtype)
    target = torch.randint(0, classes, (rows,), generator=generator)
    target[torch.rand(rows, generator=generator) < 0.2] = -100
    arguments: dict[str, Any] = {"gamma": gamma, "label_smoothing": smoothing, "reduction": reduction}
    if weighted:
        arguments["weight"] = torch.rand(classes, generator=generator)
    if masked:
        arguments["mask"] = torch.rand(rows, generator=generator) > 0.3
    ours = focal_results(logits, target, factor, **arguments)
    plain = focal_results(logits, target, factor, impl="reference", **arguments)
    exact = focal_results(logits.double(), target, factor, impl="reference", **arguments)
    for mine, other, truth in zip(ours, plain, exact, strict=True):
        assert mine.isfinite().all()
        if truth.numel() == 0:
            continue
        size = float(truth.abs().max())
        spacing = torch.finfo(dtype if mine is ours[1] else torch.float32).eps
        budget = 2 * float((other - truth).abs().max()) + 8 * spacing * size + 1e-7
        assert float((mine - truth).abs().max()) <= budget


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(6, 5), (3, 5, 4), (2, 5, 3, 2)])
def test_gamma_zero_is_cross_entropy_in_value_and_gradient(shape: tuple[int, ...], reduction: Any) -> None:
    torch.manual_seed(0)
    logits = torch.randn(shape) * 4
    target = torch.randint(0, 5, shape[:1] + shape[2:])
    target[0] = 7
    arguments: dict[str, Any] = {
        "weight": torch.rand(5),
        "ignore_index": 7,
        "label_smoothing": 0.1,
        "reduction": reduction,
    }
    gradients = []
    losses = []
    for function, extra in ((ops.focal_loss, {"gamma": 0.0}), (F.cross_entropy, {})):
        leaf = logits.clone().requires_grad_()
        loss = function(leaf, target, **arguments, **extra)
        losses.append(loss.detach())
        gradients.append(
            torch.autograd.grad((loss * torch.arange(1, loss.numel() + 1).view(loss.shape)).sum(), leaf)[0]
        )
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0])
def test_focal_loss_is_finite_where_p_is_one_or_no_row_counts(gamma: float, impl: Any) -> None:
    for logits, target in (([[1e4, -1e4]], [0]), ([[1e4, -1e4]], [1]), ([[1.0, 2.0]], [-100])):
        leaf = torch.tensor(logits, requires_grad=True)
        loss = ops.focal_loss(leaf, torch.tensor(target), gamma=gamma, impl=impl)
        loss.backward()
        assert loss.isfinite()
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        if target != [1]:
            assert loss == 0
            assert (leaf.grad == 0).all()


@pytest.mark.parametrize("classes", [4099, 262144])
def test_focal_loss_takes_many_classes(classes: int) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, classes), torch.randint(0, classes, (3,))
    ours = focal_results(logits, target, 1.0)
    exact = focal_results(logits.double(), target, 1.0, impl="reference")
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-9)


def test_focal_gradient_may_be_used_twice_and_inputs_stay_as_they_were() -> None:
    logits, target = torch.randn(6, 5, requires_grad=True), torch.randint(0, 5, (6,))
    before = logits.detach().clone()
    loss = ops.focal_loss(logits, target)
    first = torch.autograd.grad(loss, logits, torch.tensor(2.0), retain_graph=True)[0]
    kept = first.clone()
    second = torch.autograd.grad(loss, logits, torch.tensor(3.0), retain_graph=True)[0]
    third = torch.autograd.grad(loss, logits)[0]
    assert torch.equal(first, kept)
    torch.testing.assert_close(second, first * 1.5)
    torch.testing.assert_close(third, first / 2)
    assert torch.equal(logits.detach(), before)
    (ops.focal_loss(logits, target) + ops.focal_loss(logits, target)).backward()
    torch.testing.assert_close(logits.grad, first)


def test_references_pass_gradcheck() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 3, -100, 1, 2])
    for gamma in (0.0, 0.5, 2.0):
        assert torch.autograd.gradcheck(
            lambda z, g=gamma: ops.focal_loss(z, target, gamma=g, label_smoothing=0.1), (logits,)
        )
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    codebook = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor, codebook: Tensor) -> Tensor:
        # Only both sides' gradients together are those of a function: the mean squared error's.
        return ops.vector_quantize(x, codebook, mode="gradient", codebook_weight=1.0)[2] / 2

    gradients = torch.autograd.grad(loss(x, codebook) * 2, (x, codebook))
    indices = ops.nearest_code(x, codebook)
    expected = torch.autograd.grad((x - codebook[indices]).square().mean(), (x, codebook))
    torch.testing.assert_close(gradients, expected)


WRONG: list[tuple[Any, str]] = [
    (lambda: ops.nearest_code(torch.zeros(3, 4, dtype=torch.int64), torch.zeros(2, 4)), "x .*int64"),
    (lambda: ops.nearest_code(torch.zeros(3, 4), torch.zeros(2, 5)), r"x .*5.*\[3, 4\]"),
    (lambda: ops.nearest_code(torch.zeros(3, 4), torch.zeros(0, 4)), r"codebook .*at least one.*\[0, 4\]"),
    (lambda: ops.nearest_code(torch.zeros(3, 4), torch.zeros(1, 2, 4)), "codebook"),
    (lambda: ops.nearest_code(torch.zeros(3, 4), torch.zeros(2, 4, device="meta")), "codebook .*cpu.*meta"),
    (lambda: ops.nearest_code(torch.zeros(3, 4), torch.zeros(2, 4), metric="l1"), "metric .*'l1'"),
    (
        lambda: ops.nearest_code(torch.zeros(3, 4), torch.zeros(2, 4), impl="triton"),
        "impl='triton'.*cuda.*cpu",
    ),
    (lambda: ops.nearest_code(torch.zeros(3, 4), torch.zeros(2, 4), impl="fast"), "impl .*'fast'"),
    (
        lambda: ops.nearest_code(torch.zeros(3, 4).double(), torch.zeros(2, 4), impl="cpp"),
        "impl='cpp'.*float64",
    ),
    (lambda: ops.vector_quantize(torch.zeros(3, 4), torch.zeros(2, 4), mask=torch.ones(3)), "mask .*bool"),
    (lambda: ops.vector_quantize(torch.zeros(3, 4), torch.zeros(2, 4), mode="x"), "mode .*'x'"),
    (lambda: ops.focal_loss(torch.zeros(3), torch.zeros(3, dtype=torch.int64)), "logits"),
    (lambda: ops.focal_loss(torch.zeros(3, 4), torch.zeros(3)), "target .*int64.*float32"),
    (lambda: ops.focal_loss(torch.zeros(3, 4), torch.zeros(4, dtype=torch.int64)), r"target .*\[3\].*\[4\]"),
    (lambda: ops.focal_loss(torch.zeros(3, 4), torch.tensor([0, 4, 9])), r"target .*\[0, 4\).*4 at row 1"),
    (lambda: ops.focal_loss(torch.zeros(3, 4), torch.tensor([0, 1, -1])), "target .*-1 at row 2"),
    (lambda: ops.focal_loss(torch.zeros(1, 4), torch.tensor([0]), gamma=-1), "gamma .*-1"),
    (
        lambda: ops.focal_loss(torch.zeros(1, 4), torch.tensor([0]), weight=torch.ones(3)),
        r"weight .*\[4\].*\[3\]",
    ),
    (lambda: ops.focal_loss(torch.zeros(1, 4), torch.tensor([0]), label_smoothing=2), "label_smoothing .*2"),
    (lambda: ops.focal_loss(torch.zeros(1, 4), torch.tensor([0]), reduction="max"), "reduction .*'max'"),
    (
        lambda: ops.focal_loss(torch.zeros(1, 4), torch.tensor([0]), mask=torch.ones(2) > 0),
        r"mask .*\[1\].*\[2\]",
    ),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_wrong_input_is_refused_by_name(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_auto_says_what_it_chooses() -> None:
    assert ops.implementation_for(torch.zeros(1)) == "cpp"
    assert ops.implementation_for(torch.zeros(1, dtype=torch.float64)) == "reference"
