"""The figures and tables of a study, from its rows: the paper's Figures 5 to 8 and Tables 1, 2 and 6.

Returns are drawn apart for rows of different versions or data; everything else takes those that made most rows, and
says what it leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from goskill.errors import InputError
from goskill.evaluation import statistics
from goskill.evaluation.colours import PALETTE
from goskill.evaluation.row_selection import newest, of_one_origin, whole_runs
from goskill.evaluation.rows import Row, read_rows
from goskill.evaluation.skills import skills_of
from goskill.evaluation.statistics import Estimate
from goskill.evaluation.study import Study, read_study_file
from goskill.evaluation.study_table import (
    BUDGETS,
    Group,
    distinctions,
    group_key,
    groups,
    is_known,
    left_out,
    rows_of_study,
    scores,
)
from goskill.figures.bars import draw_bars
from goskill.figures.paper_tables import ablation_tables, task_table
from goskill.figures.skill_usage import draw_skill_usage
from goskill.figures.style import save, style
from goskill.files import write_atomically

ROWS, STUDY = "rows.jsonl", "study.toml"
LABELS = {"return_mean": "episode return", "success": "success at any step"}


def is_study(folder: str | Path) -> bool:
    """Whether a folder holds a study's rows."""
    return (Path(folder) / ROWS).is_file()


def draw_study(folder: str | Path) -> list[Path]:
    """Draw everything that a study's rows allow into its ``figures`` folder, as PNG and SVG, tables as Markdown.

    Raises InputError for a folder without rows or without the study they belong to, and for damaged rows.
    """
    path = Path(folder)
    study, rows = _read(path)
    out = path / "figures"
    written: list[Path] = []
    with style():
        for name, figure in (
            ("returns", draw_returns(study, rows)),
            ("sweeps", draw_sweeps(study, rows)),
            ("fine_tuning", draw_fine_tuning(study, rows)),
        ):
            if figure is not None:
                written += save(figure, out, name)
        for name, figure in draw_skills(study, rows, path).items():
            written += save(figure, out, name)
    tables = {**ablation_tables(study, rows), "tasks": task_table(study, rows)}
    written += [write_atomically(out / f"{name}.md", text) for name, text in tables.items() if text]
    return written


def draw_studies(folders: Sequence[str | Path], out: Path) -> list[Path]:
    """Draw the returns of several studies, such as MT30 and MT50, side by side as the paper's Figure 5 into ``out``."""
    found: list[Group] = []
    names: list[str] = []
    for folder in folders:
        study, rows = _read(Path(folder))
        mine = groups(study, rows)
        found += mine
        names += [study.name if study.name not in names else str(folder)] * len(mine)
    panels = {
        f"{name}: {_title(group)}{distinction}": {line.contender: line.returns for line in group.lines}
        for name, group, distinction in zip(names, found, distinctions(found), strict=True)
    }
    with style():
        return save(draw_bars(panels), out, "set_ups")


def draw_returns(study: Study, rows: Sequence[Row]) -> Figure:
    """Figure 5: return and success of every contender, a row of panels per data, budget and versions.

    Large marks are means with 95 % stratified bootstrap intervals, small ones are runs.
    """
    panels = groups(study, rows)
    heights = [0.7 + 0.27 * len(group.lines) for group in panels]
    figure, axes = plt.subplots(
        len(panels), 2, figsize=(9.5, sum(heights)), sharex="col", squeeze=False, height_ratios=heights
    )
    colours = _colours([line.contender for group in panels for line in group.lines])
    whole = whole_runs(newest(rows_of_study(study, rows))).rows
    for (left, right), group, distinction in zip(axes, panels, distinctions(panels), strict=True):
        names = [line.contender for line in group.lines]
        here = [row for row in whole if _belongs(row, group)]
        for axis, value, estimates in (
            (left, "return_mean", [line.returns for line in group.lines]),
            (right, "success", [line.success for line in group.lines]),
        ):
            for place, (name, estimate) in enumerate(zip(names, estimates, strict=True)):
                if estimate is None:
                    continue
                mine = [row for row in here if row["contender"] == name]
                _draw_mark(axis, place, estimate, scores(mine, value).mean(1), colours[name])
            axis.set_ylim(len(names) - 0.4, -0.6)
            axis.tick_params(axis="y", length=0)
        left.set_yticks(range(len(names)), names)
        right.set_yticks(range(len(names)), [""] * len(names))
        left.set_title(_title(group) + distinction, loc="left")
    axes[-1][0].set_xlabel(LABELS["return_mean"])
    axes[-1][1].set_xlabel(LABELS["success"])
    axes[0][0].set_xlim(left=min(0.0, axes[0][0].get_xlim()[0]))
    axes[0][1].set_xlim(-0.03, 1.03)
    axes[0][1].xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _note(figure, left_out(study, rows))
    return figure


def draw_sweeps(study: Study, rows: Sequence[Row]) -> Figure | None:
    """Figure 6: return over each setting that the study varies; the baseline is a line. None without sweeps."""
    settings = list(dict.fromkeys(name for one in study.contenders for name in one.sweep))
    every = whole_runs([row for row in newest(rows) if row["budget"] == "iterations"])
    selection = of_one_origin(
        [row for row in every.rows if row["sweep"] or row["contender"] == study.baseline]
    )
    baseline = selection.rows
    chosen = [row for row in baseline if row["sweep"]]
    if not settings or not chosen:
        return None
    data = [name for name in study.data if any(row["data"] == name for row in chosen)]
    figure, axes = plt.subplots(
        len(data), len(settings), figsize=(2.9 * len(settings), 2.9 * len(data)), sharey="row", squeeze=False
    )
    for row_of_axes, name in zip(axes, data, strict=True):
        for axis, setting in zip(row_of_axes, settings, strict=True):
            points = {
                row["sweep"][setting] for row in chosen if setting in row["sweep"] and row["data"] == name
            }
            _draw_sweep(axis, setting, sorted(points), [row for row in chosen if row["data"] == name])
            _draw_baseline(axis, study, [row for row in baseline if row["data"] == name])
        row_of_axes[0].set_ylabel(LABELS["return_mean"])
        row_of_axes[0].set_title(name, loc="left")
    _note(figure, (*every.left_out, *selection.left_out))
    return figure


def draw_fine_tuning(study: Study, rows: Sequence[Row]) -> Figure | None:
    """Figure 8: return and success on the new tasks while fine-tuning, a row of panels per data before it.

    None for a study without fine-tuning.
    """
    whole = whole_runs([row for row in rows if row["finetuned"]])
    selection = of_one_origin(whole.rows)
    chosen = selection.rows
    if not chosen:
        return None
    data = [name for name in study.data if any(row["data"] == name for row in chosen)]
    names = [one.name for one in study.contenders if any(row["contender"] == one.name for row in chosen)]
    colours = _colours(names)
    figure, axes = plt.subplots(len(data), 2, figsize=(9.5, 3.0 * len(data)), sharex=True, squeeze=False)
    for row_of_axes, before in zip(axes, data, strict=True):
        for axis, value in zip(row_of_axes, LABELS, strict=True):
            for name in names:
                mine = [row for row in chosen if (row["data"], row["contender"]) == (before, name)]
                iterations = sorted({row["iterations"] for row in mine})
                by_iteration = [[row for row in mine if row["iterations"] == at] for at in iterations]
                known = [rows_there for rows_there in by_iteration if is_known(rows_there, value)]
                if known:
                    estimates = [_estimate(rows_there, value) for rows_there in known]
                    places = [rows_there[0]["iterations"] for rows_there in known]
                    _draw_line(axis, places, estimates, colours[name], name)
            axis.set_ylabel(LABELS[value])
        row_of_axes[0].set_title(f"first trained on {before}", loc="left")
    for axis in axes[-1]:
        axis.set_xlabel("fine-tuning iteration")
    figure.legend(
        *axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=min(5, len(names))
    )
    _note(figure, (*whole.left_out, *selection.left_out))
    return figure


def draw_skills(study: Study, rows: Sequence[Row], folder: Path) -> dict[str, Figure]:
    """Figure 7 by file name: which skills each task's data and evaluation use, for each contender with skills and data.

    It shows the first seed, as skills of different runs have nothing in common but their numbers. Rows without skills
    are completed from the runs in the study's ``folder``, as far as they are there.
    """
    plain = [row for row in rows if row["budget"] == "iterations" and not row["finetuned"]]
    chosen = of_one_origin(whole_runs(plain).rows).rows
    figures = {}
    for contender in study.contenders:
        for data in study.data:
            mine = [row for row in chosen if (row["contender"], row["data"]) == (contender.name, data)]
            first = [row for row in mine if row["seed"] == min(one["seed"] for one in mine)]
            panels = _skill_panels(first, folder)
            if panels:
                figure = draw_skill_usage(panels)
                figure.suptitle(f"{contender.name} on {data}, seed {first[0]['seed']}", x=0.01, ha="left")
                figures[f"skills-{contender.name}-{data}"] = figure
    return figures


def _skill_panels(rows: Sequence[Row], folder: Path) -> dict[str, Mapping[str, Sequence[int]]]:
    """The counts of one run by task, by where they were counted; empty if it has none."""
    usage: Mapping[str, Mapping[str, Sequence[int]]]
    kept = [row for row in rows if "skills" in row]
    if kept:
        sources = dict.fromkeys(where for row in kept for where in row["skills"])
        usage = {
            where: {row["task"]: row["skills"][where] for row in kept if row["skills"].get(where)}
            for where in sources
        }
    elif rows:
        run = folder / "runs" / rows[0]["contender"] / rows[0]["data"] / f"seed-{rows[0]['seed']}"
        usage = skills_of(run)
    else:
        return {}
    sizes = {len(counts) for tasks in usage.values() for counts in tasks.values() if counts}
    if len(sizes) != 1:
        return {}
    return {where.replace("_", " "): tasks for where, tasks in usage.items()}


def _read(folder: Path) -> tuple[Study, list[Row]]:
    if not (folder / STUDY).is_file():
        raise InputError(
            f"{folder / STUDY} is missing, which says what the rows are of; "
            f"`goskill study STUDY --table --out {folder}` draws a study in environments"
        )
    rows = read_rows(folder / ROWS)
    if not rows:
        raise InputError(f"{folder / ROWS}: expected rows of a study, found none")
    study = read_study_file(folder / STUDY, folder.resolve().name)
    if not groups(study, rows):
        raise InputError(f"{folder / ROWS}: has no rows of the study in {folder / STUDY}")
    return study, rows_of_study(study, rows)


def _title(group: Group) -> str:
    return f"{group.data}{' (scripted)' if group.scripted else ''}, {BUDGETS[group.budget]}"


def _belongs(row: Row, group: Group) -> bool:
    return group_key(row) == (group.data, group.budget, group.versions, group.fingerprint)


def _note(figure: Figure, left_out: Sequence[str]) -> None:
    if left_out:
        figure.suptitle("\n".join(left_out), fontsize=7, x=0.01, ha="left")


def _colours(names: Sequence[str]) -> dict[str, str]:
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(dict.fromkeys(names))}


def _estimate(rows: Sequence[Row], value: str) -> Estimate:
    return statistics.bootstrap(scores(rows, value), _mean)


_mean: Callable[[Any], float] = np.mean


def _draw_mark(axis: Axes, place: float, estimate: Estimate, runs: Sequence[float], colour: str) -> None:
    low, high = estimate.interval or (estimate.value, estimate.value)
    axis.plot([low, high], [place, place], color=colour, linewidth=2.2, solid_capstyle="round")
    axis.scatter(
        runs, [place] * len(runs), s=14, facecolors="white", edgecolors=colour, linewidths=1, zorder=3
    )
    axis.scatter([estimate.value], [place], s=52, color=colour, zorder=4)


def _draw_sweep(axis: Axes, setting: str, values: Sequence[Any], rows: Sequence[Row]) -> None:
    estimates = [
        _estimate([row for row in rows if row["sweep"].get(setting) == at], "return_mean") for at in values
    ]
    places = list(range(len(values)))
    _draw_line(axis, places, estimates, PALETTE[0], "")
    axis.set_xticks(
        places, [f"{value:g}" if isinstance(value, int | float) else str(value) for value in values]
    )
    axis.set_xlabel(setting.replace("_", " "))


def _draw_baseline(axis: Axes, study: Study, rows: Sequence[Row]) -> None:
    mine = [row for row in rows if row["contender"] == study.baseline]
    if mine and study.baseline != study.reference:
        value = float(scores(mine, "return_mean").mean())
        axis.axhline(value, color="#777777", linestyle="--", linewidth=1.2)
        axis.annotate(
            study.baseline, (0.02, value), xycoords=("axes fraction", "data"), fontsize=8, va="bottom"
        )


def _draw_line(
    axis: Axes, places: Sequence[float], estimates: Sequence[Estimate], colour: str, label: str
) -> None:
    values = [estimate.value for estimate in estimates]
    ends = np.array([estimate.interval or (estimate.value, estimate.value) for estimate in estimates])
    axis.plot(places, values, color=colour, marker="o", markersize=5, linewidth=2, label=label)
    axis.fill_between(places, ends[:, 0], ends[:, 1], color=colour, alpha=0.18, linewidth=0)
