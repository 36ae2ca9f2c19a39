"""From a finished run's folder to rows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from goskill.errors import InputError
from goskill.evaluation import Results
from goskill.evaluation.points import read_points
from goskill.evaluation.rows import Row
from goskill.evaluation.skills import skills_of
from goskill.experiments.studies.plan import Data, Job
from goskill.files import parse_json, read_text


def finetuned_run(run: Path) -> Path:
    """Where the fine-tuned run of a run of a study is."""
    return run.with_name(f"{run.name}-finetuned")


def is_finished(run: Path, job: Job) -> bool:
    """Whether a run has everything that its rows are made of."""
    if job.finetuning is None:
        return (run / "results.json").exists()
    points = read_points(finetuned_run(run) / "evaluations.jsonl")
    return any(point["iteration"] == job.last_row for point in points)


def rows_of(
    run: Path, job: Job, data: Data, sweep: Mapping[str, Any], origin: Mapping[str, Any]
) -> list[Row]:
    """A row per task of a finished run, or per task and evaluation of a fine-tuned one.

    ``sweep`` is where its contender stands in sweeps, ``origin`` its commit and machine. Raises InputError for a
    folder without whole results and metrics.
    """
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
        "finetuned": job.finetuning is not None,
        "seconds": training_seconds(run / "metrics.jsonl"),
        "device": _device(run / "metrics.jsonl"),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **origin,
    }
    if job.finetuning is not None:
        points = read_points(finetuned_run(run) / "evaluations.jsonl")
        return [
            {
                **common,
                "versions": point.get("versions", {}),
                "iterations": point["iteration"],
                "task": task,
                **_numbers(point["tasks"][task]),
            }
            for point in points
            for task in point["tasks"]
        ]
    results = Results.load(run / "results.json")
    common |= {"versions": dict(results.versions), "iterations": job.iterations}
    skills = skills_of(run)
    rows = [{**common, "task": task, **_numbers(results.summary(task).to_json())} for task in results.tasks]
    for row in rows if skills else []:
        row["skills"] = {where: list(usage.get(row["task"], ())) for where, usage in skills.items()}
    return rows


def _numbers(summary: Mapping[str, Any]) -> dict[str, float | int | None]:
    return {name: summary[name] for name in ("return_mean", "success", "success_last", "episodes")}


def training_seconds(metrics: Path) -> dict[str, float]:
    """What training took, by the clock (``wall``) and on the processor (``cpu``), over all its resumptions."""
    lines = _metrics(metrics)
    return {
        name: round(sum(line[key] for line in lines), 3)
        for name, key in (("wall", "seconds"), ("cpu", "cpu_seconds"))
    }


def _metrics(file: Path) -> list[dict[str, Any]]:
    try:
        lines = [parse_json(text) for text in read_text(file).splitlines()]
        if not all(
            isinstance(line[name], int | float) for line in lines for name in ("seconds", "cpu_seconds")
        ):
            raise ValueError("seconds that are no numbers")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: expected the metrics of a finished run: {error!r}") from None
    return lines


def _device(metrics: Path) -> str:
    return str(next((line["device"] for line in reversed(_metrics(metrics)) if "device" in line), "cpu"))
