"""Statistics against independent formulas, published values and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from goskill.errors import InputError
from goskill.evaluation import statistics


def test_student_interval_matches_a_published_table() -> None:
    # t(0.975, 9) = 2.262 in any printed table.
    values = np.arange(10.0)
    half = 2.26215716 * np.std(values, ddof=1) / np.sqrt(10)
    estimate = statistics.mean(values)
    assert estimate.value == 4.5
    np.testing.assert_allclose(estimate.interval, (4.5 - half, 4.5 + half), rtol=1e-8)


def test_student_interval_matches_scipy() -> None:
    values = np.random.default_rng(0).normal(3000, 500, 50)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    np.testing.assert_allclose(statistics.mean(values, 0.9).interval, expected, rtol=1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (49, 50), (1, 1)])
def test_wilson_interval_solves_its_equation(successes: int, trials: int) -> None:
    """Wilson's ends are where the observed rate is z standard errors *of the end* away."""
    z = 1.959963984540054
    estimate = statistics.success_rate(successes, trials)
    for end in estimate.interval:
        distance = (estimate.value - end) ** 2
        assert distance == pytest.approx(z**2 * end * (1 - end) / trials, rel=1e-9, abs=1e-12)


def test_stratified_mean_weighs_tasks_equally_and_matches_welch() -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(0, 1, 7), random.normal(5, 3, 30)
    estimate = statistics.stratified_mean([a, b])
    assert estimate.value == pytest.approx((a.mean() + b.mean()) / 2)
    # (mean(b) - mean(-a)) / 2 is half of Welch's difference of two independent samples.
    welch = stats.ttest_ind(b, -a, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose(estimate.interval, (welch.low / 2, welch.high / 2), rtol=1e-12)


def test_independent_difference_matches_welch() -> None:
    random = np.random.default_rng(2)
    a, b = random.normal(0, 1, 9), random.normal(1, 3, 20)
    expected = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose(statistics.difference([a], [b]).interval, expected, rtol=1e-12)


def test_paired_difference_matches_the_paired_test() -> None:
    random = np.random.default_rng(3)
    a = random.normal(0, 100, 25)
    b = a + random.normal(1, 0.1, 25)
    expected = stats.ttest_rel(b, a).confidence_interval(0.95)
    estimate = statistics.paired_difference([a], [b])
    np.testing.assert_allclose(estimate.interval, expected, rtol=1e-9)
    unpaired = statistics.difference([a], [b])
    assert unpaired.interval.low < 0 < estimate.interval.low


@pytest.mark.parametrize("shape", [(4,), (8,), (5, 8), (3, 4)])
def test_interquartile_mean_is_the_mean_of_the_middle_half(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(4).normal(size=shape)
    ordered = sorted(values.ravel().tolist())
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    assert statistics.interquartile_mean(values) == pytest.approx(sum(middle) / len(middle))


def test_bootstrap_is_the_distribution_over_all_resamples() -> None:
    """With 2 runs and 3 tasks there are only 4**3 equally likely resamples: count them all."""
    scores = np.array([[0.0, 10.0, 100.0], [1.0, 14.0, 164.0]])
    means = [
        np.mean([[scores[i, task] for i in rows] for task, rows in enumerate(chosen)])
        for chosen in itertools.product(itertools.product([0, 1], repeat=2), repeat=3)
    ]
    estimate = statistics.bootstrap(scores, lambda table: float(table.mean()), confidence=0.9, resamples=4000)
    assert estimate.value == pytest.approx(scores.mean())
    low, high = np.quantile(means, [0.05, 0.95])
    assert estimate.interval.low == pytest.approx(low, abs=0.7)
    assert estimate.interval.high == pytest.approx(high, abs=0.7)


def test_bootstrap_covers_the_truth_about_as_often_as_promised() -> None:
    random = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        scores = random.normal(np.arange(10.0) * 5, 1.0, size=(8, 10))
        low, high = statistics.bootstrap(
            scores, lambda table: float(table.mean()), resamples=200, seed=trial
        ).interval
        covered += low <= 22.5 <= high
    # The percentile bootstrap of 8 runs is a little too narrow; 0.85 is 4 standard errors below its 0.93.
    assert covered / 200 > 0.85


def test_bootstrap_is_a_function_of_its_seed() -> None:
    scores = np.random.default_rng(6).normal(size=(5, 4))
    assert statistics.bootstrap(scores, resamples=50) == statistics.bootstrap(scores, resamples=50)
    assert statistics.bootstrap(scores, resamples=50) != statistics.bootstrap(scores, resamples=50, seed=1)


def test_improvement_counts_pairs_of_runs_on_each_task() -> None:
    random = np.random.default_rng(7)
    first, second = random.integers(0, 4, (3, 5)), random.integers(0, 4, (4, 5))
    pairs = [
        1.0 if second[j, task] > first[i, task] else 0.5 if second[j, task] == first[i, task] else 0.0
        for task in range(5)
        for i in range(3)
        for j in range(4)
    ]
    estimate = statistics.probability_of_improvement(first, second)
    assert estimate.value == pytest.approx(np.mean(pairs))
    opposite = statistics.probability_of_improvement(second, first)
    assert estimate.value + opposite.value == pytest.approx(1.0)
    assert statistics.probability_of_improvement(first, first + 10) == (1.0, (1.0, 1.0))


def test_intervals_of_improvement_and_interquartile_mean_are_those_of_a_plain_loop() -> None:
    random = np.random.default_rng(8)
    first, second = random.normal(size=(4, 6)), random.normal(0.4, 1.0, (3, 6))

    def resample(table):
        rows = [[table[random.integers(len(table)), task] for task in range(6)] for _ in table]
        return np.array(rows)

    def improvement(a, b):
        return np.mean([np.mean(b[:, None, t] > a[None, :, t]) for t in range(6)])

    def middle_half(table):
        values = np.sort(table, axis=None)
        return values[len(values) // 4 : len(values) - len(values) // 4].mean()

    plain = [improvement(resample(first), resample(second)) for _ in range(3000)]
    interval = statistics.probability_of_improvement(first, second, resamples=20_000).interval
    np.testing.assert_allclose(interval, np.quantile(plain, [0.025, 0.975]), atol=0.02)
    plain = [middle_half(resample(first)) for _ in range(3000)]
    interval = statistics.bootstrap(first, resamples=20_000).interval
    np.testing.assert_allclose(interval, np.quantile(plain, [0.025, 0.975]), atol=0.04)


def test_too_small_a_sample_has_no_interval() -> None:
    assert statistics.probability_of_improvement([[1.0, 2.0]], [[2.0, 1.0]]) == (0.5, None)
    assert statistics.mean([3.0]) == (3.0, None)
    assert statistics.stratified_mean([[1.0, 2.0], [3.0]]) == (2.25, None)
    assert statistics.bootstrap([[1.0, 2.0]]).interval is None
    assert statistics.mean([2.0, 2.0]) == (2.0, (2.0, 2.0))


@pytest.mark.parametrize(
    "call",
    [
        lambda: statistics.mean([]),
        lambda: statistics.mean([1.0, np.nan]),
        lambda: statistics.success_rate(1, 0),
        lambda: statistics.success_rate(3, 2),
        lambda: statistics.stratified_mean([]),
        lambda: statistics.difference([], [[1.0]]),
        lambda: statistics.paired_difference([[1.0]], [[1.0, 2.0]]),
        lambda: statistics.paired_difference([[1.0]], []),
        lambda: statistics.bootstrap([1.0, 2.0]),
        lambda: statistics.bootstrap([[1.0, np.inf]]),
        lambda: statistics.probability_of_improvement([[1.0]], [[1.0, 2.0]]),
    ],
)
def test_what_has_no_answer_is_refused(call) -> None:
    with pytest.raises(InputError):
        call()
