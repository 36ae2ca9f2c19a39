"""Studies in environments: run whole, gone on with, read as tables; what is wrong with a file is named."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goskill.envs.suite_registry import tasks_in
from goskill.errors import InputError
from goskill.experiments import online_studies
from goskill.experiments.online_studies.maze_ways import draw_ways, read_ways
from goskill.experiments.runs import read_settings
from goskill.figures import draw_study
from goskill.figures.learning_curves import (
    draw_learning,
    draw_meta_tasks,
    learning_table,
    moving_average,
    read_learning,
)

STUDY = """
title = "small"
preset = "maze"
suite = "maze"
metric = "success"
tasks = ["maze-r12-c07", "maze-r05-c12"]
episodes = 5
seeds = [3]
[data]
tasks = ["maze-play"]
episodes = 2
[skills.closed]
settings = { skill_width = 8, skill_batch_size = 4, skill_iterations = 2, prior_width = 8 }
[[contenders]]
name = "SPiRL"
method = "spirl"
skills = "closed"
settings = { iterations = 2, warmup_decisions = 200, critic_width = 8, batch_size = 4 }
"""
META = """
[meta.two]
tasks = "maze-r04-c03,maze-r11-c03"
skills = "closed"
[meta.two.settings]
iterations = 2
warmup_decisions = 3
tasks_per_step = 2
small_tasks = 1
width = 8
batch_size = 4
large_context = 4
[[contenders]]
name = "SiMPL"
method = "simpl_ft"
meta = "two"
settings = { iterations = 2, prior_episodes = 1, batch_size = 4 }
"""


def test_a_study_runs_whole_and_is_not_run_again(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text(STUDY + META)
    assert online_studies.is_online_study(file)
    study = online_studies.read_online_study(file)
    rows = online_studies.run_online_study(study, tmp_path / "out")
    assert [(row["contender"], row["seed"], row["task"]) for row in rows] == [
        ("SPiRL", 3, "maze-r12-c07"),
        ("SPiRL", 3, "maze-r05-c12"),
        ("SiMPL", 3, "maze-r12-c07"),
        ("SiMPL", 3, "maze-r05-c12"),
    ]
    assert (tmp_path / "out" / "meta" / "two" / "seed-3").is_dir()
    for (
        row
    ) in rows:  # 2000 steps before the first update, ten more before the second: one whole episode at least
        assert len(row["end"]) == len(row["success"]) >= 1
        assert not row["whole"]
        assert row["settings"]["skill_width"] == 8
    assert [row["meta_tasks"] for row in rows] == [None, None, 2, 2]
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*.safetensors")}
    online_studies.run_online_study(study, tmp_path / "out")
    assert made == {path: path.stat().st_mtime_ns for path in made}
    assert read_learning(tmp_path / "out" / "rows.jsonl") == rows
    online_studies.show_online_study(study, tmp_path / "out")
    assert (tmp_path / "out" / "small.png").stat().st_size > 0
    ways = read_ways(tmp_path / "out" / "ways.jsonl")
    for row in rows:
        (first,) = (one["way"] for one in ways if one["episode"] == 1 and _of_one_run(one, row))
        assert len(first) == -(-row["length"][0] // 10) + 1
        assert np.abs(np.array(first[0]) - 10.0).max() <= 0.11  # where mazes start
    assert (tmp_path / "out" / "small-ways-maze-r05-c12.png").stat().st_size > 0
    with pytest.raises(InputError, match=r"study.toml is missing.*goskill study STUDY --table"):
        draw_study(tmp_path / "out")


def _of_one_run(one: Any, other: Any) -> bool:
    return all(one[name] == other[name] for name in ("contender", "seed", "task"))


def test_ways_are_drawn_by_contender_and_episode(tmp_path: Path) -> None:
    def row(contender: str, seed: int, episode: int, way: list[list[float]]) -> dict[str, Any]:
        return {
            "contender": contender,
            "task": "maze-r12-c07",
            "seed": seed,
            "episode": episode,
            "way": way,
        }

    rows = [
        row("A", 1, 1, [[10.0, 10.0], [11.0, 10.0]]),
        row("A", 0, 1, [[10.0, 10.0], [10.0, 12.0]]),
        row("B", 0, 21, [[10.0, 10.0]]),
    ]
    figure = draw_ways(rows, "maze-r12-c07")
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:2] == ["A, episode 1", "A, episode 21: none"]
    assert titles[5:7] == ["B, episode 1: none", "B, episode 21"]
    (lines,) = figure.axes[0].collections
    np.testing.assert_allclose(lines.get_segments()[0][-1], [12.2, 10.2])  # seed 0 first; column, row
    np.testing.assert_allclose(figure.axes[0].patches[0].center, (7.2, 12.2))
    with pytest.raises(InputError, match="rows: expected some of task maze-r05-c12, got none"):
        draw_ways(rows, "maze-r05-c12")
    (tmp_path / "ways.jsonl").write_text('{"contender": "A"}\n')
    with pytest.raises(InputError, match="line 1: expected a row of ways"):
        read_ways(tmp_path / "ways.jsonl")


def test_the_help_names_every_ready_study() -> None:
    from goskill.commands.comparisons import study
    from goskill.experiments import studies

    folders = [Path(module.__file__ or "").parent / "ready" for module in (online_studies, studies)]
    ready = {file.stem for folder in folders for file in folder.glob("*.toml")}
    assert ready <= set(re.findall(r"[\w-]+", study.__doc__ or ""))


@pytest.mark.parametrize("name", online_studies.online_names())
def test_methods_accept_what_ready_studies_say(name: str) -> None:
    """All settings, task names and numbers of tasks, as the preset completes them."""
    study = online_studies.read_online_study(name)
    assert tasks_in(study.suite, list(study.tasks))[1] == list(study.tasks)

    def settings(method: str, told: Mapping[str, Any]) -> Any:
        overrides = [f"method.{key}={json.dumps(value)}" for key, value in told.items()]
        return read_settings(study.preset, overrides, method=method).method

    for skills in study.skills.values():
        settings(skills.method, skills.settings)
    for run in study.meta.values():
        tasks = tasks_in(study.suite, run.tasks)[1]
        assert not set(tasks) & set(study.tasks)
        assert getattr(settings(run.method, run.settings), "tasks_per_step", 1) <= len(tasks)
    for contender in study.contenders:
        found = settings(contender.method, contender.settings)
        assert hasattr(found, "meta") == bool(contender.meta)


def test_meta_training_of_the_paper_plays_its_episodes() -> None:
    """SiMPL, B.2.1: 16,000, 18,000 and 10,000 with 40, 20 and 10 goals, 3,450 in the kitchen; other methods as many."""
    for name, runs in {
        "simpl-maze": {"forty": 16_000, "twenty": 18_000, "ten": 10_000, "multi": 16_000, "pearl": 16_000},
        "simpl-maze-top": {"top": 10_000, "multi": 10_000},
        "simpl-maze-bottom": {"top": 10_000, "multi": 10_000},
        "simpl-kitchen": {"all": 3_450, "multi": 3_450, "pearl": 3_450},
    }.items():
        study = online_studies.read_online_study(name)
        suite = tasks_in(study.suite, list(study.tasks))[0]
        for run, episodes in runs.items():
            one = study.meta[run]
            overrides = [f"method.{key}={json.dumps(value)}" for key, value in one.settings.items()]
            found = read_settings(study.preset, overrides, method=one.method).method
            steps = found.iterations / found.updates_per_decision * getattr(found, "horizon", 1)
            played = steps / suite.max_steps * len(tasks_in(study.suite, one.tasks)[1])
            assert played == pytest.approx(episodes, rel=0.01), (name, run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('skills = "closed"', 'skills = "open"'), "contender SPiRL: skills"),
        (('title = "small"', ""), "study small: study.title: expected one"),
        (('"spirl"', '"simpl_ft"\nmeta = "tow"'), "contender SPiRL: meta"),
        (("[data]", "colour = 1\n[data]"), "unknown setting study.colour"),
        (("[data]", 'name = "large"\n[data]'), "study small: unknown key 'name'"),
        (('metric = "success"', 'metric = "reward"'), "study.metric: expected one of 'success', 'return'"),
        (("seeds = [3]", "seeds = []"), "seeds: expected at least one"),
        (("episodes = 2", "episodes = 0"), "data.episodes: expected at least 1, got 0"),
        (("seeds = [3]", "seeds = ["), "study small: "),
    ],
)
def test_what_is_wrong_with_a_file_is_named(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(STUDY.replace(*change))
    with pytest.raises(InputError, match=message):
        online_studies.read_online_study(tmp_path / "small.toml")


def test_success_by_the_number_of_tasks_met_before() -> None:
    def row(tasks: int | None, seed: int, task: str, successes: list[int]) -> dict[str, Any]:
        return {"method": "simpl_ft", "meta_tasks": tasks, "seed": seed, "task": task, "success": successes}

    rows = [
        row(20, 0, "a", [1, 1]),
        row(10, 0, "a", [0, 0]),
        row(10, 0, "b", [0, 1]),
        row(10, 1, "a", [1, 1]),
    ]
    figure = draw_meta_tasks([*rows, row(None, 0, "a", [0, 0]), row(40, 0, "a", [1])], "success", 2)
    (line,) = figure.axes[0].lines
    np.testing.assert_array_equal(line.get_xdata(), [10, 20])
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [(0.25 + 1) / 2, 1.0])
    with pytest.raises(InputError, match="rows: expected some with meta_tasks and 3 episodes, got none"):
        draw_meta_tasks(rows, "success", 3)


def test_curves_are_means_over_the_last_episodes() -> None:
    random = np.random.default_rng(0)
    values = random.random(50)
    expected = [values[max(0, end - 20) : end].mean() for end in range(1, 51)]
    np.testing.assert_allclose(moving_average(values.tolist()), expected)
    with pytest.raises(InputError, match="expected what every episode reported"):
        moving_average([1.0, None])


def test_tables_have_no_numbers_for_episodes_that_were_not_played() -> None:
    def row(task: str, seed: int, success: list[float]) -> dict[str, object]:
        ends = list(range(1, len(success) + 1))
        return {
            "contender": "A",
            "task": task,
            "seed": seed,
            "end": ends,
            "success": success,
            "return": success,
        }

    assert draw_learning([row("x", 0, [1.0])], "success", 2).axes[0].lines[-1].get_linestyle() == "-"
    told = {**row("x", 0, [1.0]), "settings": {"prior_episodes": 20}}
    line = draw_learning([told], "success", 2).axes[0].lines[-1]
    assert (line.get_linestyle(), list(line.get_xdata())) == (":", [20, 20])
    rows = [row("x", 0, [0.0, 1.0]), row("x", 1, [1.0, 1.0]), row("y", 0, [0.0]), row("y", 1, [0.0])]
    lines = learning_table(rows, "success", [1, 2]).splitlines()
    assert lines[2].startswith("| A | x | 2 | 2 | 0.50 (0.00 to 1.00) | 0.75 (")
    assert lines[3] == "| A | y | 2 | 1 | 0.00 (0.00 to 0.00) | - |"
    assert lines[4].startswith("| A | mean | 2 | 1 | 0.25")
    assert lines[4].endswith("| - |")
    assert draw_learning(rows, "success", 2).axes
