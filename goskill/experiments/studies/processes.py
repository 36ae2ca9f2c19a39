"""Jobs in processes, several at a time."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from goskill.errors import InputError
from goskill.experiments.studies.plan import Job
from goskill.files import open_to_append, read_bytes

WORKER = (sys.executable, "-m", "goskill.experiments.studies.worker")
PATIENCE = 60.0
"""Seconds that a process has to leave a checkpoint when it is to end."""


@dataclass(frozen=True)
class Place:
    """Where one run at a time goes: so many threads, and a GPU unless it is None."""

    threads: int
    gpu: str | None

    def environment(self) -> dict[str, str]:
        """The environment of a process there."""
        threads = {f"{library}_NUM_THREADS": str(self.threads) for library in ("OMP", "MKL", "OPENBLAS")}
        gpu = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        return {**os.environ, **threads, **gpu}


def places(processes: int | None) -> list[Place]:
    """One place per GPU, else one per core; or ``processes`` of them, which share what there is.

    Raises InputError for a number that is not positive.
    """
    if processes is not None and processes < 1:
        raise InputError(f"--processes: expected at least 1, got {processes}")
    cores, gpus = len(os.sched_getaffinity(0)), _gpus()
    count = processes or len(gpus) or cores
    threads = max(1, cores // count)
    return [Place(threads, gpus[index % len(gpus)] if gpus else None) for index in range(count)]


def _gpus() -> list[str]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return visible.split(",")[:count] if visible else [str(index) for index in range(count)]


class Process:
    """A job that runs. What it prints goes to a file beside its run folder."""

    def __init__(self, job: Job, run: Path, place: Place, worker: Sequence[str]) -> None:
        self.job = job
        self.place = place
        self.run = run
        self.log = run.with_name(f"{run.name}.log")
        self.started = time.monotonic()
        with open_to_append(self.log) as log:
            # A session of its own: Ctrl-C reaches the study only, which ends its processes with care.
            self._process = subprocess.Popen(
                [*worker, str(run.with_name(f"{run.name}.json")), str(run), str(place.threads)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=place.environment(),
                start_new_session=True,
            )

    def status(self) -> int | None:
        """The exit status, None while it runs."""
        return self._process.poll()

    def ask_to_end(self) -> None:
        """Let it leave a checkpoint and end."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Wait for its end, and make one after ``seconds`` or when interrupted."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def last_words(self) -> str:
        """The last line that it printed."""
        lines = [line for line in read_bytes(self.log).decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else "it printed nothing"


def end_all(running: Sequence[Process]) -> None:
    """End processes so that their runs can be resumed; the impatient may interrupt it."""
    for process in running:
        process.ask_to_end()
    deadline = time.monotonic() + PATIENCE
    try:
        for process in running:
            process.wait(max(deadline - time.monotonic(), 0.0))
    finally:
        for process in running:
            process.wait(0.0)
