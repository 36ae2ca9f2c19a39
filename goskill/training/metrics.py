"""Metrics: kept on the device while training runs, and looked at now and then."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import goskill.training.distributed as distributed
from goskill.errors import InputError

Rows = npt.NDArray[np.float32]
SPIKE = 10.0  # standard deviations above the mean of the read before
SMALLEST_DEVIATION = 0.05  # of the mean: quieter losses are not watched more closely


class DivergedError(InputError):
    """A loss or gradient stopped being a finite number."""


class MetricWindow:
    """The metrics of one objective since the last read, on the device: float32 [capacity, names].

    ``names`` are given before the first row and stay; ``loss`` and ``gradient_norm`` are among them. The entries of
    a metric that is a vector have names such as ``usage/3``.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.names: tuple[str, ...] = ()
        self._capacity = capacity
        self._device = device
        self._rows = torch.zeros(0)
        self._count = 0

    def name(self, names: tuple[str, ...]) -> None:
        """Say what the rows hold. Raises InputError if it is not what they held before."""
        if self.names and names != self.names:
            raise InputError(f"metrics must stay the same in a phase: were {self.names}, came {names}")
        self.names = names

    def add(self, row: Tensor) -> None:
        """Keep one iteration's metrics, float32 [names], without waiting for the device."""
        if not len(self._rows):
            self._rows = torch.zeros(self._capacity, len(self.names), device=self._device)
        self._rows[self._count].copy_(row)
        self._count += 1

    def read(self) -> Rows:
        """All rows since the last read, float32 [iterations, names]: means over the ranks.

        Waits for the device and the other ranks.
        """
        rows = distributed.average(self._rows[: self._count])
        self._count = 0
        values: Rows = rows.cpu().numpy().copy()
        return values


class Watch:
    """Notices loss spikes and dead codes from one read to the next."""

    def __init__(self) -> None:
        self._usual: dict[str, list[float]] = {}  # mean and deviation of the loss in the read before
        self._dead: dict[str, list[int]] = {}
        self._waiting: dict[str, list[list[float]]] = {}  # loss and usage of reads that a stop cut short

    def look(
        self, objective: str, names: Sequence[str], rows: Rows, *, cut_short: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Events in what was read, each with ``event``, ``message`` and ``ago``: how many rows before the newest.

        A loss is a spike if it lies ``SPIKE`` standard deviations above the mean of the read before. A metric
        called ``usage`` is the share of each code in a batch; a code is dead that nothing since the last read chose.
        A read that was ``cut_short`` is looked at together with the next, which a resumed run makes.
        """
        columns = [names.index("loss"), *(i for i, name in enumerate(names) if name.startswith("usage/"))]
        watched = [*self._waiting.pop(objective, []), *rows[:, columns].tolist()]
        if cut_short:
            self._waiting[objective] = watched
            return
        values = np.array(watched, dtype=np.float64)
        yield from self._spikes(objective, values[:, 0])
        yield from self._dead_codes(objective, values[:, 1:])

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides which events come next, as plain JSON."""
        return {"usual": self._usual, "dead": self._dead, "waiting": self._waiting}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as after ``state_dict``; with an empty ``state``, which older checkpoints give, as if nothing was."""
        self._usual, self._dead, self._waiting = (
            dict(state.get(name, {})) for name in ("usual", "dead", "waiting")
        )

    def _spikes(self, objective: str, losses: npt.NDArray[np.float64]) -> Iterator[dict[str, Any]]:
        if objective in self._usual:
            mean, deviation = self._usual[objective]
            row = int(losses.argmax())
            if losses[row] > mean + SPIKE * max(deviation, SMALLEST_DEVIATION * abs(mean)):
                message = f"loss of objective {objective!r} rose to {losses[row]:.4g} from {mean:.4g}"
                yield {"ago": len(losses) - 1 - row, "event": "loss spike", "message": message}
        self._usual[objective] = [float(losses.mean()), float(losses.std())]

    def _dead_codes(self, objective: str, usage: npt.NDArray[np.float64]) -> Iterator[dict[str, Any]]:
        dead = np.flatnonzero((usage == 0).all(axis=0)).tolist()
        if dead != self._dead.get(objective, []):
            which = ", ".join(map(str, dead)) if dead else "none"
            message = (
                f"codes of objective {objective!r} that nothing chose in {len(usage)} iterations: {which}"
            )
            yield {"ago": 0, "event": "dead codes", "message": message}
        self._dead[objective] = dead


class MeanMetrics:
    """Means of numbers that are given now and then, such as what environments report between iterations."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Take these numbers into account; which ones there are may differ from call to call."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(float(value))

    def read(self) -> dict[str, float]:
        """The means since the last read, named ``environment/NAME``."""
        found = {f"environment/{name}": sum(values) / len(values) for name, values in self._values.items()}
        self._values = {}
        return found


def first_not_finite(names: Sequence[str], rows: Rows) -> tuple[int, str] | None:
    """The first row in which the loss or the gradient norm is not finite, and which of them."""
    for row, values in enumerate(rows):
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(values[names.index(name)]):
                return row, name
    return None


def flat_names(metrics: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The names of all entries of ``metrics``, each a scalar or a vector, in their order."""
    names: list[str] = []
    for name, value in metrics.items():
        names += [f"{name}/{index}" for index in range(len(value))] if value.ndim else [name]
    return tuple(names)


def means(objective: str, names: Sequence[str], rows: Rows) -> dict[str, float | list[float]]:
    """Mean of every metric over the rows, named ``objective/metric``; computed in float64. A vector's is a list."""
    result: dict[str, Any] = {}
    for name, value in zip(names, rows.astype(np.float64).mean(axis=0).tolist(), strict=True):
        metric, _, entry = name.partition("/")
        if entry:
            result.setdefault(f"{objective}/{metric}", []).append(value)
        else:
            result[f"{objective}/{metric}"] = value
    return result
