"""From a finished run's folder to rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from goskill.errors import InputError
from goskill.evaluation import Results
from goskill.studies.plan import Data, Job
from goskill.studies.rows import Row


def rows_of(
    run: Path, job: Job, data: Data, sweep: Mapping[str, Any], origin: Mapping[str, Any]
) -> list[Row]:
    """A row per task of an evaluated run.

    ``sweep`` is where its contender stands in sweeps, ``origin`` its commit and machine. Raises InputError for a
    folder without whole results and metrics.
    """
    results = Results.load(run / "results.json")
    common = {
        "contender": job.contender,
        "method": job.method,
        "ablations": list(job.ablations),
        "sweep": dict(sweep),
        "data": job.data,
        "scripted": data.scripted,
        "fingerprint": job.fingerprint,
        "seed": job.seed,
        "budget": job.budget,
        "settings": job.settings,
        "schedule": dict(job.schedule),
        "iterations": job.iterations,
        "seconds": training_seconds(run / "metrics.jsonl"),
        "versions": dict(results.versions),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **origin,
    }
    return [{**common, "task": task, **_numbers(results, task)} for task in results.tasks]


def training_seconds(metrics: Path) -> dict[str, float]:
    """What training took, by the clock (``wall``) and on the processor (``cpu``), over all its resumptions."""
    total = {"wall": 0.0, "cpu": 0.0}
    try:
        for text in metrics.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            total["wall"] += line["seconds"]
            total["cpu"] += line["cpu_seconds"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{metrics}: expected the metrics of a finished run: {error!r}") from None
    return {name: round(seconds, 3) for name, seconds in total.items()}


def _numbers(results: Results, task: str) -> dict[str, float | int]:
    summary = results.summary(task)
    return {
        "return_mean": summary.returns.value,
        "success": summary.success.value,
        "success_last": summary.success_last.value,
        "episodes": summary.episodes,
    }
