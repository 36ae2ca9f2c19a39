"""Screened nearest code in the interpreter: what half precision decides is right, and the rest is scored again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from goskill.ops.reference import codebook_centre

interpreter = pytest.importorskip("triton.runtime.interpreter")

pytestmark = [
    pytest.mark.interpret,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") != "1",
        reason="needs TRITON_INTERPRET=1 before Triton is imported: TRITON_INTERPRET=1 pytest -m interpret",
    ),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, where the interpreter overflows
]

OPEN = -1


@pytest.fixture
def screened() -> ModuleType:
    from goskill.kernels import screened

    return screened


@pytest.fixture(autouse=True, scope="module")
def products_that_do_not_depend_on_the_row() -> Iterator[None]:
    """A row's products are the same in any tile on a GPU; those of NumPy's BLAS depend on its place."""

    def matmul(a: Any, b: Any, dtype: Any) -> Any:
        return np.einsum("ij,jk->ik", a.astype(dtype), b.astype(dtype))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.np, "matmul", matmul)
        yield


def found(kernels: ModuleType, x: Tensor, codebook: Tensor, cosine: bool = False) -> tuple[Tensor, Tensor]:
    """Indices and distances, poisoned first; the indices are the same without distances."""
    indices, distance = torch.full((len(x),), -7), torch.full((len(x),), torch.nan)
    kernels.nearest_code(x, codebook, cosine, indices, distance)
    alone = torch.full((len(x),), -7)
    kernels.nearest_code(x, codebook, cosine, alone, None)
    assert torch.equal(alone, indices)
    return indices, distance


class NoLaunch:
    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def decided(screened: ModuleType, x: Tensor, codebook: Tensor, cosine: bool = False) -> Tensor:
    """The indices before anything is scored again, OPEN where half precision does not decide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(screened, "rescore_kernel", NoLaunch())
        indices = torch.full((len(x),), -7)
        screened.nearest_code(x, codebook, cosine, indices, None)
    return indices


def check(screened: ModuleType, x: Tensor, codebook: Tensor, cosine: bool = False) -> float:
    """Everything that is promised; returns the share of open rows."""
    from goskill.kernels import nearest_code as direct

    indices, distance = found(screened, x, codebook, cosine)
    expected, expected_distance = found(direct, x, codebook, cosine)
    assert torch.equal(indices, expected)
    torch.testing.assert_close(distance, expected_distance, rtol=1e-5, atol=1e-6, equal_nan=True)
    first = decided(screened, x, codebook, cosine)
    sure = first != OPEN
    assert torch.equal(first[sure], expected[sure])
    # Beyond what float32 can tell, by exact arithmetic: the only nearest code.
    rows, codes = x.double().numpy(), codebook.double().numpy()
    scores = (0 if cosine else (codes**2).sum(1)) - 2 * rows @ codes.T
    best = np.where(np.isnan(scores), np.inf, scores).argmin(1)
    assert (best[sure.numpy()] == first[sure].numpy()).all()
    return float((~sure).float().mean())


@settings(max_examples=25)
@given(
    rows=st.integers(1, 300),
    dim=st.integers(1, 128),
    codes=st.integers(1, 300),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    cosine=st.booleans(),
    scale=st.sampled_from([1.0, 1e-3, 300.0]),
    seed=st.integers(0, 2**31),
)
def test_the_indices_are_those_of_the_direct_kernel(
    rows: int, dim: int, codes: int, dtype: torch.dtype, cosine: bool, scale: float, seed: int
) -> None:
    from goskill.kernels import screened

    torch.manual_seed(seed)
    x = (torch.randn(dim, 2 * rows) * scale).to(dtype).T[::2]
    codebook = torch.randn(codes, dim) * scale
    if cosine:
        codebook = torch.nn.functional.normalize(codebook, dim=-1)
    check(screened, x, codebook, cosine)


def next_after(values: Tensor) -> Tensor:
    return torch.nextafter(values, torch.full_like(values, torch.inf))


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape)


def with_rows(x: Tensor, value: float) -> Tensor:
    x[::3, 1] = value
    return x


def with_code(codebook: Tensor, value: float) -> Tensor:
    codebook[len(codebook) // 2] = value
    return codebook


DATA: dict[str, Callable[[int, int, int], tuple[Tensor, Tensor]]] = {
    "duplicated codes": lambda n, m, d: (normal(n, d), normal(-(-m // 3), d).repeat(3, 1)[:m]),
    "codes one rounding apart": lambda n, m, d: (
        normal(n, d),
        torch.cat([half := normal(-(-m // 2), d), next_after(half)])[:m],
    ),
    "rows halfway between two codes": lambda n, m, d: (
        lambda e: ((e[torch.randint(m, (n,))] + e[torch.randint(m, (n,))]) / 2, e)
    )(normal(m, d)),
    "rows at codes": lambda n, m, d: (lambda e: (e[torch.randint(m, (n,))], e))(normal(m, d)),
    "an offset common to all": lambda n, m, d: (normal(n, d) + 1000, normal(m, d) + 1000),
    "all zero": lambda n, m, d: (torch.zeros(n, d), torch.zeros(m, d)),
    "zero rows": lambda n, m, d: (torch.zeros(n, d), normal(m, d)),
    "zero codes": lambda n, m, d: (normal(n, d), with_code(torch.zeros(m, d), 0.25)),
    "smallest floats": lambda n, m, d: (normal(n, d) * 1e-40, normal(m, d) * 1e-40),
    "squares below float32": lambda n, m, d: (normal(n, d) * 1e-25, normal(m, d) * 1e-25),
    "below float16": lambda n, m, d: (normal(n, d) * 1e-7, normal(m, d) * 1e-7),
    "small rows, long codes": lambda n, m, d: (normal(n, d) * 1e-30, normal(m, d) * 1e15),
    "long rows, small codes": lambda n, m, d: (normal(n, d) * 1e15, normal(m, d) * 1e-30),
    "beyond float16": lambda n, m, d: (normal(n, d) * 1e5, normal(m, d) * 1e5),
    "some rows beyond float16": lambda n, m, d: (with_rows(normal(n, d), 7e4), normal(m, d)),
    "one code beyond float16": lambda n, m, d: (normal(n, d), with_code(normal(m, d), 7e4)),
    "squares beyond float32": lambda n, m, d: (normal(n, d) * 1e25, normal(m, d) * 1e25),
    "one long code": lambda n, m, d: (normal(n, d), with_code(normal(m, d), 300.0)),
    "infinite rows": lambda n, m, d: (with_rows(normal(n, d), torch.inf), normal(m, d)),
    "NaN in rows": lambda n, m, d: (with_rows(normal(n, d), torch.nan), normal(m, d)),
    "NaN in a code": lambda n, m, d: (normal(n, d), with_code(normal(m, d), torch.nan)),
    "an infinite code": lambda n, m, d: (normal(n, d), with_code(normal(m, d), torch.inf)),
    "integers": lambda n, m, d: (torch.randint(-2, 3, (n, d)).float(), torch.randint(-2, 3, (m, d)).float()),
}


@pytest.mark.parametrize("codes", [6, 200, 280])
@pytest.mark.parametrize("kind", DATA)
def test_hard_cases(kind: str, codes: int, screened: ModuleType) -> None:
    torch.manual_seed(codes)
    x, codebook = DATA[kind](150, codes, 24)
    check(screened, x, codebook)


def test_ties_go_to_the_lowest_index_and_nan_rows_to_the_first(screened: ModuleType) -> None:
    for codes in (20, 100, 300):
        codebook = torch.ones(codes, 4)
        codebook[0] = 3.0
        x = torch.zeros(200, 4)
        x[4, 2] = torch.nan
        indices, distance = found(screened, x, codebook)
        assert indices.tolist() == [int(row != 4) for row in range(200)]
        assert distance.isnan().tolist() == [row == 4 for row in range(200)]


@pytest.mark.parametrize(("codes", "most"), [(16, 0.05), (256, 0.09), (1000, 0.11)])
def test_few_normal_rows_are_scored_twice(codes: int, most: float, screened: ModuleType) -> None:
    """More would be right too, and slow: NumPy counts 2.3, 4.8 and 5.9 percent of rows."""
    torch.manual_seed(0)
    assert check(screened, normal(2000, 64), normal(codes, 64)) <= most
    # 16-bit rows lose nothing, and codes that half precision holds do not either.
    exact = normal(codes, 64).half().float()
    assert check(screened, normal(1000, 64).half(), exact) <= 0.02


@pytest.mark.parametrize("codes", [16, 300])
def test_programs_take_several_tiles_and_lists_of_any_length(
    codes: int, screened: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screened, "PROGRAMS", 2)
    monkeypatch.setattr(screened, "RESCORING_PROGRAMS", 2)
    torch.manual_seed(0)
    assert check(screened, normal(1000, 8), normal(codes, 8)) < 0.5
    assert check(screened, normal(1000, 8) * 1e-7, normal(codes, 8) * 1e-7) > 0.9


def cut(values: Any, bits: int) -> Any:
    """float32 or float64 with so many significant bits, truncated."""
    integer, fraction = (np.int32, 23) if values.dtype == np.float32 else (np.int64, 52)
    kept = integer(-1) << integer(fraction + 1 - bits)
    return (np.ascontiguousarray(values).view(integer) & kept).view(values.dtype)


def tensor_core_product(_: Any, a: Any, b: Any, d: Any, precision: Any, *rest: Any) -> Any:
    """What tensor cores may make of a product at worst: every sum is truncated to 22 bits."""
    terms = [(a.data.astype(np.float32), b.data.astype(np.float32))]
    if a.data.dtype == np.float32 and "TF32" in precision.name:
        high_a, high_b = (cut(part, 11) for part in terms[0])
        low_a, low_b = (cut(part - high, 11) for part, high in zip(terms[0], (high_a, high_b), strict=True))
        small = [(low_a, high_b), (high_a, low_b)] if precision.name == "TF32x3" else []
        terms = [*small, (high_a, high_b)]
    total = d.data.astype(np.float64)
    for left, right in terms:
        for k in range(left.shape[1]):
            total = cut(total + left[:, k, None].astype(np.float64) * right[k], 22)
    return interpreter.TensorHandle(total.astype(d.data.dtype), d.dtype.scalar)


@pytest.mark.parametrize(
    ("codes", "dtype", "offset"),
    [
        (16, torch.float32, 0.0),
        (16, torch.float32, 50.0),
        (16, torch.bfloat16, 50.0),
        (48, torch.float32, 50.0),
    ],
)
def test_the_error_of_tensor_cores_is_within_its_bound(
    codes: int, dtype: torch.dtype, offset: float, screened: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of few codes and many: what is decided stays right, and no other code is nearer by more than sums of float32
    hide, where two codes are all but equally near."""
    from goskill.kernels import nearest_code as direct

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", tensor_core_product)
    torch.manual_seed(codes)
    codebook = normal(codes, 40) + offset
    one, other = codebook[torch.randint(codes, (2, 64))]
    x = torch.lerp(one, other, 0.5 + 1e-4 * torch.randn(64, 1)).to(dtype)
    check(screened, x, codebook)
    indices, _ = found(direct, x, codebook)
    centre = codebook_centre(codebook).double()
    rows, moved = x.double() - centre, codebook.double() - centre
    scores = moved.square().sum(1) - 2 * rows @ moved.T
    excess = scores.gather(1, indices[:, None])[:, 0] - scores.amin(1)
    hidden = 2.0**-18 * rows.norm(dim=1) * moved.norm(dim=1).max()
    assert bool((excess <= hidden).all()), float((excess / hidden).max())


def test_no_rows(screened: ModuleType) -> None:
    screened.nearest_code(torch.zeros(0, 4), torch.zeros(3, 4), False, torch.zeros(0).long(), None)
