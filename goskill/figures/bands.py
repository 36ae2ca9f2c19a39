"""Curves of single runs against the band that other runs span."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from goskill.evaluation.colours import PALETTE

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """One metric of several runs at ``iterations`` [n]: what the band is made of [runs, n], and curves [n] by name.

    ``outer`` are lower and upper ends [n] of a second, fainter band. The first of the curves is drawn dashed.
    """

    iterations: Float64Array
    runs: Float64Array
    outer: tuple[Float64Array, Float64Array]
    curves: Mapping[str, Float64Array]


def draw_bands(panels: Mapping[str, Band], band: str, outer: str) -> Figure:
    """A column per panel: values above, and below how far each is from the mean of the band's runs.

    ``band`` and ``outer`` say in the legend what the two bands are.
    """
    figure, axes = plt.subplots(
        2, len(panels), figsize=(4 * len(panels), 5.6), sharex="col", squeeze=False, height_ratios=(2, 3)
    )
    for (above, below), (title, panel) in zip(axes.T, panels.items(), strict=True):
        _draw(above, panel, band, outer)
        _draw(below, _relative(panel), band, outer)
        above.set_title(title, loc="left")
        below.set_xlabel("iteration of the phase")
    axes[0][0].set_ylabel("loss")
    axes[1][0].set_ylabel("% from the mean of the band's runs")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8.5)
    return figure


def _relative(band: Band) -> Band:
    middle = band.runs.mean(axis=0)
    runs, low, high, *curves = (
        100 * (values / middle - 1) for values in (band.runs, *band.outer, *band.curves.values())
    )
    return Band(band.iterations, runs, (low, high), dict(zip(band.curves, curves, strict=True)))


def _draw(axis: Axes, panel: Band, band: str, outer: str) -> None:
    at = panel.iterations
    axis.fill_between(at, *panel.outer, color="#ececec", linewidth=0, label=outer)
    axis.fill_between(
        at, panel.runs.min(axis=0), panel.runs.max(axis=0), color="#c4c4c4", linewidth=0, label=band
    )
    for index, (name, curve) in enumerate(panel.curves.items()):
        colour, line = ("black", "--") if index == 0 else (PALETTE[(index - 1) % len(PALETTE)], "-")
        axis.plot(at, curve, line, color=colour, linewidth=1, label=name)
    axis.margins(x=0.01)
