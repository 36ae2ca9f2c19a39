"""The table of a study: what it says, and where it is put."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from goskill.errors import InputError
from goskill.studies.study import parse_study
from goskill.studies.table import groups, markdown, write_between_markers

STUDY = """
reference = "a"
baseline = "b"
[data.near]
store = "x"
[[contenders]]
method = "a"
[[contenders]]
method = "b"
"""
RETURNS = {"a": [[300.0, 20.0], [500.0, 40.0]], "b": [[400.0, 10.0], [200.0, 30.0]]}


def some_rows() -> list[dict]:
    return [
        {
            "contender": name,
            "data": "near",
            "seed": seed,
            "budget": "iterations",
            "task": task,
            "iterations": 50,
            "finetuned": False,
            "scripted": True,
            "commit": "c",
            "versions": {"goskill": "1"},
            "return_mean": RETURNS[name][seed][place],
            "success": seed / 2,
            "episodes": 4,
        }
        for name in RETURNS
        for seed in (0, 1)
        for place, task in enumerate(("reach", "push"))
    ]


def test_numbers_are_those_of_the_rows_in_whatever_order_they_came() -> None:
    study = parse_study(STUDY, "s")
    (group,) = groups(study, some_rows()[::-1])
    line = group.lines[0]
    assert (line.contender, line.seeds, line.iterations, group.tasks, group.episodes) == ("a", 2, 50, 2, 4)
    assert line.returns.value == np.mean(RETURNS["a"])
    assert line.interquartile.value == stats.trim_mean(np.ravel(RETURNS["a"]), 0.25)
    assert line.success.value == 0.25
    # reach: 300 and 500 against 400 and 200 win three of four; push: 20 and 40 against 10 and 30 as well.
    assert line.improvement is not None
    assert line.improvement.value == 0.75
    assert group.lines[1].improvement is None


def test_a_run_that_lacks_a_task_is_named() -> None:
    with pytest.raises(InputError, match="rows of a: a task is missing in a run"):
        groups(parse_study(STUDY, "s"), some_rows()[1:])


def test_markdown_goes_between_its_markers_and_nothing_else_changes(tmp_path: Path) -> None:
    study = parse_study(STUDY, "s")
    text = markdown(study, groups(study, some_rows()))
    assert "| a | 2 | 50 | 215 [" in text
    assert "**near data (scripted), equal iterations**" in text
    file = tmp_path / "README.md"
    file.write_text("before\n<!-- study s -->\nold\n<!-- end of study s -->\nafter\n")
    for _ in range(2):
        write_between_markers(file, "s", text)
        assert file.read_text() == f"before\n<!-- study s -->\n\n{text}\n<!-- end of study s -->\nafter\n"
    with pytest.raises(InputError, match="expected one line '<!-- study other -->'"):
        write_between_markers(file, "other", text)
