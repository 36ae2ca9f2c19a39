"""Which skills are used where: the paper's Figure 7, and the skills of single episodes over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from goskill.evaluation.colours import skill_colour, text_colour


@dataclass(frozen=True)
class Strip:
    """One episode: the skill of each decision, how long the episode was, and when it first succeeded."""

    task: str
    skills: Sequence[int]
    horizon: int
    length: int
    success_step: int | None


def draw_skill_usage(panels: Mapping[str, Mapping[str, Sequence[int]]]) -> Figure:
    """The share of each skill in each task, one panel per source (data, evaluation), on one colour scale.

    ``panels`` maps a title to counts per task; all have the same number of skills.
    """
    tasks = list(dict.fromkeys(task for usage in panels.values() for task in usage))
    count = len(next(iter(next(iter(panels.values())).values())))
    cell = 0.36 if count <= 20 else 0.22
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(2.4 + max(2.4, cell * count) * len(panels), 1.9 + 0.27 * len(tasks)),
        sharey=True,
        squeeze=False,
    )
    for axis, (title, usage) in zip(axes[0], panels.items(), strict=True):
        shares = _shares(usage, tasks, count)
        image = axis.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="#dddddd", linewidth=0.6)
        _write_shares(axis, shares)
        axis.set_title(title, loc="left")
        axis.set_xlabel("skill")
        axis.set_xticks(
            np.arange(count) + 0.5, [str(i) if count <= 20 or i % 4 == 0 else "" for i in range(count)]
        )
        axis.tick_params(length=0)
        axis.grid(False)
        axis.spines[:].set_visible(False)
    axes[0][0].set_yticks(np.arange(len(tasks)) + 0.5, tasks)
    axes[0][0].invert_yaxis()
    bar = figure.colorbar(
        image,
        ax=axes,
        label="share within the task",
        aspect=30,
        pad=0.02,
        shrink=min(1.0, 14 / len(tasks)),
    )
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    bar.outline.set_visible(False)
    return figure


def draw_skill_strips(strips: Sequence[Strip]) -> Figure:
    """One coloured lane per episode over its steps; each stretch carries its skill, a star the first
    success.
    """
    figure, axis = plt.subplots(figsize=(10, 1.5 + 0.42 * len(strips)))
    longest = max(strip.length for strip in strips)
    for row, strip in enumerate(strips):
        _draw_strip(axis, row, strip, longest)
    axis.set_yticks(range(len(strips)), [strip.task for strip in strips])
    axis.set_ylim(len(strips) - 0.4, -0.6)
    axis.set_xlim(0, longest)
    axis.set_xlabel("environment step")
    axis.set_title("Skills of one episode per task", loc="left", fontweight="bold", pad=12)
    axis.tick_params(axis="y", length=0)
    axis.grid(False)
    axis.spines["left"].set_visible(False)
    if any(strip.success_step is not None for strip in strips):
        axis.legend(
            [Line2D([], [], **_STAR)],
            ["first success"],
            loc="lower right",
            bbox_to_anchor=(1, 1),
            borderaxespad=0.2,
        )
    return figure


_STAR: Any = {
    "marker": "*",
    "markersize": 13,
    "color": "white",
    "markeredgecolor": "black",
    "linestyle": "none",
    "clip_on": False,
    "zorder": 4,
}


def _draw_strip(axis: Axes, row: int, strip: Strip, longest: int) -> None:
    decision = 0
    for skill, run in groupby(strip.skills):
        length = len(list(run))
        low = decision * strip.horizon
        high = min((decision + length) * strip.horizon, strip.length)
        decision += length
        colour = skill_colour(skill)
        axis.add_patch(Rectangle((low, row - 0.36), high - low, 0.72, facecolor=colour, edgecolor="white"))
        # Two digits at this size are about 1.6 % of the axis wide.
        if high - low >= 0.018 * longest:
            axis.text(
                (low + high) / 2,
                row,
                str(skill),
                ha="center",
                va="center",
                fontsize=8.5,
                color=text_colour(colour),
            )
    if strip.success_step is not None:
        axis.plot(strip.success_step, row - 0.36, **_STAR)


def _shares(usage: Mapping[str, Sequence[int]], tasks: Sequence[str], count: int) -> npt.NDArray[np.float64]:
    """Counts as shares of each task, [tasks, skills]; NaN (drawn blank) for a task without counts."""
    shares = np.full((len(tasks), count), np.nan)
    for row, task in enumerate(tasks):
        counts = np.asarray(usage.get(task, []), dtype=np.float64)
        if counts.size == count and counts.sum() > 0:
            shares[row] = counts / counts.sum()
    return shares


def _write_shares(axis: Axes, shares: npt.NDArray[np.float64]) -> None:
    """Percentages in the cells, as long as they stay legible."""
    if shares.shape[0] > 20 or shares.shape[1] > 20:
        return
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            axis.text(
                column + 0.5,
                row + 0.5,
                f"{100 * share:.0f}",
                ha="center",
                va="center",
                fontsize=7.5,
                color="white" if share > 0.5 else "black",
            )
