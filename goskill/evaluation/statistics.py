"""Means, intervals and paired differences of evaluation numbers, all in float64.

Which interval is which: a mean gets Student's t over its episodes, a success rate Wilson's score interval,
and several seeds get percentile intervals of a bootstrap that resamples within each task (Agarwal et al.,
2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from goskill.errors import InputError

Float64Array = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """Lower and upper end of a confidence interval."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A number and its interval; the interval is None where the sample is too small to have one."""

    value: float
    interval: Interval | None


def mean(values: npt.ArrayLike, confidence: float = 0.95) -> Estimate:
    """The mean of ``values`` [n] with Student's t interval, which needs two values."""
    return stratified_mean([_sample("values", values)], confidence)


def success_rate(successes: int, trials: int, confidence: float = 0.95) -> Estimate:
    """The share of successes with Wilson's score interval."""
    if not 0 <= successes <= trials or trials == 0:
        raise InputError(
            f"successes: expected between 0 and trials={trials} of at least one, got {successes}"
        )
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Estimate(successes / trials, Interval(float(interval.low), float(interval.high)))


def stratified_mean(strata: Sequence[npt.ArrayLike], confidence: float = 0.95) -> Estimate:
    """The mean over strata (tasks) of their means (over episodes), every stratum weighing the same.

    The interval is Student's t with Welch-Satterthwaite degrees of freedom: the tasks are taken as given, the
    episodes as drawn. It is None when a stratum has a single value.
    """
    if not len(strata):
        raise InputError("strata: expected at least one, got none")
    samples = [_sample("strata", stratum) for stratum in strata]
    return _weighted_mean(samples, [1 / len(samples)] * len(samples), confidence)


def difference(
    first: Sequence[npt.ArrayLike], second: Sequence[npt.ArrayLike], confidence: float = 0.95
) -> Estimate:
    """How much larger the stratified mean of ``second`` is than that of ``first``, drawn independently."""
    if not len(first) or not len(second):
        raise InputError("first, second: expected at least one stratum each, got none")
    before = [_sample("first", stratum) for stratum in first]
    after = [_sample("second", stratum) for stratum in second]
    weights = [-1 / len(before)] * len(before) + [1 / len(after)] * len(after)
    return _weighted_mean(before + after, weights, confidence)


def paired_difference(
    first: Sequence[npt.ArrayLike], second: Sequence[npt.ArrayLike], confidence: float = 0.95
) -> Estimate:
    """The stratified mean of ``second - first``, value by value: same tasks, same episodes."""
    if len(first) != len(second):
        raise InputError(f"second: expected {len(first)} strata as in first, got {len(second)}")
    differences = []
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        x, y = _sample("first", a), _sample("second", b)
        if x.shape != y.shape:
            raise InputError(f"second[{index}]: expected {x.size} values as in first, got {y.size}")
        differences.append(y - x)
    return stratified_mean(differences, confidence)


def interquartile_mean(values: npt.ArrayLike) -> float:
    """The mean of the middle half of all ``values``, whatever their shape."""
    return float(stats.trim_mean(_sample("values", values), 0.25))


def bootstrap(
    scores: npt.ArrayLike,
    statistic: Callable[[Float64Array], float] = interquartile_mean,
    *,
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> Estimate:
    """``statistic`` of ``scores`` [runs, tasks] with a stratified bootstrap interval over runs.

    Each resample draws runs with replacement for every task by itself; the interval holds the middle
    ``confidence`` of the resampled statistics. It is None with a single run.
    """
    table = _table("scores", scores)
    value = float(statistic(table))
    if len(table) < 2:
        return Estimate(value, None)
    drawn = _resampled(table, resamples, np.random.default_rng(seed))
    if statistic is interquartile_mean:
        replicates = stats.trim_mean(drawn.reshape(resamples, -1), 0.25, axis=1)
    else:
        replicates = np.array([statistic(replicate) for replicate in drawn])
    return Estimate(value, _middle(replicates, confidence))


def probability_of_improvement(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> Estimate:
    """How likely a run of ``second`` beats one of ``first`` on a task: the mean over tasks; ties count half.

    ``first`` [runs, tasks] and ``second`` [other runs, tasks] are on the same tasks. The interval is a bootstrap
    that resamples the runs of both within each task; it is None where one of them has a single run.
    """
    before, after = _table("first", first), _table("second", second)
    if before.shape[1] != after.shape[1]:
        raise InputError(f"second: expected {before.shape[1]} tasks as in first, got {after.shape[1]}")
    value = float(_improvement(before[None], after[None])[0])
    if min(len(before), len(after)) < 2:
        return Estimate(value, None)
    random = np.random.default_rng(seed)
    replicates = _improvement(_resampled(before, resamples, random), _resampled(after, resamples, random))
    return Estimate(value, _middle(replicates, confidence))


def _improvement(first: Float64Array, second: Float64Array) -> Float64Array:
    """[R, runs, tasks] beside [R, other runs, tasks] -> [R]: Mann-Whitney's statistic, averaged over tasks."""
    gain = np.sign(second[:, :, None] - first[:, None])
    return np.asarray(0.5 + 0.5 * gain.mean((1, 2, 3)))


def _resampled(table: Float64Array, resamples: int, random: np.random.Generator) -> Float64Array:
    """Runs of ``table`` [runs, tasks] drawn with replacement for every task by itself: [resamples, runs, tasks]."""
    runs, tasks = table.shape
    drawn: Float64Array = table[random.integers(runs, size=(resamples, runs, tasks)), np.arange(tasks)]
    return drawn


def _middle(replicates: Float64Array, confidence: float) -> Interval:
    low, high = np.quantile(replicates, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(low), float(high))


def _table(name: str, scores: npt.ArrayLike) -> Float64Array:
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise InputError(f"{name}: expected finite numbers [runs, tasks], got shape {table.shape}")
    return table


def _weighted_mean(samples: Sequence[Float64Array], weights: Sequence[float], confidence: float) -> Estimate:
    """The weighted sum of the samples' means, with Welch-Satterthwaite's interval."""
    value = float(sum(weight * sample.mean() for weight, sample in zip(weights, samples, strict=True)))
    if min(sample.size for sample in samples) < 2:
        return Estimate(value, None)
    terms = [w**2 * float(s.var(ddof=1)) / s.size for w, s in zip(weights, samples, strict=True)]
    variance = sum(terms)
    if variance == 0.0:
        return Estimate(value, Interval(value, value))
    freedom = variance**2 / sum(t**2 / (s.size - 1) for t, s in zip(terms, samples, strict=True))
    half = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * variance**0.5
    return Estimate(value, Interval(value - half, value + half))


def _sample(name: str, values: npt.ArrayLike) -> Float64Array:
    sample = np.asarray(values, dtype=np.float64).reshape(-1)
    if sample.size == 0:
        raise InputError(f"{name}: expected at least one value, got none")
    if not np.isfinite(sample).all():
        raise InputError(f"{name}: expected finite numbers, got {sample[~np.isfinite(sample)][0]}")
    return sample
