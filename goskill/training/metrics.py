"""Metrics: kept on the device while training runs, then written as JSON lines and for TensorBoard."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goskill.errors import InputError
from goskill.training.run import RunFolder


class DivergedError(InputError):
    """A loss or gradient stopped being a finite number."""


class MetricWindow:
    """The scalars of one objective since the last read, on the device: float32 [capacity, names].

    ``names`` come with the first row and stay; ``loss`` and ``gradient_norm`` are among them.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.names: tuple[str, ...] = ()
        self._capacity = capacity
        self._device = device
        self._rows: Tensor | None = None
        self._count = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Keep one iteration's scalars, without waiting for the device."""
        if self._rows is None:
            self.names = tuple(values)
            self._rows = torch.zeros(self._capacity, len(self.names), device=self._device)
        elif tuple(values) != self.names:
            raise InputError(
                f"metrics must stay the same in a phase: were {self.names}, came {tuple(values)}"
            )
        row = torch.stack([value.detach().to(self._device, torch.float32) for value in values.values()])
        self._rows[self._count].copy_(row)
        self._count += 1

    def read(self) -> npt.NDArray[np.float32]:
        """All rows since the last read, float32 [iterations, names]. Waits for the device."""
        if self._rows is None:
            return np.zeros((0, 0), dtype=np.float32)
        rows: npt.NDArray[np.float32] = self._rows[: self._count].cpu().numpy().copy()
        self._count = 0
        return rows

    def first_not_finite(self, rows: npt.NDArray[np.float32]) -> tuple[int, str] | None:
        """The first row in which the loss or the gradient norm is not finite, and which of them."""
        for row, values in enumerate(rows):
            for name in ("loss", "gradient_norm"):
                if not math.isfinite(values[self.names.index(name)]):
                    return row, name
        return None


class MetricLog:
    """Appends lines to ``metrics.jsonl`` and ``events.jsonl`` and scalars to TensorBoard.

    A line of metrics is one JSON object: ``step`` (iterations of the whole run), ``phase``, ``iteration`` (of
    the phase), ``<objective>/<metric>`` (means since the line before), rates. An event has ``event`` and a
    ``message`` instead of metrics.
    """

    def __init__(self, run: RunFolder, sizes: Mapping[str, int], step: int) -> None:
        """Continue files that were ``sizes`` bytes long after ``step`` iterations and drop what is beyond."""
        self._files = {}
        for name, path in (("metrics", run.metrics_file), ("events", run.events_file)):
            file = open(path, "ab")  # noqa: SIM115 (closed by close)
            if file.tell() > sizes.get(name, 0):
                file.truncate(sizes.get(name, 0))
            self._files[name] = file
        from torch.utils.tensorboard import SummaryWriter

        self._tensorboard: Any = SummaryWriter(str(run.tensorboard), purge_step=step + 1 if step else None)

    def write(self, line: Mapping[str, Any]) -> None:
        """One line of metrics."""
        self._append("metrics", line)
        for name, value in line.items():
            if name not in ("step", "phase") and isinstance(value, (int, float)):
                self._tensorboard.add_scalar(name, value, line["step"])

    def event(self, line: Mapping[str, Any]) -> None:
        """One thing that happened."""
        self._append("events", line)

    def sizes(self) -> dict[str, int]:
        """Bytes in each file now, all of them safely on disk."""
        for file in self._files.values():
            os.fsync(file.fileno())
        return {name: file.tell() for name, file in self._files.items()}

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._tensorboard.close()

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        self._files[name].write((json.dumps(line) + "\n").encode())
        self._files[name].flush()


def means(objective: str, names: Sequence[str], rows: npt.NDArray[np.float32]) -> dict[str, float]:
    """Mean of every metric over the rows, named ``objective/metric``; computed in float64."""
    columns = rows.astype(np.float64).mean(axis=0)
    return {f"{objective}/{name}": float(value) for name, value in zip(names, columns, strict=True)}
