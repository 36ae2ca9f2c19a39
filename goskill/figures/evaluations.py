"""Evaluations on the way of a run, as the paper's Figure 8 shows fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from goskill.evaluation.colours import PALETTE


def draw_evaluations(points: Sequence[dict[str, Any]]) -> Figure:
    """Return and success over iterations: each task faintly, all tasks on top with their 95 % interval.

    ``points`` are those of :func:`goskill.evaluation.points.read_points`, at least one.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4))
    iterations = [point["iteration"] for point in points]
    for axis, value, interval, title in (
        (axes[0], "return_mean", "return_ci95", "episode return"),
        (axes[1], "success", "success_ci95", "success at any step"),
    ):
        for index, task in enumerate(points[0]["tasks"]):
            curve = [_number(point["tasks"][task][value]) for point in points]
            colour = PALETTE[(index + 1) % len(PALETTE)]
            axis.plot(iterations, curve, color=colour, alpha=0.5, linewidth=1, label=task)
        overall = [_number(point["overall"][value]) for point in points]
        ends = [point["overall"][interval] or 2 * [at] for point, at in zip(points, overall, strict=True)]
        low, high = np.transpose(ends)
        axis.fill_between(iterations, low, high, color=PALETTE[0], alpha=0.15, linewidth=0)
        axis.plot(iterations, overall, color=PALETTE[0], linewidth=2, marker="o", label="all tasks")
        axis.set_title(title, loc="left")
        axis.set_xlabel("iteration")
    axes[0].set_ylim(bottom=0)
    axes[1].set_ylim(-0.03, 1.03)
    axes[1].yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=min(5, len(handles[0])))
    return figure


def _number(value: float | None) -> float:
    """Nothing is drawn where success is unknown."""
    return np.nan if value is None else value
