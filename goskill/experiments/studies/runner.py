"""Runs what is missing of a study."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from goskill.errors import InputError
from goskill.evaluation.rows import Row, append_rows, read_rows
from goskill.evaluation.study import Study
from goskill.experiments.studies import finished, plan, processes, provenance
from goskill.experiments.studies.plan import Data, Job
from goskill.experiments.studies.processes import Place, Process
from goskill.experiments.studies.study_progress import StudyProgress
from goskill.files import open_to_append, write_atomically


@dataclass(frozen=True)
class StudyFolder:
    """Names the parts of a study's folder."""

    path: Path

    @property
    def study(self) -> Path:
        return self.path / "study.toml"

    @property
    def rows(self) -> Path:
        return self.path / "rows.jsonl"

    def data(self, name: str) -> Path:
        return self.path / "data" / name

    def run(self, job: Job) -> Path:
        return self.path / "runs" / job.name

    def job(self, job: Job) -> Path:
        run = self.run(job)
        return run.with_name(f"{run.name}.json")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against other runners. Raises InputError if one is at work."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open_to_append(self.path / ".lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{self.path}: another process runs this study") from None
            yield


class Runner:
    """A study in a folder: what is done, what is running, what is left."""

    def __init__(
        self,
        study: Study,
        folder: StudyFolder,
        data: Mapping[str, Data],
        worker: Sequence[str] = processes.WORKER,
    ) -> None:
        """Raises InputError for a study that does not fit the data, or rows and runs that do not fit the study."""
        self.study = study
        self.folder = folder
        self.data = data
        self.worker = worker
        self.jobs = plan.jobs_of(study, data)
        self.rows = read_rows(folder.rows)
        plan.check_rows(self.rows, self.jobs, folder.rows)
        for job in self.jobs:
            self._check_started(job)
        self.failed: dict[str, str] = {}
        self._origin = {"commit": provenance.commit(), "machine": provenance.machine()}
        self._waiting = [job for job in self.jobs if not self._is_done(job)]
        self._timed = [
            job for job in self.jobs if self._wants_seconds(job) and not self._is_done(_timed(job))
        ]

    def run(self, where: Sequence[Place], progress: StudyProgress) -> None:
        """Run everything that is missing. Interrupted, it ends the runs with checkpoints first."""
        write_atomically(self.folder.study, self.study.text)
        free = list(where)
        running: list[Process] = []
        try:
            while True:
                for process in [one for one in running if one.status() is not None]:
                    running.remove(process)
                    free.append(process.place)
                    self._ended(process, progress)
                self._ready_for_seconds(running, progress)
                while free and self._waiting:
                    running += self._start(self._waiting.pop(0), free, progress)
                progress.show([(one.job, one.run) for one in running], self.left())
                if not running and not self.left():
                    break
                time.sleep(0.2)
        finally:
            processes.end_all(running)

    def left(self) -> int:
        """Runs that are neither finished, failed nor running."""
        return len(self._waiting) + len(self._timed)

    def _start(self, job: Job, free: list[Place], progress: StudyProgress) -> list[Process]:
        run = self.folder.run(job)
        if finished.is_finished(run, job):
            self._keep(job)
            progress.done(job, "was finished")
            return []
        job.save(self.folder.job(job))
        return [Process(job, run, free.pop(), self.worker)]

    def _ended(self, process: Process, progress: StudyProgress) -> None:
        job, status = process.job, process.status()
        if status == 0:
            try:
                self._keep(job)
            except InputError as error:
                self.failed[job.name] = str(error)
            else:
                progress.done(job, f"{time.monotonic() - process.started:.0f} s")
                return
        elif status is not None and status < 0:
            self.failed[job.name] = f"killed by signal {-status}"
        else:
            self.failed[job.name] = process.last_words()
        progress.failed(job, f"{self.failed[job.name]} (see {process.log})")

    def _keep(self, job: Job) -> None:
        sweep = self.study.contender(job.contender).sweep
        rows = finished.rows_of(self.folder.run(job), job, self.data[job.data], sweep, self._origin)
        self._append(rows)

    def _append(self, rows: Sequence[Row]) -> None:
        self.rows += append_rows(self.folder.rows, rows)

    def _ready_for_seconds(self, running: Sequence[Process], progress: StudyProgress) -> None:
        """Turn jobs of equal seconds whose lengths can be told by now into jobs that wait, or into rows."""
        unfinished = [*self._waiting, *(process.job for process in running)]
        busy = {(one.contender, one.data) for one in unfinished if one.budget == "iterations"}
        for job in list(self._timed):
            if (job.contender, job.data) in busy or (self.study.reference, job.data) in busy:
                continue
            self._timed.remove(job)
            own, reference = plan.comparable_seconds(self.rows, job.contender, self.study.reference, job.data)
            if not own or job.name in self.failed:
                self.failed[_timed(job).name] = (
                    "the runs that it takes its length from failed, or are of different versions, machines or devices"
                )
                progress.failed(_timed(job), self.failed[_timed(job).name])
                continue
            scaled = self._started_or(plan.with_seconds(job, reference, own))
            if not self.folder.run(scaled).exists() and plan.same_seconds(job, scaled):
                self._append([{**row, "budget": "seconds"} for row in self.rows if _is_of(row, job)])
                progress.done(scaled, "the run of equal iterations is near enough")
            else:
                # Before the rest, so that the main comparison is whole first.
                self._waiting.insert(0, scaled)

    def _started_or(self, scaled: Job) -> Job:
        """The job as it was started before, whose length stays although medians may have moved."""
        file = self.folder.job(scaled)
        return Job.load(file) if self.folder.run(scaled).exists() else scaled

    def _check_started(self, job: Job) -> None:
        for one in (job, _timed(job)):
            if self.folder.run(one).exists():
                plan.check_same(
                    vars(Job.load(self.folder.job(one))), one, f"{self.folder.run(one)}: its results"
                )

    def _wants_seconds(self, job: Job) -> bool:
        if job.contender == self.study.reference:
            return any("seconds" in one.budgets for one in self.study.contenders)
        return "seconds" in self.study.contender(job.contender).budgets

    def _is_done(self, job: Job) -> bool:
        rows = [row for row in self.rows if _is_of(row, job)]
        # A run of equal seconds is as long as it was made.
        last = (
            job.last_row
            if job.budget == "iterations"
            else max((row["iterations"] for row in rows), default=0)
        )
        return {row["task"] for row in rows if row["iterations"] == last} >= set(job.tasks)


def _timed(job: Job) -> Job:
    return replace(job, budget="seconds")


def _is_of(row: Row, job: Job) -> bool:
    names = ("contender", "data", "seed", "budget")
    return all(row[name] == getattr(job, name) for name in names)
