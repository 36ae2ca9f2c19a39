"""The table of a study: means, interquartile means, intervals, probabilities of improvement."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.table import Table

import goskill.evaluation.statistics as statistics
from goskill.errors import InputError
from goskill.evaluation.row_selection import check_settings, named_versions, newest, whole_runs
from goskill.evaluation.rows import VERSIONS, Row, versions
from goskill.evaluation.statistics import Estimate
from goskill.evaluation.study import SAME_SECONDS, Study
from goskill.files import read_text, write_atomically
from goskill.terminal import amount

BUDGETS = {"iterations": "equal iterations", "seconds": "equal seconds"}
COLUMNS = ("", "seeds", "iterations", "return", "IQM of returns", "success", "better than {baseline}")
AT_LAST = "success at the last step"
TWICE = "†"
"""Marks runs that count for both budgets."""
ENOUGH_RUNS = 10
"""With fewer, a percentile bootstrap holds less than it says."""

GroupKey = tuple[str, str, tuple[str, ...], str]


@dataclass(frozen=True)
class Line:
    """One contender in one group."""

    contender: str
    seeds: int
    iterations: int  # median over its runs
    returns: Estimate  # mean over runs and tasks; all intervals are stratified bootstraps
    interquartile: Estimate  # of returns over runs x tasks
    success: Estimate | None  # at any step, mean over runs and tasks; None: unknown
    success_last: Estimate | None  # at the last step; None: unknown, or not asked for
    improvement: Estimate | None  # probability that a run has a higher return than one of the baseline
    counted_twice: bool  # runs of equal iterations that count as ones of equal seconds, too


@dataclass(frozen=True)
class Group:
    """What can be compared: the same data, budget and versions."""

    study: str
    data: str
    budget: str
    versions: tuple[str, ...]  # as ``rows.VERSIONS`` names them
    fingerprint: str  # of the data
    lines: Sequence[Line]
    tasks: int
    episodes: int  # per task and run
    scripted: bool
    programs: Sequence[str]  # which goskill made the rows


def groups(study: Study, rows: Sequence[Row]) -> list[Group]:
    """The rows of the study's contenders, by data, its fingerprint, budget and versions; nothing is mixed across these.

    Raises InputError if rows of a contender that belong together were made with different settings.
    """
    order = list(study.data)
    mine = rows_of_study(study, rows)
    check_settings(mine, study.name)
    whole = whole_runs(newest(mine))
    by_key: dict[GroupKey, list[Row]] = {}
    for row in whole.rows:
        by_key.setdefault(group_key(row), []).append(row)
    keys = sorted(by_key, key=lambda one: (order.index(one[0]), list(BUDGETS).index(one[1]), one[2], one[3]))
    made = {_but_budget(row) for row in mine if row["budget"] == "iterations"}
    return [_group(study, by_key[key], made) for key in keys]


def group_key(row: Row) -> GroupKey:
    """What the rows of a group share: data, budget, versions, and the data's fingerprint."""
    return row["data"], row["budget"], versions(row), row["fingerprint"]


def left_out(study: Study, rows: Sequence[Row]) -> tuple[str, ...]:
    """What ``groups`` does not show, a sentence each."""
    return whole_runs(newest(rows_of_study(study, rows))).left_out


def rows_of_study(study: Study, rows: Sequence[Row]) -> list[Row]:
    """The rows of the study's contenders on its data."""
    names = {one.name for one in study.contenders}
    return [row for row in rows if row["data"] in study.data and row["contender"] in names]


def distinctions(found: Sequence[Group]) -> list[str]:
    """What tells each group from others of its data and budget: versions and fingerprints, as far as they differ."""
    varying = [len({group.versions[place] for group in found}) > 1 for place in range(len(VERSIONS))]
    notes = []
    for group in found:
        parts = [
            f"{name} {version}"
            for name, version, varies in zip(VERSIONS, group.versions, varying, strict=True)
            if varies
        ]
        same = [other for other in found if (other.study, other.data) == (group.study, group.data)]
        if len({other.fingerprint for other in same}) > 1:
            parts.append(f"fingerprint {group.fingerprint}")
        notes.append(f" ({', '.join(parts)})" if parts else "")
    return notes


def scores(rows: Sequence[Row], value: str) -> npt.NDArray[np.float64]:
    """A value of one contender's rows as [runs, tasks]. Raises InputError if runs have different tasks."""
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    cells = {(row["seed"], row["task"]): row[value] for row in rows}
    if len(cells) < len(seeds) * len(tasks):
        raise InputError(f"rows of {rows[0]['contender']}: a task is missing in a run")
    return np.array([[cells[seed, task] for task in sorted(tasks)] for seed in seeds], dtype=np.float64)


def is_known(rows: Sequence[Row], value: str) -> bool:
    """Whether every row has a value; nothing is said about success where no environment reports it."""
    return all(row[value] is not None for row in rows)


def _program(row: Row) -> str:
    """The commit, or the version of an installed wheel, which has none."""
    return f"commit {row['commit']}" if row["commit"] else f"goskill {versions(row)[0]} as installed"


def _but_budget(row: Row) -> str:
    return json.dumps({**row, "budget": ""}, sort_keys=True)


def _group(study: Study, rows: Sequence[Row], made: Collection[str]) -> Group:
    """``made`` are the rows of equal iterations without their budget."""
    by_contender = {
        one.name: [row for row in rows if row["contender"] == one.name] for one in study.contenders
    }
    by_contender = {name: mine for name, mine in by_contender.items() if mine}
    baseline = scores(by_contender[study.baseline], "return_mean") if study.baseline in by_contender else None
    first = rows[0]
    return Group(
        study=study.name,
        data=first["data"],
        budget=first["budget"],
        versions=versions(first),
        fingerprint=first["fingerprint"],
        lines=[
            _line(study, name, mine, None if name == study.baseline else baseline, made)
            for name, mine in by_contender.items()
        ],
        tasks=len({row["task"] for row in rows}),
        episodes=first["episodes"],
        scripted=any(row["scripted"] for row in rows),
        programs=sorted({_program(row) for row in rows}),
    )


def _line(
    study: Study,
    name: str,
    rows: Sequence[Row],
    baseline: npt.NDArray[np.float64] | None,
    made: Collection[str],
) -> Line:
    returns = scores(rows, "return_mean")
    return Line(
        contender=name,
        seeds=len(returns),
        iterations=int(np.median([row["iterations"] for row in rows])),
        returns=statistics.bootstrap(returns, np.mean),
        interquartile=statistics.bootstrap(returns),
        success=_success(rows, "success"),
        success_last=_success(rows, "success_last") if study.last_step else None,
        improvement=None if baseline is None else statistics.probability_of_improvement(baseline, returns),
        counted_twice=rows[0]["budget"] == "seconds" and any(_but_budget(row) in made for row in rows),
    )


def _success(rows: Sequence[Row], value: str) -> Estimate | None:
    return statistics.bootstrap(scores(rows, value), np.mean) if is_known(rows, value) else None


def rich_table(study: Study, group: Group, distinction: str = "") -> Table:
    """One group for a terminal; ``distinction`` is what tells it from others (``distinctions``)."""
    table = Table(title=_title(group) + distinction, caption=_caption(study, group), box=box.SIMPLE_HEAD)
    longest = max(len(_cells(study, line)[0]) for line in group.lines)
    table.add_column("", min_width=min(longest, 22), overflow="fold")
    for column in _columns(study)[1:]:
        table.add_column(column, justify="right", overflow="fold")
    for line in group.lines:
        # Rich reads square brackets as markup; on a line of their own they fit narrow terminals.
        table.add_row(*(cell.replace(" [", "\n\\[") for cell in _cells(study, line)))
    return table


def markdown(study: Study, found: Sequence[Group], notices: Sequence[str] = ()) -> str:
    """All groups as Markdown tables, and ``notices`` after them."""
    parts = []
    for group, distinction in zip(found, distinctions(found), strict=True):
        columns = _columns(study)
        lines = [f"**{_title(group)}{distinction}**", ""]
        lines += ["| " + " | ".join(columns) + " |", "|---" + "|--:" * (len(columns) - 1) + "|"]
        lines += ["| " + " | ".join(_cells(study, line)) + " |" for line in group.lines]
        lines += ["", _caption(study, group)]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, *notices]) + "\n"


def write_between_markers(file: Path, name: str, text: str) -> None:
    """Put ``text`` into a file between the lines ``<!-- study NAME -->`` and ``<!-- end of study NAME -->``.

    Raises InputError if the file does not have both, once and in this order.
    """
    first, last = f"<!-- study {name} -->\n", f"<!-- end of study {name} -->"
    content = read_text(file)
    before, found, rest = content.partition(first)
    _, ended, after = rest.partition(last)
    if not found or not ended or first in rest:
        raise InputError(f"{file}: expected one line {first.strip()!r} and a line {last!r} after it")
    write_atomically(file, f"{before}{first}\n{text}\n{last}{after}")


def _title(group: Group) -> str:
    data = f"{group.data} data" + (" (scripted)" if group.scripted else "")
    return f"{data}, {BUDGETS[group.budget]}"


def _caption(study: Study, group: Group) -> str:
    made = named_versions(group.versions)
    twice = (
        f" {TWICE}: runs of equal iterations, whose seconds are within {SAME_SECONDS:.0%} of the reference's."
        if any(line.counted_twice for line in group.lines)
        else ""
    )
    return (
        f"{group.tasks} tasks, {group.episodes} episodes per task and run.{_about_intervals(group)} "
        f"IQM: interquartile mean. Better than {study.baseline}: the probability that a run's return on a task is "
        f"higher.{twice} {made}; {', '.join(group.programs)}."
    )


def _about_intervals(group: Group) -> str:
    runs = sorted({line.seeds for line in group.lines if line.seeds > 1})
    if not runs:
        return ""
    over = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    few = "; with so few they are too narrow" if runs[0] < ENOUGH_RUNS else ""
    return f" Brackets hold 95 % (stratified bootstrap over {over} runs{few})."


def _columns(study: Study) -> list[str]:
    names = [column.format(baseline=study.baseline) for column in COLUMNS]
    return [*names[:-1], AT_LAST, names[-1]] if study.last_step else names


def _cells(study: Study, line: Line) -> list[str]:
    successes = [line.success, line.success_last] if study.last_step else [line.success]
    return [
        line.contender + (f" {TWICE}" if line.counted_twice else ""),
        str(line.seeds),
        str(line.iterations),
        _with_interval(line.returns, amount),
        _with_interval(line.interquartile, amount),
        *("unknown" if one is None else _with_interval(one, _share) for one in successes),
        "" if line.improvement is None else _with_interval(line.improvement, _share),
    ]


def _share(value: float) -> str:
    return format(value, ".0%")


def _with_interval(estimate: Estimate, shown: Callable[[float], str]) -> str:
    value, interval = shown(estimate.value), estimate.interval
    return value if interval is None else f"{value} [{shown(interval.low)}, {shown(interval.high)}]"


def to_json(found: Sequence[Group]) -> list[dict[str, Any]]:
    """All groups as plain values; an estimate is {"value", "ci95"}."""

    def estimate(one: Estimate | None) -> Mapping[str, Any] | None:
        if one is None:
            return None
        return {"value": one.value, "ci95": None if one.interval is None else list(one.interval)}

    return [
        {
            "data": group.data,
            "budget": group.budget,
            "versions": dict(zip(VERSIONS, group.versions, strict=True)),
            "fingerprint": group.fingerprint,
            "tasks": group.tasks,
            "episodes": group.episodes,
            "scripted": group.scripted,
            "contenders": {
                line.contender: {
                    "seeds": line.seeds,
                    "iterations": line.iterations,
                    "return": estimate(line.returns),
                    "return_iqm": estimate(line.interquartile),
                    "success": estimate(line.success),
                    **({} if line.success_last is None else {"success_last": estimate(line.success_last)}),
                    "improvement": estimate(line.improvement),
                    "counted_twice": line.counted_twice,
                }
                for line in group.lines
            },
        }
        for group in found
    ]
