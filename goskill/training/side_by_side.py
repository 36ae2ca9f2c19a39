"""Objectives that share no network run side by side on a GPU: one graph, a stream for each."""

from __future__ import annotations

from collections.abc import Sequence

from goskill.training.devices import Execution
from goskill.training.graphs import GraphedIteration
from goskill.training.step import ObjectiveStep


class Iterations:
    """Runs one iteration of all objectives of a phase: side by side in one graph where they may, else in turn."""

    def __init__(self, running: Sequence[ObjectiveStep], execution: Execution, *, independent: bool) -> None:
        self._running = running
        self._together: GraphedIteration | None = None
        if execution.graphs and independent and len(running) > 1:
            self._together = GraphedIteration(execution.device, len(running))

    def run(self, left: int) -> None:
        """One iteration, the first of ``left`` in the phase, queued on the device."""
        if self._together is None:
            for step in self._running:
                step.run(left)
            return
        batches = [step.begin(left) for step in self._running]
        rows = self._together.run([step.minimize for step in self._running], batches)
        for step, row in zip(self._running, rows, strict=True):
            step.end(row)
