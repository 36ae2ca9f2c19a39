"""One run of a study in a process of its own: ``python -m goskill.experiments.studies.worker JOB RUN THREADS``.

It trains (or goes on), evaluates or fine-tunes, and ends. Standard input is a lifeline: when it closes, because the
study stops or died, the process asks itself to end, which leaves a checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from goskill.errors import InputError


def work(job_file: Path, run: Path, threads: int) -> None:
    """Train the job into the folder ``run`` as far as it is not, and evaluate it or fine-tune it."""
    from goskill.experiments import finetuning, pipeline
    from goskill.experiments.studies.finished import finetuned_run
    from goskill.experiments.studies.plan import Job

    job = Job.load(job_file)
    workers = 0 if threads == 1 else threads
    pipeline.train(
        job.store,
        run,
        method=job.method,
        preset=job.preset,
        ablations=job.ablations,
        overrides=[*job.overrides, f"training.threads={threads}"],
        resume=(run / "settings.json").exists(),
    )
    if job.finetuning is None:
        # Seeds of evaluation go with those of training: runs are independent, contenders meet the same episodes.
        pipeline.evaluate(run, seed=job.seed, workers=workers)
        return
    tuned = finetuned_run(run)
    if (tuned / "settings.json").exists():
        finetuning.resume(tuned, job.finetuning.store, path=run, workers=workers)
    else:
        finetuning.finetune(run, job.finetuning.store, tuned, preset=job.finetuning.preset, workers=workers)


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
