"""What a person sees while a run trains."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from goskill.terminal import Terminal

SECONDS_BETWEEN_LINES = 30.0


class TrainingProgress:
    """A bar per phase on a terminal, an occasional line elsewhere, nothing when not ``shown``."""

    def __init__(self, shown: bool) -> None:
        self._console = Terminal(stderr=True)
        self._shown = shown
        self._bar: Progress | None = None
        if shown and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
        self._name = ""
        self._total = 0
        self._last_line = -SECONDS_BETWEEN_LINES

    def __enter__(self) -> TrainingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """One line that stays. A terminal that has gone does not end the run."""
        if self._shown:
            with contextlib.suppress(OSError):
                self._console.print(text, highlight=False, soft_wrap=True)

    def begin(self, name: str, total: int, completed: int) -> None:
        """A phase of ``total`` iterations begins or goes on after ``completed`` of them."""
        self._name, self._total = name, total
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.stop_task(task)
            self._task = self._bar.add_task(name, total=max(total, 1), completed=completed, status="")

    def advance(self) -> None:
        """One iteration is queued on the device."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def update(self, iteration: int, losses: Mapping[str, float], steps_per_second: float) -> None:
        """Metrics were read after ``iteration``."""
        status = " ".join(f"{name} {loss:.4g}" for name, loss in losses.items())
        status = f"{status}  {steps_per_second:.3g} steps/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=iteration, status=status)
        elif self._shown and (
            iteration == self._total or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES
        ):
            self._last_line = time.monotonic()
            left = (self._total - iteration) / steps_per_second
            self.say(f"{self._name} {iteration}/{self._total}  {status}  {_duration(left)} left")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
