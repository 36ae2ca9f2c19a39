"""Bars of contenders with intervals, a panel per dataset or suite: the paper's Figure 5."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from goskill.evaluation.colours import PALETTE
from goskill.evaluation.statistics import Estimate
from goskill.terminal import amount


def draw_bars(panels: Mapping[str, Mapping[str, Estimate]], percent: bool = False) -> Figure:
    """A bar and a 95 % interval for each contender of each panel; ``panels`` are values by title and name.

    A contender has one colour in all panels. ``percent`` is for shares.
    """
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    longest = max(len(panel) for panel in panels.values())
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1.6 + len(panels) * (0.8 + 0.62 * longest), 3.4), squeeze=False
    )
    for axis, (title, panel) in zip(axes[0], panels.items(), strict=True):
        values = np.array([estimate.value for estimate in panel.values()])
        ends = np.array([estimate.interval or (estimate.value,) * 2 for estimate in panel.values()])
        colours = [PALETTE[names.index(name) % len(PALETTE)] for name in panel]
        axis.bar(range(len(panel)), values, 0.72, color=colours)
        axis.errorbar(
            range(len(panel)), values, np.abs(ends.T - values), fmt="none", ecolor="#333333", capsize=3
        )
        for place, (value, end) in enumerate(zip(values, ends[:, 1], strict=True)):
            text = f"{value:.0%}" if percent else amount(value)
            axis.annotate(text, (place, end), (0, 4), textcoords="offset points", ha="center")
        axis.set_title(title, loc="left")
        axis.set_xticks(range(len(panel)), list(panel), rotation=30, ha="right")
        axis.grid(visible=False, axis="x")
        axis.margins(y=0.14)
        if percent:
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return figure
