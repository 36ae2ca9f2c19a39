"""Learning curves from a run's ``metrics.jsonl``."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from goskill.errors import InputError
from goskill.evaluation.colours import PALETTE
from goskill.files import parse_json, read_text

_log = logging.getLogger(__name__)
Float64Array = npt.NDArray[np.float64]
# Of interest while training, not afterwards.
_HIDDEN = {"learning_rate", "gradient_norm"}


@dataclass(frozen=True)
class Curve:
    """One metric over the steps of a run."""

    objective: str
    metric: str
    steps: Float64Array
    values: Float64Array


@dataclass(frozen=True)
class Metrics:
    """The curves of a run, and where its phases begin and end."""

    curves: Sequence[Curve]
    phases: Sequence[tuple[str, float, float]]


def read_metrics(path: str | Path) -> Metrics:
    """Read a run's metrics; an unfinished last line and vectors are left out. Raises InputError for anything else."""
    lines = _lines(Path(path))
    found: dict[str, tuple[list[float], list[float]]] = {}
    bounds: dict[str, list[float]] = {}
    last = 0.0
    for line in lines:
        step, phase = float(line["step"]), str(line.get("phase", ""))
        bounds.setdefault(phase, [last, step])[1] = step
        last = step
        for name, value in line.items():
            metric = name.partition("/")[2]
            if not metric or metric in _HIDDEN or not _is_number(value):
                continue
            steps, values = found.setdefault(name, ([], []))
            steps.append(step)
            values.append(float(value))
    curves = [
        Curve(objective, metric, np.array(steps), np.array(values))
        for name, (steps, values) in found.items()
        for objective, metric in [name.split("/", 1)]
    ]
    if not curves:
        raise InputError(f"{path}: expected lines with 'step' and 'objective/metric' numbers, found none")
    return Metrics(curves, [(phase, low, high) for phase, (low, high) in bounds.items()])


def draw_learning_curves(metrics: Metrics) -> Figure:
    """One panel per metric, one row per objective: every logged mean faintly, its moving average on top."""
    objectives = list(dict.fromkeys(curve.objective for curve in metrics.curves))
    rows = [[curve for curve in metrics.curves if curve.objective == name] for name in objectives]
    columns = max(len(row) for row in rows)
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(max(3.6 * columns, 6.4), 2.7 * len(rows) + 0.3), squeeze=False
    )
    for index, row in enumerate(rows):
        for axis, curve in zip(axes[index], row, strict=False):
            _draw_curve(axis, curve, metrics.phases, PALETTE[index % len(PALETTE)])
        for axis in axes[index][len(row) :]:
            axis.remove()
    figure.suptitle("Learning curves", x=0.01, ha="left", fontweight="bold")
    return figure


def moving_average(values: Float64Array, window: int) -> Float64Array:
    """The mean over ``window`` values around each one, over as many as there are near the ends."""
    half = window // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return np.asarray((sums[high] - sums[low]) / (high - low))


def _draw_curve(axis: Axes, curve: Curve, phases: Sequence[tuple[str, float, float]], colour: str) -> None:
    inside = [p for p in phases if curve.steps[0] <= p[2] and curve.steps[-1] > p[1]]
    for index, (phase, low, high) in enumerate(inside):
        if index % 2:
            axis.axvspan(low, high, color="#f3f3f3", zorder=0)
        part = (curve.steps > low) & (curve.steps <= high)
        steps, values = curve.steps[part], curve.values[part]
        axis.plot(steps, values, color=colour, alpha=0.3, linewidth=1)
        smooth = moving_average(values, max(3, len(values) // 25))
        axis.plot(steps, smooth, color=colour, linewidth=2)
        middle = (max(low, curve.steps[0]) + high) / 2
        axis.annotate(
            phase, (middle, 1.0), (0, -3), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", va="top", fontsize=8.5, color="#666666",
        )  # fmt: skip
    positive = curve.values[curve.values > 0]
    if len(positive) == len(curve.values) and positive.max() > 30 * positive.min():
        axis.set_yscale("log")
    axis.margins(x=0.02, y=0.2)
    if axis.get_yscale() == "linear" and curve.values.min() >= 0 < curve.values.max():
        # Room above the curve for the names of the phases.
        axis.set_ylim(0, 1.2 * curve.values.max())
    axis.set_title(f"{curve.objective}: {curve.metric.replace('_', ' ')}", loc="left")
    axis.set_xlabel("training step")


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        texts = read_text(path).splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: expected the metrics of a run, found nothing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected the metrics of a run: {error}") from None
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = parse_json(text)
        except ValueError:
            if number == len(texts):
                _log.warning("%s: line %d is cut short and left out", path, number)
                break
            raise InputError(f"{path}: line {number}: expected a JSON object, got {text[:60]!r}") from None
        if not isinstance(line, dict) or not _is_number(line.get("step")):
            raise InputError(
                f"{path}: line {number}: expected an object with a number 'step', got {text[:60]!r}"
            )
        wrong = next((name for name, value in line.items() if "/" in name and not _is_metric(value)), None)
        if wrong is not None:
            raise InputError(
                f"{path}: line {number}: expected {wrong!r} to be a number, got {line[wrong]!r:.60}"
            )
        lines.append(line)
    return lines


def _is_metric(value: Any) -> bool:
    return all(map(_is_value, value)) if isinstance(value, list) else _is_value(value)


def _is_value(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    try:
        return _is_value(value) and math.isfinite(value)
    except OverflowError:
        return False
