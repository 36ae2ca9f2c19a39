"""What a person sees while a study runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from goskill.experiments.studies.plan import Job
from goskill.files import open_regular, parse_json

SECONDS_BETWEEN_LOOKS = 2.0


class StudyProgress:
    """Running and remaining runs on a terminal, a line for each that ends elsewhere."""

    def __init__(self, console: Console, total: int, finished: int) -> None:
        self._console = console
        self._total = total
        self._finished = finished
        self._before = finished
        self._began = time.monotonic()
        self._looked = 0.0
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        )

    def __enter__(self) -> StudyProgress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def done(self, job: Job, how: str) -> None:
        """A run is finished and has its rows."""
        self._finished += 1
        self._say(f"{job.name}: {how}")

    def failed(self, job: Job, why: str) -> None:
        """A run ended otherwise."""
        self._total -= 1
        self._say(f"failed: {job.name}: {why}")

    def show(self, running: Sequence[tuple[Job, Path]], left: int) -> None:
        """Say how far the runs are, now and then."""
        now = time.monotonic()
        if self._live is None or (running and now - self._looked < SECONDS_BETWEEN_LOOKS):
            return
        self._looked = now
        shares = [share_done(job, run) for job, run in running]
        remaining = self._remaining(left + len(running), sum(shares))
        lines = [f"{job.name}  {share:.0%}" for (job, _), share in zip(running, shares, strict=True)]
        self._live.update(
            Text("\n".join([f"{self._finished} of {self._total} runs finished{remaining}", *lines])),
            refresh=True,
        )

    def _say(self, text: str) -> None:
        status = (
            f"[{self._finished}/{self._total}] {text}{self._remaining(self._total - self._finished, 0.0)}"
        )
        self._console.print(status, highlight=False, markup=False, soft_wrap=True)

    def _remaining(self, runs: int, shares: float) -> str:
        done = self._finished - self._before + shares
        if done < 0.1:
            return ""
        minutes = (time.monotonic() - self._began) / done * max(runs - shares, 0.0) / 60
        return f", about {minutes:.0f} min left" if minutes >= 1 else ""


def share_done(job: Job, run: Path) -> float:
    """How much of its training a run has logged, in [0, 1]."""
    try:
        with open_regular(run / "metrics.jsonl") as file:
            file.seek(max(file.seek(0, 2) - (1 << 16), 0))
            last = file.read().splitlines()[-1]
        return min(float(parse_json(last)["step"]) / max(job.iterations, 1), 1.0)
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return 0.0
