"""One run of a study in a process of its own: ``python -m goskill.studies.worker JOB RUN THREADS``.

It trains (or goes on), evaluates, and ends. Standard input is a lifeline: when it closes, because the study stops or
died, the process asks itself to end, which leaves a checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from goskill.errors import InputError


def work(job_file: Path, run: Path, threads: int) -> None:
    """Train the job into the folder ``run`` as far as it is not, and evaluate it."""
    from goskill import pipeline
    from goskill.studies.plan import Job

    job = Job.load(job_file)
    pipeline.train(
        job.store,
        run,
        method=job.method,
        preset=job.preset,
        ablations=job.ablations,
        overrides=[*job.overrides, f"training.threads={threads}"],
        resume=(run / "settings.json").exists(),
    )
    # Seeds of evaluation go with those of training, so that runs are independent and contenders meet the same episodes.
    pipeline.evaluate(run, seed=job.seed, workers=0 if threads == 1 else threads)


def _end_with_owner() -> None:
    # Not sys.stdin, whose lock would be held when the interpreter ends.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    threading.Thread(target=_end_with_owner, daemon=True).start()
    job, run, threads = sys.argv[1:]
    try:
        work(Path(job), Path(run), int(threads))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
