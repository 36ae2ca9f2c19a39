"""Learning in environments: what episodes paid while agents learned, from rows of studies in environments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from goskill.errors import InputError
from goskill.evaluation.colours import PALETTE
from goskill.evaluation.statistics import bootstrap
from goskill.files import read_text

WINDOW = 20
"""Episodes of a moving average."""
Float64Array = npt.NDArray[np.float64]
Rows = Sequence[Mapping[str, Any]]


def read_learning(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a file of ``goskill study``. Raises InputError for lines that are none."""
    found = []
    for number, line in enumerate(read_text(Path(path)).splitlines(), 1):
        try:
            row = json.loads(line)
            _ = row["contender"], row["task"], row["seed"], row["end"], row["return"], row["success"]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}: line {number}: expected a row of learning curves: {error!r}") from None
        found.append(row)
    return found


def moving_average(values: Sequence[float | None], window: int = WINDOW) -> Float64Array:
    """Means over up to ``window`` episodes that end at each. Raises InputError where something is unknown."""
    if any(value is None for value in values):
        raise InputError("values: expected what every episode reported, got episodes that did not")
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def draw_learning(rows: Rows, metric: str, episodes: int) -> Figure:
    """Means of ``metric`` (success or return) over tasks and seeds, each task faintly: by episode, and by step.

    A dotted line is after the episodes that methods which met tasks before explore a new one by (``prior_episodes``).
    """
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for index, name in enumerate(contenders):
        own, colour = [row for row in rows if row["contender"] == name], PALETTE[index % len(PALETTE)]
        curves = [moving_average(row[metric]) for row in own if row[metric]]
        for row, curve in zip([row for row in own if row[metric]], curves, strict=True):
            left.plot(np.arange(1, len(curve) + 1), curve, color=colour, alpha=0.25, linewidth=0.8)
            right.plot(row["end"], curve, color=colour, alpha=0.25, linewidth=0.8)
        shortest = min((len(curve) for curve in curves), default=0)
        if shortest:
            mean = np.mean([curve[:shortest] for curve in curves], axis=0)
            left.plot(np.arange(1, shortest + 1), mean, color=colour, linewidth=2, label=name)
            ends = np.mean([row["end"][:shortest] for row in own], axis=0)
            right.plot(ends, mean, color=colour, linewidth=2, label=name)
    for explored in sorted({row.get("settings", {}).get("prior_episodes") for row in rows} - {None}):
        left.axvline(explored, color="#777777", linestyle=":", linewidth=1)
    left.set_xlim(0, episodes)
    left.set_xlabel("episode of a task")
    right.set_xlabel("steps in a task's environment")
    left.set_ylabel(f"{metric}, mean of {WINDOW} episodes")
    left.legend()
    return figure


def draw_meta_tasks(rows: Rows, metric: str, episodes: int) -> Figure:
    """``metric`` (success or return) after ``episodes`` of a target task, by the number of tasks trained on before.

    A line for each method that met tasks before: means over tasks and seeds, and dots of single seeds. Others, and rows
    of fewer episodes, are left out. Raises InputError if none is left.
    """
    found: dict[str, dict[int, dict[int, list[float]]]] = {}
    for row in rows:
        if row.get("meta_tasks") is not None and len(row[metric]) >= episodes:
            by_seed = found.setdefault(row["method"], {}).setdefault(row["meta_tasks"], {})
            by_seed.setdefault(row["seed"], []).append(float(moving_average(row[metric])[episodes - 1]))
    if not found:
        raise InputError(f"rows: expected some with meta_tasks and {episodes} episodes, got none")
    figure, axis = plt.subplots(figsize=(4.5, 3.4))
    for index, (method, by_tasks) in enumerate(found.items()):
        colour, counts = PALETTE[index % len(PALETTE)], sorted(by_tasks)
        seeds = {count: [float(np.mean(values)) for values in by_tasks[count].values()] for count in counts}
        axis.plot(counts, [np.mean(seeds[count]) for count in counts], color=colour, marker="o", label=method)
        for count in counts:
            axis.scatter([count] * len(seeds[count]), seeds[count], color=colour, alpha=0.4, s=12)
    axis.set_xlabel("tasks of meta-training")
    axis.set_ylabel(f"{metric} at episode {episodes}, mean of {WINDOW}")
    axis.legend()
    return figure


def learning_table(rows: Rows, metric: str, episodes: Sequence[int]) -> str:
    """Markdown: by contender and task, the mean of ``metric`` in the episodes up to each number, and episodes played.

    Tasks that did not get so far have no number there.
    """
    head = ["contender", "task", "seeds", "episodes", *(f"at {count}" for count in episodes)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name in dict.fromkeys(row["contender"] for row in rows):
        own = [row for row in rows if row["contender"] == name]
        for task in [*dict.fromkeys(row["task"] for row in own), None]:
            chosen = [row for row in own if task in (None, row["task"])]
            played = min(len(row[metric]) for row in chosen)
            cells = [_cell(chosen, metric, count) for count in episodes]
            seeds = len({row["seed"] for row in chosen})
            lines.append(f"| {name} | {task or 'mean'} | {seeds} | {played} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rows: Rows, metric: str, count: int) -> str:
    by_task: dict[str, list[float]] = {}
    for row in rows:
        if len(row[metric]) < count:
            return "-"
        by_task.setdefault(row["task"], []).append(float(moving_average(row[metric])[count - 1]))
    if len({len(values) for values in by_task.values()}) > 1:
        return "-"
    scores = np.array(list(by_task.values())).T  # [seeds, tasks]
    if scores.size < 2:
        return f"{scores.mean():.2f}"
    interval = bootstrap(scores, lambda table: float(table.mean())).interval
    text = "" if interval is None else f" ({interval.low:.2f} to {interval.high:.2f})"
    return f"{scores.mean():.2f}{text}"
