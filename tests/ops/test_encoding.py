"""Codes of changes as the goal encoder sees them: float64's but for ties within float32's rounding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from goskill import _core
from goskill.errors import InputError
from goskill.models import GoalEncoder
from goskill.ops.encoding import NativeEncoder, RowsPerLevel, encodes_natively

INTEGERS = _core.instruction_set() == "avx512vnni"
FEWEST = 4096  # rows from which on integers are worth it


class Model(NamedTuple):
    """An encoder with a LayerNorm that does something, and codes among its embeddings."""

    encoder: GoalEncoder
    codebook: Tensor

    def codes(
        self, rows: Tensor, from_row: Tensor | None = None, to_row: Tensor | None = None
    ) -> tuple[Tensor, RowsPerLevel]:
        return self.native().codes(rows, from_row=from_row, to_row=to_row)

    def native(self) -> NativeEncoder:
        return NativeEncoder(self.encoder.linears, self.encoder.norm, self.codebook)

    def float32(self, rows: Tensor) -> Tensor:
        """Codes of rows so few at a time that they are computed in float32."""
        return torch.cat([self.codes(part)[0] for part in rows.split(FEWEST - 1)])


@torch.no_grad()
def model(
    inputs: int = 39, width: int = 256, embedding: int = 64, codes: int = 16, layers: int = 3, seed: int = 0
) -> Model:
    torch.manual_seed(seed)
    encoder = GoalEncoder(inputs, embedding, width, layers)
    nn.init.normal_(encoder.norm.weight, 1, 0.3)
    nn.init.normal_(encoder.norm.bias, 0, 0.3)
    embeddings = encoder(torch.randn(max(codes, 64), inputs))
    # Farther apart than embeddings of an untrained encoder are.
    codebook = embeddings[:codes] + 3 * embeddings.std(0) * torch.randn(codes, embedding)
    return Model(encoder, codebook.contiguous())


@torch.no_grad()
def assert_nearest(model: Model, changes: Tensor, codes: Tensor) -> None:
    """The codes are float64's nearest, up to four times the error of torch's float32 in the scores."""

    def scores(dtype: torch.dtype) -> Tensor:
        embedding = model.encoder.to(dtype)(changes.to(dtype))
        codebook = model.codebook.to(dtype)
        return 2 * embedding @ codebook.T - codebook.square().sum(-1)

    exact, plain = scores(torch.float64), scores(torch.float32)
    assert codes.dtype == torch.int64
    assert codes.shape == changes.shape[:1]
    if len(changes) == 0:
        return
    budget = 4 * (plain - exact).abs().max() + 1e-6 * exact.abs().max()
    short = exact.max(1).values - exact.gather(1, codes[:, None])[:, 0]
    assert float(short.max()) <= budget


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 60),
    inputs=st.integers(1, 45),
    width=st.integers(2, 140),
    embedding=st.integers(1, 70),
    codes=st.integers(1, 140),
    layers=st.integers(1, 4),
    differences=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_few_rows_get_the_nearest_code_for_any_size(
    rows: int,
    inputs: int,
    width: int,
    embedding: int,
    codes: int,
    layers: int,
    differences: bool,
    seed: int,
) -> None:
    subject = model(inputs, width, embedding, codes, layers, seed)
    states = torch.randn(rows + 3, inputs)
    if differences:
        start, end = torch.randint(0, rows + 3, (2, rows)).unbind()
        found, levels = subject.codes(states, start.contiguous(), end.contiguous())
        changes = states[end] - states[start]
    else:
        found, levels = subject.codes(states)
        changes = states
    assert levels == (0, 0, len(changes) if codes > 1 else 0)
    assert_nearest(subject, changes, found)


@pytest.mark.parametrize(
    ("inputs", "width", "embedding", "codes", "layers"),
    [(39, 256, 64, 16, 3), (40, 128, 64, 16, 3), (7, 100, 33, 5, 2), (3, 31, 9, 256, 4), (65, 300, 80, 2, 2)],
)
@pytest.mark.parametrize("rows", [FEWEST, 3 * FEWEST + 17])
def test_many_rows_get_float32s_codes_and_few_of_them_need_float32(
    inputs: int, width: int, embedding: int, codes: int, layers: int, rows: int
) -> None:
    subject = model(inputs, width, embedding, codes, layers)
    changes = torch.randn(rows, inputs)
    found, levels = subject.codes(changes)
    assert torch.equal(found, subject.float32(changes))
    assert_nearest(subject, changes, found)
    if INTEGERS:
        assert levels.int8 == rows
        assert levels.float32 <= levels.int16 <= rows
        assert 0 < levels.float32 < rows / 5
    else:
        assert levels == (0, 0, rows)


def unusual(kind: str, rows: int, inputs: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(rows, inputs, generator=generator)
    if kind == "still":  # most of the time nothing changes
        return normal * (torch.rand(rows, 1, generator=generator) < 0.1)
    if kind == "scales":
        return normal * 10 ** (12 * torch.rand(rows, 1, generator=generator) - 6)
    if kind == "heavy tails":
        return normal / torch.randn(rows, inputs, generator=generator)
    if kind == "one dimension":  # in which a few rows lie far out
        return normal * torch.where(torch.rand(rows, 1, generator=generator) < 0.01, 1e4, 1e-3)
    if kind == "slow":  # as neighbouring windows are: nearly the same rows
        return normal.cumsum(0) / 100
    assert kind == "few values"
    return normal.round().clamp(-1, 1)


@pytest.mark.parametrize("kind", ["still", "scales", "heavy tails", "one dimension", "slow", "few values"])
@pytest.mark.parametrize("weights", [1.0, 4.0])
def test_unusual_rows_and_large_weights_get_float32s_codes(kind: str, weights: float) -> None:
    subject = model(codes=24, seed=5)
    with torch.no_grad():
        for layer in subject.encoder.linears:
            layer.weight.mul_(weights)
            layer.weight[::7] *= 10
    changes = unusual(kind, 3 * FEWEST, 39)
    found, _ = subject.codes(changes)
    assert torch.equal(found, subject.float32(changes))
    assert_nearest(subject, changes, found)


@pytest.mark.parametrize("rows", [32_768, 100_000])
@pytest.mark.parametrize("seed", range(6))
def test_rare_rows_that_integers_round_coarsely_get_float32s_codes(rows: int, seed: int) -> None:
    subject = model(codes=24, seed=seed)
    with torch.no_grad():
        subject.encoder.linears[0].weight[:, 0] *= 1e-4
    generator = torch.Generator().manual_seed(seed)
    changes = torch.randn(rows, 39, generator=generator)
    _, usual = subject.codes(changes)
    far = torch.randperm(rows, generator=generator)[: 3 + seed]
    changes[far, 0] = 3e3 * 10 ** torch.rand(len(far), generator=generator)
    found, levels = subject.codes(changes)
    assert torch.equal(found[far], subject.float32(changes[far]))
    if INTEGERS:  # the other rows do not pay for it
        assert levels.int8 == rows
        assert levels.int16 < 1.05 * usual.int16 + len(far)
        assert levels.float32 < 1.5 * usual.float32 + len(far)


def test_two_linear_layers_leave_nothing_to_integers() -> None:
    subject = model(layers=1)
    changes = torch.randn(100_000, 39)
    found, levels = subject.codes(changes)
    assert levels == (0, 0, len(changes))
    assert torch.equal(found, subject.float32(changes))


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("size", [300.0, 1e3, 1e4])
def test_rows_that_integers_round_coarsely_before_layer_norm_get_float32s_codes(
    size: float, layers: int
) -> None:
    subject = model(layers=layers)
    changes = torch.randn(100_000, 39)
    changes[:, 0] *= size  # and other features lose their last bits beside it
    with torch.no_grad():
        subject.encoder.linears[0].weight[:, 0] /= size
    found, _ = subject.codes(changes)
    assert torch.equal(found, subject.float32(changes))
    assert_nearest(subject, changes, found)


@pytest.mark.parametrize(("inputs", "width"), [(512, 128), (130, 129), (128, 129), (40, 3)])
def test_layers_that_narrow_their_input_get_the_nearest_code(inputs: int, width: int) -> None:
    subject = model(inputs, width)
    changes = torch.randn(FEWEST, inputs)
    found, _ = subject.codes(changes)
    assert torch.equal(found, subject.float32(changes))
    assert_nearest(subject, changes, found)


@pytest.mark.parametrize("rank", [0, 1, 20])
@pytest.mark.parametrize("bias", [True, False])
def test_first_layers_of_low_rank_get_the_nearest_code(rank: int, bias: bool) -> None:
    subject = model()
    first = subject.encoder.linears[0]
    with torch.no_grad():
        first.weight.copy_(torch.randn(256, rank) @ torch.randn(rank, 39) + 5)  # and rows have a common mean
        first.bias.mul_(bias)
    changes = torch.randn(500, 39)
    found, _ = subject.codes(changes)
    assert_nearest(subject, changes, found)


def test_a_single_code_needs_no_arithmetic() -> None:
    subject = model(codes=1)
    found, levels = subject.codes(torch.randn(FEWEST, 39))
    assert torch.equal(found, torch.zeros(FEWEST, dtype=torch.int64))
    assert levels == (0, 0, 0)


def test_a_code_depends_on_its_row_alone() -> None:
    subject = model(width=128)
    changes = torch.randn(3 * FEWEST, 39)
    order = torch.randperm(len(changes))
    whole, _ = subject.codes(changes)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            again, _ = subject.codes(changes)
            assert torch.equal(again, whole)
    finally:
        torch.set_num_threads(before)
    shuffled, _ = subject.codes(changes[order])
    assert torch.equal(shuffled, whole[order])
    assert torch.equal(torch.cat([subject.codes(part)[0] for part in changes.split(7001)]), whole)


@pytest.mark.parametrize("rows", [50, FEWEST])
def test_the_lowest_of_equal_codes_wins_and_nan_codes_are_never_chosen(rows: int) -> None:
    subject = model(codes=9)
    subject.codebook[7] = subject.codebook[2]
    subject.codebook[8] = subject.codebook[2]
    found, _ = subject.codes(torch.randn(rows, 39))
    assert (found == 2).any()
    assert (found < 7).all()
    subject.codebook[2, 5] = torch.nan
    found, _ = subject.codes(torch.randn(rows, 39))
    assert (found == 7).any()
    assert ((found != 2) & (found != 8)).all()


@pytest.mark.parametrize("rows", [50, FEWEST])
def test_rows_and_weights_that_are_not_finite_harm_nobody_else(rows: int) -> None:
    subject = model()
    changes = torch.randn(rows, 39)
    expected, _ = subject.codes(changes)
    bad = changes.clone()
    bad[3, 7], bad[10, 0], bad[11] = torch.nan, torch.inf, 3e38
    found, _ = subject.codes(bad)
    assert found[3] == found[10] == 0
    good = torch.ones(rows, dtype=torch.bool)
    good[[3, 10, 11]] = False  # the last is finite, but its variance overflows in float32
    assert torch.equal(found[good], expected[good])
    assert torch.equal(found, subject.float32(bad))
    with torch.no_grad():
        subject.encoder.linears[1].bias[4] = torch.nan
    assert (subject.codes(changes)[0] == 0).all()


def test_more_codes_than_integers_serve_are_found_in_float32() -> None:
    subject = model(width=32, embedding=8, codes=300)
    changes = torch.randn(FEWEST, 39)
    found, levels = subject.codes(changes)
    assert levels == (0, 0, FEWEST)
    assert_nearest(subject, changes, found)


def test_what_it_is_fastest_for() -> None:
    rows = torch.zeros(2, 3)
    assert encodes_natively(rows) == (_core.instruction_set() != "baseline")
    assert not encodes_natively(rows.double())
    assert not encodes_natively(rows.to("meta"))


@pytest.mark.parametrize("count", [100, FEWEST])
def test_normalised_rows_are_those_that_torch_normalises(count: int) -> None:
    subject = model()
    rows = 5 * torch.randn(count + 10, 39) + 2
    mean, std = rows.mean(0), rows.std(0)
    start, end = torch.arange(count), torch.arange(count) + 10
    codes, _ = subject.native().codes(rows, mean=mean, std=std, from_row=start, to_row=end)
    expected, _ = subject.codes((rows - mean) / std, start, end)
    np.testing.assert_array_equal(codes, expected)
    plain, _ = subject.native().codes(rows, mean=mean, std=std)
    np.testing.assert_array_equal(plain, subject.codes((rows - mean) / std)[0])


def test_networks_of_other_shapes_are_refused_by_name() -> None:
    subject = model(inputs=5, width=8, embedding=4, codes=3)
    linears, norm, codebook = subject.encoder.linears, subject.encoder.norm, subject.codebook
    first, second = linears[:2]
    for call, message in (
        (lambda: NativeEncoder([first], norm, codebook), "linears .*two.*1"),
        (lambda: NativeEncoder([nn.Linear(5, 7), second], norm, codebook), r"linears\[1\] .*7 inputs"),
        (lambda: NativeEncoder([first, second], norm, codebook), r"codebook .*\[codes, 8\].*\[3, 4\]"),
        (lambda: NativeEncoder([first, nn.Linear(8, 4, False)], norm, codebook), r"linears\[1\] .*bias"),
        (lambda: NativeEncoder([nn.Linear(5, 8).double(), second], norm, codebook), r"linears\[0\].weight .*64"),
        (lambda: NativeEncoder(linears, nn.LayerNorm(7), codebook), "norm .*8 values"),
        (lambda: NativeEncoder(linears, nn.LayerNorm(8, elementwise_affine=False), codebook), "norm"),
        (lambda: NativeEncoder(linears, norm, codebook[:0]), r"codebook .*\[codes, 4\].*\[0, 4\]"),
        (lambda: NativeEncoder(linears, norm, codebook.double()), "codebook .*float32.*float64"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            call()


def test_wrong_rows_are_refused_by_name() -> None:
    codes = model(inputs=5, width=8, embedding=4, codes=3).native().codes
    rows, some = torch.zeros(6, 5), torch.arange(4)
    for call, message in (
        (lambda: codes(rows.double()), "rows .*float32.*float64"),
        (lambda: codes(torch.zeros(5, 6).T), "rows .*contiguous"),
        (lambda: codes(rows[0]), r"rows .*\[R, 5\].*\[5\]"),
        (lambda: codes(rows[:, :4].contiguous()), r"rows .*\[R, 5\].*\[6, 4\]"),
        (lambda: codes(rows, from_row=some), r"both .*\[N\].*\[4\] and None"),
        (lambda: codes(rows, mean=rows[0]), r"mean and std .*\[5\] and None"),
        (
            lambda: codes(rows, mean=rows[0, :4], std=rows[0, :4]),
            r"mean and std must both have shape \[5\], got \[4\] and \[4\]",
        ),
        (lambda: codes(rows, from_row=some.int(), to_row=some), "from_row .*int64.*int32"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            call()
    for wrong in (-1, 6):
        bad = torch.tensor([0, 1, wrong, 2])
        for name, start, end in (("from_row", bad, some), ("to_row", some, bad)):
            with pytest.raises(
                IndexError, match=f"{name} must name rows from 0 to below 6, got {wrong} at 2"
            ):
                codes(rows, from_row=start, to_row=end)


def test_inputs_stay_as_they_were() -> None:
    subject = model()
    rows = torch.randn(FEWEST, 39)
    before = [tensor.clone() for tensor in (rows, subject.codebook, *subject.encoder.parameters())]
    subject.codes(rows)
    for tensor, old in zip((rows, subject.codebook, *subject.encoder.parameters()), before, strict=True):
        np.testing.assert_array_equal(tensor.detach().numpy(), old.detach().numpy())


@torch.no_grad()
def test_codes_are_of_the_networks_as_they_were() -> None:
    subject = model()
    rows = torch.randn(FEWEST, 39)
    native = subject.native()
    before, _ = native.codes(rows)
    for tensor in (subject.codebook, *subject.encoder.parameters()):
        tensor.mul_(-2)
    assert torch.equal(native.codes(rows)[0], before)
    assert not torch.equal(subject.codes(rows)[0], before)
