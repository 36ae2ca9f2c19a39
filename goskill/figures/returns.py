"""Returns and success with intervals, for one run or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from goskill.evaluation import compare
from goskill.evaluation.colours import PALETTE
from goskill.evaluation.results import Results
from goskill.evaluation.statistics import Estimate

_MARKS = ("o", "s", "D", "^", "v", "P", "X", "*")


def draw_returns(runs: Mapping[str, Results | Sequence[Results]]) -> Figure:
    """Mean return and success of each task and of all, a mark and a 95 % interval per name.

    Several results under one name are its training seeds, of whose common tasks the means and intervals are. The
    data's mean and best return stand beside them where the results know them.
    """
    contenders = [compare({name: results}).contenders[0] for name, results in runs.items()]
    tasks = list(dict.fromkeys(task for contender in contenders for task in contender.returns))
    rows = ["all tasks", *tasks]
    figure, (left, right) = plt.subplots(
        1,
        2,
        figsize=(9.5, 1.7 + 0.34 * len(rows) * max(1.0, 0.55 * len(runs))),
        sharey=True,
        width_ratios=[3, 2],
    )
    offsets = np.linspace(-0.28, 0.28, len(runs)) if len(runs) > 1 else [0.0]
    for index, (contender, offset) in enumerate(zip(contenders, offsets, strict=True)):
        look = {
            "color": PALETTE[index % len(PALETTE)],
            "marker": _MARKS[index % len(_MARKS)],
            "label": contender.name,
        }
        _draw_row(left, rows, {"all tasks": contender.overall_return, **contender.returns}, offset, look)
        _draw_row(right, rows, {"all tasks": contender.overall_success, **contender.success}, offset, look)
    first = next(iter(runs.values()))
    _draw_data(left, rows, first if isinstance(first, Results) else first[0])
    for axis, title in ((left, "episode return"), (right, "success at any step")):
        axis.set_title(title, loc="left")
        axis.axhline(0.5, color="#999999", linewidth=0.8)
        axis.tick_params(axis="y", length=0)
    left.set_yticks(range(len(rows)), rows)
    left.get_yticklabels()[0].set_fontweight("bold")
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set_xlim(left=min(0.0, left.get_xlim()[0]))
    right.set_xlim(-0.03, 1.03)
    right.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    # The handles come with scatter plots (the data) before error bars (the runs).
    handles = sorted(
        zip(*left.get_legend_handles_labels(), strict=True), key=lambda pair: pair[1] not in runs
    )
    figure.legend(*zip(*handles, strict=True), loc="outside lower center", ncols=min(5, len(handles)))
    return figure


def _draw_row(
    axis: Axes,
    rows: Sequence[str],
    known: Mapping[str, Estimate | None],
    offset: float,
    look: Mapping[str, str],
) -> None:
    found = {place: known.get(row) for place, row in enumerate(rows)}
    places, estimates = [], []
    for place, estimate in found.items():
        if estimate is not None:
            places.append(place)
            estimates.append(estimate)
    if not places:
        return
    values = np.array([estimate.value for estimate in estimates])
    ends = np.array([estimate.interval or (estimate.value, estimate.value) for estimate in estimates])
    axis.errorbar(
        values,
        np.array(places) + offset,
        xerr=np.abs(ends.T - values),
        linestyle="none",
        markersize=6,
        elinewidth=1.8,
        capsize=3,
        **look,  # type: ignore[arg-type]
    )


def _draw_data(axis: Axes, rows: Sequence[str], results: Results) -> None:
    known = {place: results.data[row] for place, row in enumerate(rows) if row in results.data}
    if not known:
        return
    places = list(known)
    for values, mark, label in (
        ([data.mean for data in known.values()], "|", "data, mean"),
        ([data.best for data in known.values()], "4", "data, best"),
    ):
        axis.scatter(
            values, places, marker=mark, s=110, color="#555555", linewidths=1.6, label=label, zorder=1
        )
