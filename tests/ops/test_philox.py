"""The random bits of dropout: known answers, their law, and that they follow from seed and place alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from goskill.ops import philox


def words_in_numpy(seed: int, counter: tuple[int, int, int, int]) -> list[int]:
    """Philox-4x32-7, from its paper, with Python's integers."""
    key = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]
    c = list(counter)
    for _ in range(7):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ key[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ key[1], a & 0xFFFFFFFF]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def test_known_answers() -> None:
    """The vector that the authors' library publishes for a counter and a key of zeros."""
    zero = torch.zeros(1, dtype=torch.int64)
    words = philox._philox(zero, zero, zero, zero, zero)
    assert [int(word) for word in words] == [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]


def test_words_are_those_of_the_paper_for_any_seed_and_counter() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        seed = int(random.integers(-(1 << 63), 1 << 63, dtype=np.int64))
        counter = tuple(int(word) for word in random.integers(0, 1 << 32, 4))
        words = philox._philox(torch.tensor([seed]), *(torch.tensor([word]) for word in counter))
        assert [int(word) for word in words] == words_in_numpy(seed, counter)  # type: ignore[arg-type]


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_elements_are_dropped_independently(probability: float) -> None:
    dropped = philox.dropped_levels(probability)
    stays = philox.kept(torch.tensor([7]), 1001, 333, dropped).float()
    deviation = math.sqrt(probability * (1 - probability) / stays.numel())
    assert abs(stays.mean().item() - (1 - probability)) < 5 * deviation
    for shifted in (stays[:, 1:], stays[1:]):  # neighbours in a row and in a column
        together = (stays[: shifted.shape[0], : shifted.shape[1]] * shifted).mean().item()
        assert abs(together - (1 - probability) ** 2) < 8 * deviation


def test_a_place_has_its_number_whatever_lies_around_it() -> None:
    seed = torch.tensor([-3])
    large = philox.kept(seed, 50, 64, 20_000)
    assert torch.equal(philox.kept(seed, 20, 13, 20_000), large[:20, :13])
    assert not torch.equal(philox.kept(seed + 1, 50, 64, 20_000), large)


def test_dropout_scales_what_stays_and_drops_alike_in_the_gradient() -> None:
    x = torch.randn(6, 5, 9, dtype=torch.float64, requires_grad=True)
    y = philox.dropout(x, torch.tensor([1]), philox.LEVELS // 4)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, y)
    torch.testing.assert_close(x.grad.unique(), torch.tensor([0.0, 4 / 3], dtype=torch.float64))
    assert philox.dropout(x, None, 0) is x


def test_seeds_follow_the_default_generator() -> None:
    torch.manual_seed(2)
    first = philox.draw_seeds(4, torch.device("cpu"))
    torch.manual_seed(2)
    assert torch.equal(philox.draw_seeds(4, torch.device("cpu")), first)
    assert first.unique().numel() == 4
