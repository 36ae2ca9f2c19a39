"""What a study has to run: every contender on all data with every seed, as far as rows do not say it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from goskill.data import EpisodeStore
from goskill.errors import InputError, closest
from goskill.evaluation.rows import Row, versions
from goskill.evaluation.study import SAME_SECONDS, Budget, Contender, Study
from goskill.experiments import presets
from goskill.experiments.runs import read_settings
from goskill.files import parse_json, read_text, write_atomically
from goskill.settings import from_mapping, to_mapping
from goskill.training.run import FREE_ON_RESUME, SINCE_ADDED

NAMED = 5
"""Tasks that a message names at most."""
"""Equal iterations count as equal seconds, too, when they are no further apart than this share."""


@dataclass(frozen=True)
class Data:
    """A store of a study, open."""

    name: str
    path: str
    fingerprint: str
    tasks: tuple[str, ...]
    scripted: bool


@dataclass(frozen=True)
class FinetuningJob:
    """How a trained run goes on with other tasks."""

    preset: str
    store: str
    iterations: int


@dataclass(frozen=True)
class Job:
    """One run: what to train, on what, and how it is known."""

    contender: str
    data: str
    seed: int
    budget: Budget
    method: str
    ablations: tuple[str, ...]
    preset: str
    overrides: tuple[str, ...]
    schedule: Mapping[str, int]  # iterations of each part of the training
    settings: str  # digest of all other settings but the seed
    store: str
    fingerprint: str  # of the data
    tasks: tuple[str, ...]  # that are evaluated
    finetuning: FinetuningJob | None = None

    @property
    def name(self) -> str:
        """For people, and the run's folder among the runs of the study."""
        suffix = "" if self.budget == "iterations" else "-equal-seconds"
        return f"{self.contender}/{self.data}/seed-{self.seed}{suffix}"

    @property
    def iterations(self) -> int:
        return sum(self.schedule.values())

    @property
    def last_row(self) -> int:
        """The iteration that the last of its rows is about."""
        return self.iterations if self.finetuning is None else self.finetuning.iterations

    def save(self, path: Path) -> None:
        """Write the job to a file."""
        write_atomically(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Job:
        """What ``save`` wrote. Raises InputError for anything else."""
        try:
            return from_mapping(cls, parse_json(read_text(path)), str(path))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: expected a job of a study: {error}") from None


def open_data(name: str, path: str | Path, tasks: Sequence[str] = ()) -> Data:
    """A store of a study. Raises StoreError, and InputError unless its tasks are ``tasks``, where any are given."""
    store = EpisodeStore.open(path)
    if tasks and set(tasks) != set(store.tasks):
        parts = [
            f"{what} {', '.join(names[:NAMED])}" + (f" and {len(names) - NAMED} more" * (len(names) > NAMED))
            for what, names in (
                ("lacks", [task for task in tasks if task not in store.tasks]),
                ("also has", [task for task in store.tasks if task not in tasks]),
            )
            if names
        ]
        raise InputError(f"{path}: expected {len(tasks)} tasks, but it {' and '.join(parts)}")
    scripted = any(origin.get("source") == "scripted" for origin in store.provenance)
    return Data(name, str(path), store.fingerprint, tuple(store.tasks), scripted)


def jobs_of(study: Study, data: Mapping[str, Data]) -> list[Job]:
    """The jobs with equal iterations, the reference's first, then in the file's order.

    Raises InputError for an unknown method, ablation or setting, settings of a family that no contender is of, and
    contenders whose iterations differ.
    """
    _check_families(study)
    ordered = sorted(study.contenders, key=lambda one: one.name != study.reference)
    jobs = [
        _job(study, contender, data, name, seed)
        for contender in ordered
        for name in study.training_data
        for seed in study.seeds
    ]
    for job in jobs:
        if job.iterations != jobs[0].iterations:
            raise InputError(
                f"study {study.name}: contender {job.contender} trains for {job.iterations} iterations and "
                f"{study.reference} for {jobs[0].iterations}: they must be equal"
            )
    return jobs


def _check_families(study: Study) -> None:
    from goskill.methods import find

    try:
        used = list(dict.fromkeys(find(one.method).section for one in study.contenders))
        for name in study.families:
            if name not in used:
                raise InputError(f"families.{name}: no contender is of that family, {closest(name, used)}")
    except InputError as error:
        raise InputError(f"study {study.name}: {error}") from None


def _job(study: Study, contender: Contender, every: Mapping[str, Data], name: str, seed: int) -> Job:
    from goskill.methods import find

    data, evaluated = every[name], every[study.finetuning.data if study.finetuning else name]
    try:
        entry = find(contender.method)
        tuning = _finetuning(study, evaluated, entry.section)
        overrides = [*study.overrides(contender, entry.section), f"training.seed={seed}"]
        settings = read_settings(
            study.preset, overrides, method=contender.method, ablations=contender.ablations
        )
    except InputError as error:
        raise InputError(f"study {study.name}: contender {contender.name}: {error}") from None
    values = to_mapping(settings.method)
    schedule = {name: values.pop(name) for name in entry.method.schedule}
    values = _without_added("method", values)
    training = {
        name: value
        for name, value in _without_added("training", to_mapping(settings.training)).items()
        if f"training.{name}" not in FREE_ON_RESUME and name != "seed"
    }
    return Job(
        contender=contender.name,
        data=data.name,
        seed=seed,
        budget="iterations",
        method=contender.method,
        ablations=contender.ablations,
        preset=study.preset,
        overrides=tuple(overrides),
        schedule=schedule,
        settings=_digest(
            [
                contender.method,
                values,
                training,
                _without_added("evaluation", to_mapping(settings.evaluation)),
                tuning and tuning.preset,
            ]
        ),
        store=data.path,
        fingerprint="+".join(dict.fromkeys((data.fingerprint, evaluated.fingerprint))),
        tasks=evaluated.tasks,
        finetuning=tuning,
    )


def _finetuning(study: Study, data: Data, family: str) -> FinetuningJob | None:
    if study.finetuning is None:
        return None
    preset = presets.load_finetuning(study.finetuning.preset, family)["finetuning"]
    if not preset.get("evaluate_every"):
        raise InputError(f"finetuning.preset: {study.finetuning.preset} does not evaluate on the way")
    return FinetuningJob(study.finetuning.preset, data.path, int(preset["iterations"]))


def with_seconds(job: Job, reference: Sequence[float], own: Sequence[float]) -> Job:
    """The job with as many iterations as fit the reference's seconds.

    ``reference`` and ``own`` are what runs of equal iterations took on the same data, of which the medians count.
    """
    ratio = median(reference) / median(own)
    schedule = {name: max(round(count * ratio), min(count, 1)) for name, count in job.schedule.items()}
    changes = [f"method.{name}={count}" for name, count in schedule.items()]
    return replace(job, budget="seconds", schedule=schedule, overrides=(*job.overrides, *changes))


def same_seconds(job: Job, scaled: Job) -> bool:
    """Whether the run of equal iterations also counts as one of equal seconds."""
    return abs(scaled.iterations / job.iterations - 1) <= SAME_SECONDS


def comparable_seconds(
    rows: Sequence[Row], contender: str, reference: str, data: str
) -> tuple[list[float], list[float]]:
    """Training seconds of each run of equal iterations of a contender, and of the reference.

    They are of the processor, or by the clock for runs on a GPU. Only runs of the same versions on the same machine
    and device are told: where several have such runs, those with most. Both are empty where there are none.
    """
    places: dict[str, tuple[dict[int, float], dict[int, float]]] = {}
    for row in rows:
        if (row["data"], row["budget"]) != (data, "iterations"):
            continue
        device = row.get("device", "cpu")
        place = json.dumps([versions(row), row["machine"], device], sort_keys=True)
        found = places.setdefault(place, ({}, {}))
        for name, runs in zip((contender, reference), found, strict=True):
            if row["contender"] == name:
                runs[row["seed"]] = row["seconds"]["wall" if device == "cuda" else "cpu"]
    own, other = max(places.values(), key=lambda found: min(map(len, found)), default=({}, {}))
    return (list(own.values()), list(other.values())) if own and other else ([], [])


def check_rows(rows: Sequence[Row], jobs: Sequence[Job], file: Path) -> None:
    """Raises InputError for rows that were made on other data or with other settings than the jobs'."""
    wanted = {(job.contender, job.data): job for job in jobs}
    for row in rows:
        job = wanted.get((row["contender"], row["data"]))
        if job is not None:
            check_same(row, job, f"{file}: rows of {row['contender']}")


def check_same(made: Mapping[str, Any], job: Job, what: str) -> None:
    """Raises InputError unless a row or job was made on the job's data with the job's settings."""
    if made["fingerprint"] != job.fingerprint:
        raise InputError(
            f"{what} were made on other data {job.data!r} ({made['fingerprint']}) than is in {job.store} "
            f"({job.fingerprint}): give another folder with --out"
        )
    same_schedule = made["budget"] == "seconds" or made["schedule"] == job.schedule
    if made["settings"] != job.settings or not same_schedule:
        raise InputError(
            f"{what} were made with other settings than the study has now: give another folder with --out"
        )


def _without_added(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Without the settings that older rows know nothing of, where they are as if they were not there."""
    return {
        name: value
        for name, value in values.items()
        if (key := f"{section}.{name}") not in SINCE_ADDED or SINCE_ADDED[key] != value
    }


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
