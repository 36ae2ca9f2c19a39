"""Figures: what is drawn is what the files say."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.image import imread

from goskill import files
from goskill.errors import InputError
from goskill.evaluation import DataReturns, DataSkills, Results
from goskill.evaluation.colours import skill_colour
from goskill.evaluation.results import Protocol, Skills, TaskEpisodes
from goskill.evaluation.statistics import Estimate
from goskill.figures import draw_bars, draw_comparison, draw_run
from goskill.figures.curves import draw_learning_curves, moving_average, read_metrics
from goskill.figures.returns import draw_returns
from goskill.figures.skill_usage import Strip, draw_skill_strips, draw_skill_usage
from goskill.figures.style import save

TASKS = ("reach", "door-close")


def some_results(skills: bool = True) -> Results:
    episodes = {
        task: TaskEpisodes(
            np.arange(3),
            np.array([1000.0, 2000.0, 4500.0]) + 100 * index,
            np.array([42, -1, 7]),
            np.array([True, False, False]),
            np.full(3, 60),
        )
        for index, task in enumerate(TASKS)
    }
    chosen = Skills(3, 10, {t: [9, 0, 9] for t in TASKS}, {t: [0, 0, 2, 2, 2, 0] for t in TASKS})
    return Results(
        "go_skill",
        Protocol(3, 60, 0, 250),
        episodes,
        skills=chosen if skills else None,
        data={"reach": DataReturns(900.0, 5000.0, 4)},
    )


def write_metrics(path) -> None:
    lines = [
        {"step": step, "phase": "extraction", "skill/loss": 1 / step, "skill/learning_rate": 1e-3}
        for step in range(10, 110, 10)
    ]
    lines += [
        {"step": step, "phase": "policy", "skill/loss": 0.1, "policy/loss": 2.0, "policy/accuracy": 0.5}
        for step in range(110, 210, 10)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run(tmp_path):
    write_metrics(tmp_path / "metrics.jsonl")
    some_results().save(tmp_path / "results.json")
    DataSkills("labels", 3, {task: [5, 5, 90] for task in TASKS}).save(tmp_path / "data_skills.json")
    return tmp_path


def texts(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def test_a_run_folder_gives_every_figure_twice(run) -> None:
    written = draw_run(run)
    assert sorted(path.name for path in written) == sorted(
        f"{name}.{kind}"
        for name in ("learning_curves", "returns", "skill_usage", "skill_strips")
        for kind in ("png", "svg")
    )
    for path in written:
        assert path.parent == run / "figures"
        if path.suffix == ".png":
            image = imread(path)
            assert min(image.shape[:2]) > 200
            assert image[..., :3].std() > 0.02


def test_figures_are_the_same_for_the_same_files(run) -> None:
    first = {path.name: path.read_bytes() for path in draw_run(run)}
    assert first == {path.name: path.read_bytes() for path in draw_run(run)}


def test_only_what_the_files_allow_is_drawn(tmp_path) -> None:
    with pytest.raises(InputError, match="neither"):
        draw_run(tmp_path)
    some_results(skills=False).save(tmp_path / "results.json")
    assert {path.stem for path in draw_run(tmp_path)} == {"returns"}


def test_learning_curves_have_a_panel_per_metric_and_name_the_phases(run) -> None:
    metrics = read_metrics(run / "metrics.jsonl")
    figure = draw_learning_curves(metrics)
    panels = {axis.get_title(loc="left"): axis for axis in figure.axes}
    assert set(panels) == {"skill: loss", "policy: loss", "policy: accuracy"}
    assert texts(panels["skill: loss"]) == ["extraction", "policy"]
    assert texts(panels["policy: loss"]) == ["policy"]
    raw = panels["skill: loss"].lines[0]
    np.testing.assert_allclose(raw.get_ydata(), 1 / np.arange(10, 110, 10))


def test_vectors_have_no_curve(run) -> None:
    path = run / "metrics.jsonl"
    before = len(read_metrics(path).curves)
    path.write_text(path.read_text() + '{"step": 200, "phase": "policy", "skill/usage": [0.25, 0.75]}\n')
    assert len(read_metrics(path).curves) == before


def test_moving_average_is_the_mean_of_the_neighbours() -> None:
    values = np.random.default_rng(0).normal(size=23)
    for window in (1, 2, 5, 40):
        half = window // 2
        expected = [values[max(i - half, 0) : i + half + 1].mean() for i in range(23)]
        np.testing.assert_allclose(moving_average(values, window), expected)


def test_an_unfinished_last_line_is_left_out_and_a_broken_one_is_named(run, caplog) -> None:
    path = run / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 5, "ph')
    assert len(read_metrics(path).curves) == 3
    assert "metrics.jsonl: line 21 is cut short" in caplog.text
    path.write_text('{"step": 5, "ph\n' + whole)
    with pytest.raises(InputError, match="line 1"):
        read_metrics(path)
    path.write_text(whole + '{"step": 5, "skill/loss": "low"}\n')
    with pytest.raises(InputError, match="line 21: expected 'skill/loss' to be a number, got 'low'"):
        read_metrics(path)
    for content in ("", "[]\n", '{"phase": "x"}\n', '{"step": 1}\n', '{"step": 1e999}\n'):
        path.write_text(content)
        with pytest.raises(InputError, match=r"metrics\.jsonl"):
            read_metrics(path)


def test_returns_show_means_and_intervals_of_every_task_and_of_all() -> None:
    results = some_results()
    left, right = draw_returns({"mine": results}).axes[:2]
    assert [label.get_text() for label in left.get_yticklabels()] == ["all tasks", *TASKS]
    drawn = left.containers[0]
    expected = [results.overall, *(results.summary(task) for task in TASKS)]
    np.testing.assert_allclose(drawn.lines[0].get_xdata(), [s.returns.value for s in expected])
    ends = [segment[:, 0] for segment in drawn.lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, [list(s.returns.interval) for s in expected])
    np.testing.assert_allclose(right.containers[0].lines[0].get_xdata(), [s.success.value for s in expected])
    assert [float(c.get_offsets()[0][0]) for c in left.collections[-2:]] == [900.0, 5000.0]


def test_skill_usage_shows_shares_and_leaves_unknown_tasks_blank() -> None:
    figure = draw_skill_usage({"data": {"reach": [1, 3], "push": [0, 0]}, "evaluation": {"reach": [4, 0]}})
    data, evaluation = (axis.collections[0].get_array() for axis in figure.axes[:2])
    np.testing.assert_allclose(np.ma.filled(data, np.nan)[0], [0.25, 0.75])
    assert np.isnan(np.ma.filled(data, np.nan)[1]).all()
    np.testing.assert_allclose(np.ma.filled(evaluation, np.nan)[0], [1.0, 0.0])
    assert texts(figure.axes[0]) == ["25", "75"]


def test_the_usage_figure_tells_steps_from_decisions(run, monkeypatch) -> None:
    drawn = {}
    monkeypatch.setattr(
        "goskill.figures.run_figures.save", lambda figure, folder, name: drawn.update({name: figure}) or [run]
    )
    draw_run(run)
    data, evaluation, bar = drawn["skill_usage"].axes
    assert data.get_title(loc="left") == "steps of the data"
    assert evaluation.get_title(loc="left") == "decisions in evaluation"
    assert bar.get_ylabel() == "share within the task"


def test_strips_cover_the_episode_and_mark_the_first_success() -> None:
    strips = [Strip("reach", [1, 1, 0], 10, 25, 12), Strip("push", [2, 2, 2], 10, 25, None)]
    axis = draw_skill_strips(strips).axes[0]
    spans = [(p.get_x(), p.get_x() + p.get_width(), p.get_facecolor()[:3]) for p in axis.patches]
    assert [(low, high) for low, high, _ in spans] == [(0, 20), (20, 25), (0, 25)]
    assert [colour for *_, colour in spans] == [pytest.approx(skill_colour(skill)) for skill in (1, 0, 2)]
    assert [line.get_xdata()[0] for line in axis.lines] == [12]
    assert texts(axis) == ["1", "0", "2"]


def test_skills_of_the_usual_codebook_have_colours_of_their_own() -> None:
    assert len({skill_colour(skill) for skill in range(24)}) == 24


def test_data_of_another_codebook_is_not_put_beside(run) -> None:
    DataSkills("labels", 4, {task: [5, 5, 90, 1] for task in TASKS}).save(run / "data_skills.json")
    assert "skill_usage" in {path.stem for path in draw_run(run)}


def test_a_damaged_file_is_refused_by_name(run) -> None:
    (run / "data_skills.json").write_text("{}")
    with pytest.raises(InputError, match=r"data_skills\.json"):
        draw_run(run)


def test_runs_are_compared_in_one_picture(tmp_path) -> None:
    runs = [tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "y" / "other"]
    for run in runs:
        some_results().save(run / "results.json")
    for chosen, names in ((runs[1:], ["run", "other"]), (runs, ["x/run", "y/run", "other"])):
        written = draw_comparison(chosen, tmp_path)
        assert [path.name for path in written] == [
            f"{name}.{suffix}"
            for name in ("comparison", "comparison_returns", "comparison_success")
            for suffix in ("png", "svg")
        ]
        for name in names:
            assert all(f">{name}<" in path.read_text() for path in written if path.suffix == ".svg")
    with pytest.raises(InputError, match="runs"):
        draw_comparison([], tmp_path)


def test_seeds_of_one_name_are_one_bar_with_an_interval_over_seeds(tmp_path) -> None:
    for index in range(3):
        some_results().save(tmp_path / f"run{index}" / "results.json")
    groups = [f"ours={tmp_path}/run0,{tmp_path}/run1", tmp_path / "run2"]
    written = draw_comparison(groups, tmp_path / "out")
    for path in written:
        if path.suffix == ".svg":
            names = re.findall(">(ours|run[0-9])<", path.read_text())
            assert set(names) == {"ours", "run2"}


def test_bars_end_at_the_values_and_whiskers_at_the_intervals() -> None:
    panels = {
        "a": {"x": Estimate(3.0, (2.0, 5.0)), "y": Estimate(4.0, None)},
        "b": {"y": Estimate(1.0, (0, 2))},
    }
    figure = draw_bars(panels)
    for axis, panel in zip(figure.axes, panels.values(), strict=True):
        bars, whiskers = axis.containers
        assert [bar.get_height() for bar in bars] == [estimate.value for estimate in panel.values()]
        ends = [segment[:, 1].tolist() for segment in whiskers[2][0].get_segments()]
        assert ends == [list(estimate.interval or (estimate.value,) * 2) for estimate in panel.values()]
    colours = [axis.containers[0][-1].get_facecolor() for axis in figure.axes]
    assert colours[0] == colours[1]


def test_the_users_own_matplotlib_settings_stay(run) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw_run(run)
    assert dict(matplotlib.rcParams) == before


def test_importing_goskill_does_not_import_matplotlib() -> None:
    code = "import sys, goskill; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_figure_that_cannot_be_written_is_named_and_not_left_in_part(tmp_path, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        save(plt.figure(), tmp_path / "figures", "curves")
    assert caught.value.filename == str(tmp_path / "figures" / "curves.png")
    assert not any((tmp_path / "figures").iterdir())
