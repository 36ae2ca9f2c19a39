"""compare(): differences, and what they are paired by."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from goskill.errors import InputError
from goskill.evaluation import Results, compare, comparison_table
from goskill.evaluation.results import Protocol, TaskEpisodes


def results_of(returns: dict[str, list[float]], seed: int = 0) -> Results:
    episodes = {
        task: TaskEpisodes(
            np.arange(len(values)) + seed,
            np.asarray(values, np.float64),
            np.where(np.asarray(values) > 2, 5, -1),
            np.asarray(values) > 2,
            np.full(len(values), 500),
        )
        for task, values in returns.items()
    }
    return Results("p", Protocol(3, 500, seed, 250), episodes)


BASE = {"reach": [1.0, 2.0, 3.0], "push": [10.0, 20.0, 40.0]}
MORE = {"reach": [2.0, 3.5, 4.0], "push": [11.0, 20.0, 43.0]}


def test_same_episodes_are_paired() -> None:
    comparison = compare({"a": results_of(BASE), "b": results_of(MORE)})
    first, second = comparison.contenders
    assert (first.differences, first.paired_by, second.paired_by) == (None, None, "episode")
    expected = stats.ttest_rel(MORE["reach"], BASE["reach"])
    difference = second.differences["reach"].returns
    assert difference.value == pytest.approx(3.5 / 3)
    np.testing.assert_allclose(difference.interval, expected.confidence_interval(0.95))
    assert second.overall_difference.returns.value == pytest.approx((3.5 / 3 + 4 / 3) / 2)
    assert second.overall_difference.success.value == pytest.approx((1 / 3 + 0) / 2)


def test_episodes_of_other_lengths_are_not_compared() -> None:
    shorter = replace(results_of(MORE), protocol=Protocol(3, 100, 0, 250))
    with pytest.raises(InputError, match=r"as many steps, got max_steps \[100, 500\]"):
        compare({"a": results_of(BASE), "b": shorter})


def test_other_episodes_are_independent_samples() -> None:
    second = compare({"a": results_of(BASE), "b": results_of(MORE, seed=9)}).contenders[1]
    expected = stats.ttest_ind(MORE["push"], BASE["push"], equal_var=False).confidence_interval(0.95)
    assert second.paired_by is None
    np.testing.assert_allclose(second.differences["push"].returns.interval, expected)


def test_several_runs_are_paired_run_by_run() -> None:
    def shifted(by: float) -> Results:
        return results_of({task: [value + by for value in values] for task, values in BASE.items()})

    comparison = compare(
        {"a": [shifted(0), shifted(7), shifted(3)], "b": [shifted(1), shifted(8.5), shifted(4)]}
    )
    second = comparison.contenders[1]
    assert second.paired_by == "run"
    np.testing.assert_allclose(
        second.overall_difference.returns.interval,
        stats.ttest_1samp([1.0, 1.5, 1.0], 0).confidence_interval(0.95),
        rtol=1e-9,
    )
    assert second.interquartile_return.interval.low < second.interquartile_return.interval.high


def test_only_common_tasks_are_compared() -> None:
    comparison = compare({"a": results_of(BASE), "b": results_of({"push": [1.0, 2.0]})})
    assert (comparison.tasks, comparison.left_out) == (["push"], ["reach"])


@pytest.mark.parametrize("groups", [{}, {"a": []}])
def test_nothing_to_compare_is_refused(groups) -> None:
    with pytest.raises(InputError, match="groups"):
        compare(groups)


def test_no_common_task_is_refused() -> None:
    with pytest.raises(InputError, match="common"):
        compare({"a": results_of({"reach": [1.0]}), "b": results_of({"push": [1.0]})})


def test_the_comparison_is_json_and_a_table() -> None:
    comparison = compare({"a": results_of(BASE), "b": results_of(MORE)})
    document = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert document["contenders"]["b"]["overall"]["difference"]["return"]["value"] == pytest.approx(1.25)
    assert document["contenders"]["a"]["overall"]["difference"] is None
    with open("/dev/null", "w") as nowhere:
        console = Console(width=160, record=True, file=nowhere)
        console.print(comparison_table(comparison))
    text = console.export_text()
    assert "paired by episode" in text
    lines = text.splitlines()
    assert any(line.split()[:2] == ["b", "13.9"] and " +1.25 [" in line for line in lines)
    assert any(line.split() == ["push", "23.3", "24.7", "(+1.33)"] for line in lines)
    assert any(line.split() == ["reach", "33%", "67%", "(+33%)"] for line in lines)
