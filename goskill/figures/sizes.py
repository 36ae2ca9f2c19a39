"""Time against size from benchmark rows, with the time that moving the bytes alone would take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from goskill.evaluation.colours import PALETTE, Colour, skill_colour
from goskill.figures.style import save, style

COLUMNS = 3

Row = dict[str, Any]


def draw_sizes(rows: Sequence[Row], folder: Path, name: str) -> list[Path]:
    """Draw a panel per series of benchmark rows into ``folder`` as PNG and SVG.

    A row belongs to a plot if its facts hold ``series``, ``size`` and ``axis``, what the size counts; a line is
    what has one ``label``, its band the quartiles; ``byte_floor`` seconds are drawn dashed. Series of one size are
    left out. Returns the files, none if nothing is left.
    """
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if "series" in row["facts"]:
            panels.setdefault(row["facts"]["series"], []).append(row)
    panels = {series: panel for series, panel in panels.items() if len(_sizes(panel)) > 1}
    if not panels:
        return []
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    with style():
        figure, axes = plt.subplots(lines, columns, figsize=(4.2 * columns, 3.4 * lines), squeeze=False)
        looks = _looks(rows)
        for axis, (series, panel) in zip(axes.flat, panels.items(), strict=False):
            _draw_panel(axis, panel, looks)
            axis.set_title(series, loc="left", fontsize=9)
        for axis in axes.flat[len(panels) :]:
            axis.remove()
        handles = {
            label: handle
            for axis in axes.flat
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=min(4, len(handles))
        )
        return save(figure, folder, name)


def _draw_panel(axis: Axes, panel: Sequence[Row], looks: dict[str, tuple[Colour, str]]) -> None:
    for label, (colour, marker) in looks.items():
        line = sorted((row for row in panel if row["facts"]["label"] == label), key=_size)
        if line:
            seconds = [row["seconds"] for row in line]
            sizes = [_size(row) for row in line]
            axis.plot(sizes, [one["median"] for one in seconds], color=colour, marker=marker, label=label)
            low, high = [one["q1"] for one in seconds], [one["q3"] for one in seconds]
            axis.fill_between(sizes, low, high, color=colour, alpha=0.18, linewidth=0)
    floors = {_size(row): row["facts"]["byte_floor"] for row in panel if "byte_floor" in row["facts"]}
    if floors:
        sizes = sorted(floors)
        axis.plot(
            sizes, [floors[size] for size in sizes], color="#777777", linestyle="--", label="bytes alone"
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel(panel[0]["facts"]["axis"])
    axis.set_ylabel("seconds")


def _looks(rows: Sequence[Row]) -> dict[str, tuple[Colour, str]]:
    """Colours and markers of all lines, the same in every panel; what is no peer comes first."""
    facts = sorted((row["facts"] for row in rows if "series" in row["facts"]), key=lambda f: "peer" in f)
    labels = dict.fromkeys(fact["label"] for fact in facts)
    return {
        label: (skill_colour(index), "os^"[index // len(PALETTE) % 3]) for index, label in enumerate(labels)
    }


def _sizes(panel: Sequence[Row]) -> set[int]:
    return {_size(row) for row in panel}


def _size(row: Row) -> int:
    size: int = row["facts"]["size"]
    return size
