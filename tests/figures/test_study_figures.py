"""Figures and tables of studies say what the rows say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

from goskill.errors import InputError
from goskill.evaluation.rows import read_rows
from goskill.evaluation.skills import DataSkills
from goskill.evaluation.study import parse_study
from goskill.figures import draw_studies, draw_study, is_study
from goskill.figures.studies import draw_fine_tuning, draw_returns, draw_skills, draw_sweeps

STUDY = """
baseline = "prompt_dt"
seeds = [0, 1, 2]
[data.near]
suite = "mt10"
[data.sub]
suite = "mt10"
quality = "sub-optimal"
[[contenders]]
method = "go_skill"
[[contenders]]
method = "prompt_dt"
budgets = ["iterations", "seconds"]
[[contenders]]
method = "go_skill"
ablations = ["no-vq"]
[[contenders]]
method = "go_skill"
ablations = ["no-focal"]
[[sweeps]]
setting = "horizon"
default = 10
values = [5, 20]
"""
TASKS = ("reach", "push", "door-open")


def some_rows(study: str = STUDY, finetuned: bool = False, torch: str = "2") -> list[dict]:
    random = np.random.default_rng(0)
    parsed = parse_study(study, "s")
    rows = []
    for place, one in enumerate(parsed.contenders):
        for data in parsed.data:
            for budget in one.budgets:
                for seed in parsed.seeds:
                    for at in (0, 500, 1000) if finetuned else (2000,):
                        for task in TASKS:
                            value = 2000 + 300 * place + at + float(random.normal(0, 150))
                            rows.append(
                                {
                                    "contender": one.name,
                                    "method": one.method,
                                    "ablations": list(one.ablations),
                                    "sweep": dict(one.sweep),
                                    "data": data,
                                    "scripted": True,
                                    "fingerprint": "f",
                                    "seed": seed,
                                    "budget": budget,
                                    "settings": "s",
                                    "schedule": {"iterations": 2000},
                                    "iterations": at,
                                    "finetuned": finetuned,
                                    "seconds": {"cpu": 1.0, "wall": 1.0},
                                    "versions": {"torch": torch},
                                    "machine": {},
                                    "commit": "c",
                                    "task": task,
                                    "return_mean": value,
                                    "success": min(1.0, value / 5000),
                                    "success_last": 0.5,
                                    "episodes": 10,
                                }
                            )
    return rows


def write(folder: Path, rows: list[dict], study: str = STUDY) -> Path:
    folder.mkdir()
    (folder / "study.toml").write_text(study)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def cells(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_study_gives_every_figure_and_table_that_its_rows_allow(tmp_path) -> None:
    folder = write(tmp_path / "s", some_rows())
    assert is_study(folder)
    written = {path.name for path in draw_study(folder)}
    assert written == {
        *("returns.png", "returns.svg", "sweeps.png", "sweeps.svg"),
        *("skill_model.md", "skill_imbalance.md", "tasks.md"),
    }
    assert all((folder / "figures" / name).stat().st_size > 0 for name in written)


def test_ablation_and_task_tables_hold_means_and_deviations_over_runs(tmp_path) -> None:
    rows = some_rows()
    folder = write(tmp_path / "s", rows)
    draw_study(folder)

    def expected(contender: str, data: str, tasks=TASKS) -> str:
        runs = [
            np.mean(
                [
                    row["return_mean"]
                    for row in rows
                    if (row["contender"], row["data"], row["seed"]) == (contender, data, seed)
                    and row["task"] in tasks
                ]
            )
            for seed in (0, 1, 2)
        ]
        return f"{np.mean(runs):.0f} ± {np.std(runs, ddof=1):.0f}"

    table = cells((folder / "figures" / "skill_model.md").read_text())
    assert table[0] == ["reached goal", "VQ", "action encoder", "near", "sub"]
    assert table[2] == ["yes", "yes", "no", expected("go_skill", "near"), expected("go_skill", "sub")]
    assert table[3][:3] == ["yes", "no", "no"]
    assert table[3][3] == expected("go_skill-no-vq", "near")
    table = cells((folder / "figures" / "tasks.md").read_text())
    assert [line[0] for line in table[2:]] == sorted(TASKS)
    assert table[2] == [
        "door-open",
        expected("go_skill", "near", ("door-open",)),
        expected("go_skill", "sub", ("door-open",)),
    ]


def test_returns_have_a_mark_per_contender_and_run(tmp_path) -> None:
    rows = some_rows()
    figure = draw_returns(parse_study(STUDY, "s"), rows)
    titles = [axis.get_title(loc="left") for axis in figure.axes[::2]]
    assert titles == [
        "near (scripted), equal iterations",
        "near (scripted), equal seconds",
        "sub (scripted), equal iterations",
        "sub (scripted), equal seconds",
    ]
    left = figure.axes[0]
    assert [text.get_text() for text in left.get_yticklabels()][:2] == ["go_skill", "prompt_dt"]
    runs, mean = left.collections[0].get_offsets(), left.collections[1].get_offsets()
    mine = [row["return_mean"] for row in rows if row["contender"] == "go_skill" and row["data"] == "near"]
    assert len(runs) == 3
    np.testing.assert_allclose(mean[0][0], np.mean(mine))
    np.testing.assert_allclose(np.mean(runs[:, 0]), np.mean(mine))


def test_sweeps_hold_the_reference_and_every_value(tmp_path) -> None:
    rows = some_rows()
    figure = draw_sweeps(parse_study(STUDY, "s"), rows)
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["5", "10", "20"]
    mine = [row["return_mean"] for row in rows if row["contender"] == "go_skill" and row["data"] == "near"]
    np.testing.assert_allclose(axis.lines[0].get_ydata()[1], np.mean(mine))
    assert axis.texts[0].get_text() == "prompt_dt"


def test_fine_tuning_is_drawn_over_its_iterations(tmp_path) -> None:
    rows = some_rows(finetuned=True)
    figure = draw_fine_tuning(parse_study(STUDY, "s"), rows)
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [0, 500, 1000]
    first = [
        row["return_mean"]
        for row in rows
        if (row["contender"], row["data"], row["iterations"]) == ("go_skill", "near", 500)
    ]
    np.testing.assert_allclose(line.get_ydata()[1], np.mean(first))
    folder = write(tmp_path / "s", rows)
    assert {"fine_tuning.png", "fine_tuning.svg"} <= {path.name for path in draw_study(folder)}


def test_rows_of_other_versions_have_panels_of_their_own(tmp_path) -> None:
    rows = some_rows() + [row for row in some_rows(torch="99") if row["contender"] == "prompt_dt"]
    figure = draw_returns(parse_study(STUDY, "s"), rows)
    assert [len(axis.get_yticks()) for axis in figure.axes[::2]] == [6, 1, 1, 1, 6, 1, 1, 1]


def test_what_a_figure_or_table_leaves_out_is_written_on_it(tmp_path) -> None:
    rows = some_rows() + [row for row in some_rows(torch="99") if row["data"] == "near" and not row["seed"]]
    folder = write(tmp_path / "s", rows)
    draw_study(folder)
    text = (folder / "figures" / "tasks.md").read_text()
    assert "torch 2." in text
    assert "left out: 3 rows on near (fingerprint f) by goskill unknown" in text
    assert "torch 99" in text
    sweeps = draw_sweeps(parse_study(STUDY, "s"), rows)
    assert "torch 99" in sweeps.get_suptitle()
    other = [{**row, "fingerprint": "g", "seed": 7} for row in some_rows() if row["seed"] == 0]
    figure = draw_returns(parse_study(STUDY, "s"), some_rows() + other)
    assert figure.axes[2].get_title(loc="left") == "near (scripted), equal iterations (fingerprint g)"
    torn = draw_returns(parse_study(STUDY, "s"), some_rows()[1:])
    assert torn.get_suptitle() == "go_skill on near, seed 0: left out, it has 2 of 3 tasks"


def test_skills_are_drawn_from_rows_or_else_from_the_run_folders(tmp_path) -> None:
    rows = some_rows()
    study = parse_study(STUDY, "s")
    assert draw_skills(study, rows, tmp_path) == {}
    usage = {"reach": [1, 3], "push": [4, 0], "door-open": [2, 2]}
    for row in rows:
        if (row["contender"], row["seed"]) == ("go_skill", 0):
            row["skills"] = {"in_data": usage[row["task"]], "in_evaluation": [1, 1]}
    run = tmp_path / "runs/go_skill-no-vq/sub/seed-0"
    run.mkdir(parents=True)
    DataSkills("column", 3, {task: [1, 0, 1] for task in TASKS}).save(run / "data_skills.json")
    figures = draw_skills(study, rows, tmp_path)
    assert list(figures) == ["skills-go_skill-near", "skills-go_skill-sub", "skills-go_skill-no-vq-sub"]
    figure = figures["skills-go_skill-near"]
    assert figure.get_suptitle() == "go_skill on near, seed 0"
    assert [axis.get_title(loc="left") for axis in figure.axes[:2]] == ["in data", "in evaluation"]
    shares = figure.axes[0].collections[0].get_array()
    np.testing.assert_allclose(shares, [[0.25, 0.75], [1, 0], [0.5, 0.5]])


def test_studies_beside_each_other_lose_no_versions(tmp_path, monkeypatch) -> None:
    drawn = {}
    monkeypatch.setattr(
        "goskill.figures.studies.draw_bars", lambda panels: drawn.update(panels) or plt.figure()
    )
    rows = [row for row in some_rows() if row["data"] == "near" and row["budget"] == "iterations"]
    mixed = rows + [{**row, "versions": {"torch": "99"}} for row in rows if row["contender"] == "prompt_dt"]
    draw_studies([write(tmp_path / "a", mixed), write(tmp_path / "b", rows)], tmp_path)
    assert list(drawn) == [
        "a: near (scripted), equal iterations (torch 2)",
        "a: near (scripted), equal iterations (torch 99)",
        "b: near (scripted), equal iterations (torch 2)",
    ]
    assert len(drawn["a: near (scripted), equal iterations (torch 2)"]) == 6


def test_several_studies_stand_side_by_side(tmp_path) -> None:
    folders = [write(tmp_path / name, some_rows()) for name in ("a", "b")]
    assert [path.name for path in draw_studies(folders, tmp_path)] == ["set_ups.png", "set_ups.svg"]


@pytest.mark.parametrize(("name", "content"), [("study.toml", None), ("rows.jsonl", "")])
def test_a_folder_without_study_or_rows_is_refused(tmp_path, name, content) -> None:
    folder = write(tmp_path / "s", some_rows())
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(InputError, match=name):
        draw_study(folder)


def test_rows_are_read_as_they_were_written(tmp_path) -> None:
    rows = some_rows()
    assert read_rows(write(tmp_path / "s", rows) / "rows.jsonl") == rows
