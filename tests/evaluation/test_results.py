"""Results in files: DESIGN's layout, exact round trips, nothing believed."""

from __future__ import annotations

import contextlib
import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from goskill.errors import InputError
from goskill.evaluation import DataReturns, Results, data_returns, merge, results_table
from goskill.evaluation.results import Protocol, Skills, TaskEpisodes


def episodes_of(returns, success_step=None, seed=None) -> TaskEpisodes:
    count = len(returns)
    steps = np.full(count, -1) if success_step is None else np.asarray(success_step)
    return TaskEpisodes(
        np.arange(count) if seed is None else np.asarray(seed),
        np.asarray(returns, np.float64),
        steps,
        steps > 0,
        np.full(count, 500),
    )


def some_results(**changes) -> Results:
    values = {
        "policy": "go_skill",
        "protocol": Protocol(episodes=3, max_steps=500, seed=7, batch=250),
        "episodes": {
            "reach": episodes_of([1.0, 2.0, 6.0], [4, -1, 9]),
            "push": episodes_of([0.1, 1 / 3, -5e3]),
        },
        "skills": Skills(
            4, 10, {"reach": [1, 0, 2, 0], "push": [3, 0, 0, 0]}, {"reach": [0, 2, 2], "push": [0]}
        ),
        "data": {"reach": DataReturns(1.5, 2.5, 40)},
        "versions": {"numpy": np.__version__},
        **changes,
    }
    return Results(**values)


def test_the_file_has_the_agreed_layout(tmp_path) -> None:
    document = json.loads(some_results().save(tmp_path / "results.json").read_text())
    reach = document["tasks"]["reach"]
    assert reach["return_mean"] == 3.0
    low, high = reach["return_ci95"]
    assert low < 3.0 < high
    assert reach["success"] == pytest.approx(2 / 3)
    assert reach["episodes"] == 3
    assert set(document["overall"]) == set(reach)
    assert document["overall"]["episodes"] == 6
    assert document["overall"]["success"] == pytest.approx(1 / 3)
    assert document["protocol"]["seed"] == 7
    assert document["episodes"]["push"]["return"] == [0.1, 1 / 3, -5e3]


def test_reading_gives_back_what_was_written(tmp_path) -> None:
    results = some_results()
    again = Results.load(results.save(tmp_path / "results.json"))
    assert (again.policy, again.protocol, again.skills) == (results.policy, results.protocol, results.skills)
    assert (again.data, again.versions) == (results.data, results.versions)
    for task, rows in results.episodes.items():
        for name in ("seed", "returns", "success_step", "success_last", "length"):
            np.testing.assert_array_equal(getattr(again.episodes[task], name), getattr(rows, name))
    assert Results.load(tmp_path).overall == results.overall


def test_csv_has_a_row_per_episode(tmp_path) -> None:
    with some_results().save_csv(tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["task"] for row in rows] == ["reach"] * 3 + ["push"] * 3
    assert [float(row["return"]) for row in rows] == [1.0, 2.0, 6.0, 0.1, 1 / 3, -5e3]
    assert [row["success"] for row in rows] == ["1", "0", "1", "0", "0", "0"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path) -> None:
    path = some_results().save(tmp_path / "results.json")
    before = path.read_bytes()
    broken = some_results(episodes={"reach": episodes_of([1.0, 2.0])}, data={}, versions={"torch": math.nan})
    with pytest.raises(ValueError, match="JSON"):
        broken.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.pop("format"), "format"),
        (lambda d: d.update(version=99), "version"),
        (lambda d: d.pop("policy"), "policy"),
        (lambda d: d.update(protocol=[]), "protocol"),
        (lambda d: d["protocol"].update(episodes="3"), "episodes"),
        (lambda d: d.update(episodes={}), "episodes"),
        (lambda d: d["episodes"]["reach"].update({"return": [1.0, math.nan, 2.0]}), "return"),
        (lambda d: d["episodes"]["reach"].update({"return": [1.0, 10**400, 2.0]}), "return"),
        (lambda d: d["episodes"]["reach"].update(seed=[1]), "reach"),
        (lambda d: d["episodes"]["reach"].update(seed=[2**70] * 3), "seed"),
        (lambda d: d["episodes"]["reach"].update(success_last=[0, 1, 0]), "success_last"),
        (lambda d: d["skills"]["usage"].update(reach=[1]), "reach"),
        (lambda d: d["skills"]["first_episode"].update(reach=[4]), "skills"),
        (lambda d: d["data"]["reach"].pop("best"), "best"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, change, named: str) -> None:
    path = some_results().save(tmp_path / "results.json")
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=named) as caught:
        Results.load(path)
    assert str(path) in str(caught.value)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["policy", "protocol", "episodes", "skills", "data", "versions"]), JSON_VALUES)
@settings(max_examples=60)
def test_any_value_anywhere_is_read_or_refused(tmp_path_factory, name: str, value) -> None:
    path = some_results().save(tmp_path_factory.mktemp("fuzz") / "results.json")
    document = json.loads(path.read_text())
    document[name] = value
    path.write_text(json.dumps(document))
    with contextlib.suppress(InputError):
        Results.load(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1, 2]", b"{", b"[" * 100_000])
def test_bytes_that_are_no_results_are_refused(tmp_path, content: bytes) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"results\.json"):
        Results.load(path)


def test_a_missing_file_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="found nothing"):
        Results.load(tmp_path / "nowhere.json")


def test_parts_of_an_evaluation_make_up_the_whole() -> None:
    whole = some_results()
    parts = [
        some_results(
            episodes={task: whole.episodes[task]},
            skills=Skills(4, 10, {task: whole.skills.usage[task]}, {task: whole.skills.first_episode[task]}),
            data={name: returns for name, returns in whole.data.items() if name == task},
        )
        for task in ("push", "reach")
    ]
    merged = merge(parts, ["reach", "push"])
    assert merged.tasks == whole.tasks
    assert (merged.overall, merged.skills, merged.data) == (whole.overall, whole.skills, whole.data)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    push = some_results(episodes={"push": episodes_of([1.0])}, skills=None, data={})
    reach = some_results(episodes={"reach": episodes_of([1.0])}, skills=None, data={}, policy="other")
    with pytest.raises(InputError, match="other"):
        merge([push, reach], ["push", "reach"])
    with pytest.raises(InputError, match="each of push, reach once"):
        merge([push, push], ["push", "reach"])


def test_data_returns_are_the_stores(tmp_path) -> None:
    class Store:
        tasks = ("a", "b")
        episode_task = np.array([0, 1, 0, 0])
        episode_return = np.array([1.0, 50.0, 3.0, 8.0])

    assert data_returns(Store()) == {"a": DataReturns(4.0, 8.0, 3), "b": DataReturns(50.0, 50.0, 1)}


def test_the_table_shows_returns_intervals_success_and_data() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results_table(some_results()))
    text = console.export_text()
    reach = next(line for line in text.splitlines() if "reach" in line)
    assert all(part in reach for part in ("3 [-3.57, 9.57]", "67%", "1.5", "2.5"))
    assert "all tasks" in text
