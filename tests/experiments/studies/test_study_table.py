"""The table of a study: what it says, and where it is put."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from goskill.errors import InputError
from goskill.evaluation.study import parse_study
from goskill.evaluation.study_table import distinctions, groups, left_out, markdown, write_between_markers

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
            "fingerprint": "f",
            "settings": "s",
            "schedule": {"iterations": 50},
            "seconds": {"cpu": 1.0, "wall": 1.0},
            "machine": {},
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


def changed(rows: list[dict], **changes: object) -> list[dict]:
    return [{**row, **changes} for row in rows]


def test_a_run_that_lacks_a_task_is_left_out_with_a_notice() -> None:
    study = parse_study(STUDY, "s")
    (group,) = groups(study, some_rows()[1:])
    assert [(line.contender, line.seeds) for line in group.lines] == [("a", 1), ("b", 2)]
    assert group.lines[0].returns.value == 270.0
    notice = "a on near, seed 0: left out, it has 1 of 2 tasks"
    assert left_out(study, some_rows()[1:]) == (notice,)
    assert left_out(study, some_rows()) == ()
    assert notice in markdown(study, [group], [notice])


def test_rows_of_other_data_or_versions_are_never_averaged_together() -> None:
    study = parse_study(STUDY, "s")
    rows = some_rows()
    other = changed([row for row in rows if row["seed"] == 1], seed=2, return_mean=0.0)
    for change in ({"fingerprint": "g"}, {"versions": {"goskill": "2"}}):
        found = groups(study, rows + changed(other, **change))
        assert [group.lines[0].returns.value for group in found] == [215.0, 0.0]
    assert distinctions(groups(study, rows + changed(other, fingerprint="g"))) == [
        " (fingerprint f)",
        " (fingerprint g)",
    ]
    found = groups(study, rows + changed(other, versions={"goskill": "2"}))
    assert distinctions(found) == [" (goskill 1)", " (goskill 2)"]
    assert "equal iterations (goskill 2)**" in markdown(study, found)
    assert distinctions(groups(study, rows)) == [""]


@pytest.mark.parametrize("change", [{"settings": "t"}, {"schedule": {"iterations": 51}}])
def test_rows_of_other_settings_of_a_contender_are_refused(change) -> None:
    mixed = [{**row, **change} if (row["contender"], row["seed"]) == ("a", 1) else row for row in some_rows()]
    with pytest.raises(InputError, match=r"s: rows of a on near were made with different settings.*seed 1"):
        groups(parse_study(STUDY, "s"), mixed)
    # Another contender may well have other settings.
    whole = [{**row, **change} if row["contender"] == "a" else row for row in some_rows()]
    assert len(groups(parse_study(STUDY, "s"), whole)) == 1


def test_the_last_evaluation_of_fine_tuning_is_told_for_each_version() -> None:
    before = changed(some_rows(), finetuned=True, iterations=30)
    after = changed(some_rows(), finetuned=True, iterations=20, versions={"goskill": "2"})
    found = groups(parse_study(STUDY, "s"), before + after + changed(before, iterations=10))
    assert [(group.versions[0], group.lines[0].iterations) for group in found] == [("1", 30), ("2", 20)]


def test_the_caption_says_over_how_few_runs_intervals_are_and_what_made_them() -> None:
    study = parse_study(STUDY, "s")
    (group,) = groups(study, changed(some_rows(), commit=None))
    text = markdown(study, [group])
    assert "(stratified bootstrap over 2 runs; with so few they are too narrow)" in text
    assert text.rstrip().endswith("goskill 1 as installed.")
    assert "commit c." in markdown(study, groups(study, some_rows()))
    (group,) = groups(study, [row for row in some_rows() if (row["contender"], row["seed"]) != ("a", 1)])
    assert "over 2 runs" in markdown(study, [group])
    many = [{**row, "seed": seed} for seed in range(12) for row in some_rows() if row["seed"] == 0]
    assert "(stratified bootstrap over 12 runs)." in markdown(study, groups(study, many))
    alone = [row for row in some_rows() if row["seed"] == 0]
    assert "Brackets" not in markdown(study, groups(study, alone))


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


def test_success_at_the_last_step_is_told_where_a_study_asks_for_it() -> None:
    study = parse_study(f"last_step = true\n{STUDY}", "s")
    (group,) = groups(study, changed(some_rows(), success_last=0.125))
    (line,) = [line for line in markdown(study, [group]).splitlines() if line.startswith("| b |")]
    head = next(line for line in markdown(study, [group]).splitlines() if line.startswith("|  |"))
    places = [cell.strip() for cell in head.split("|")]
    cells = dict(zip(places, (cell.strip() for cell in line.split("|")), strict=True))
    assert cells["success at the last step"].startswith("12%")
    assert cells["success"].startswith("25%")
    assert "at the last step" not in markdown(parse_study(STUDY, "s"), [group])
