"""Results in files: JSON with everything, CSV with one row per episode. What is read is checked."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.errors import InputError
from goskill.evaluation.results import UNKNOWN, DataReturns, Protocol, Results, Skills, TaskEpisodes
from goskill.files import parse_json, read_text, write_atomically
from goskill.settings import from_mapping

FORMAT = "goskill-results"
VERSION = 1
INTERVALS = {
    "return_ci95": "Student's t over episodes, stratified by task for the overall mean",
    "success_ci95": "Wilson score",
    "success_last_ci95": "Wilson score",
}


def to_json(results: Results) -> dict[str, Any]:
    """Everything in a results file, with the summaries that a reader wants first."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "policy": results.policy,
        "overall": results.overall.to_json(),
        "tasks": {task: results.summary(task).to_json() for task in results.tasks},
        "protocol": asdict(results.protocol),
        "intervals": INTERVALS,
        "versions": dict(results.versions),
        "episodes": {
            task: {
                "seed": rows.seed.tolist(),
                "return": rows.returns.tolist(),
                "success_step": _known(rows, rows.success_step),
                "success_last": _known(rows, rows.success_last),
                "length": rows.length.tolist(),
            }
            for task, rows in results.episodes.items()
        },
    }
    if results.skills is not None:
        document["skills"] = {
            "count": results.skills.count,
            "horizon": results.skills.horizon,
            "usage": {task: list(counts) for task, counts in results.skills.usage.items()},
            "first_episode": {task: list(skills) for task, skills in results.skills.first_episode.items()},
        }
    if results.data:
        document["data"] = {task: asdict(returns) for task, returns in results.data.items()}
    return document


def _known(rows: TaskEpisodes, column: npt.NDArray[Any]) -> list[Any]:
    """A column of successes, None where nothing said whether the episode succeeded."""
    return [
        None if step == UNKNOWN else one for step, one in zip(rows.success_step, column.tolist(), strict=True)
    ]


def save_results(results: Results, path: str | Path) -> Path:
    return write_atomically(path, json.dumps(to_json(results), indent=1, allow_nan=False) + "\n")


def save_csv(results: Results, path: str | Path) -> Path:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["task", "episode", "seed", "return", "success", "success_last", "success_step", "length"]
    )
    for task, rows in results.episodes.items():
        for index in range(len(rows)):
            writer.writerow(
                [
                    task,
                    index,
                    int(rows.seed[index]),
                    repr(float(rows.returns[index])),
                    *(
                        "unknown" if rows.success_step[index] == UNKNOWN else int(column[index])
                        for column in (rows.success, rows.success_last, rows.success_step)
                    ),
                    int(rows.length[index]),
                ]
            )
    return write_atomically(path, buffer.getvalue())


@dataclass(frozen=True)
class _Episodes:
    """One task's episodes in a file, a list entry each; both successes of one that does not know are None."""

    seed: list[int]
    return_: list[float]
    success_step: list[int | None]
    success_last: list[bool | None]
    length: list[int]

    def rows(self, where: str) -> TaskEpisodes:
        if [one is None for one in self.success_step] != [one is None for one in self.success_last]:
            raise InputError(
                f"{where}.success_last: expected null where success_step is null, and there only"
            )
        steps = [UNKNOWN if one is None else one for one in self.success_step]
        columns = {
            "seed": _array(f"{where}.seed", self.seed, np.int64),
            "returns": _array(f"{where}.return", self.return_, np.float64),
            "success_step": _array(f"{where}.success_step", steps, np.int64),
            "success_last": np.array([bool(one) for one in self.success_last], np.bool_),
            "length": _array(f"{where}.length", self.length, np.int64),
        }
        sizes = sorted({len(column) for column in columns.values()})
        if len(sizes) != 1 or 0 in sizes:
            raise InputError(f"{where}: expected columns of one length, got {sizes}")
        return TaskEpisodes(**columns)


@dataclass(frozen=True)
class _File:
    """What a results file holds besides its summaries, which are computed anew from the episodes."""

    policy: str
    protocol: Protocol
    episodes: Mapping[str, _Episodes]
    skills: Skills | None = None
    data: Mapping[str, DataReturns] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)


def load_results(path: str | Path) -> Results:
    """Read a results file, trusting nothing in it."""
    source = Path(path) / "results.json" if Path(path).is_dir() else Path(path)
    document = read_json(source, FORMAT, VERSION)
    names = [one.name for one in fields(_File)]
    file = from_mapping(_File, {name: document[name] for name in names if name in document}, str(source))
    if not file.episodes:
        raise InputError(f"{source}: episodes: expected at least one task, got none")
    episodes = {task: columns.rows(f"{source}: episodes.{task}") for task, columns in file.episodes.items()}
    versions = {name: str(version) for name, version in file.versions.items()}
    return Results(file.policy, file.protocol, episodes, file.skills, file.data, versions)


def read_json(path: Path, expected_format: str, expected_version: int) -> dict[str, Any]:
    """A JSON document that says what it is. Raises InputError naming the file."""
    try:
        document = parse_json(read_text(path))
    except FileNotFoundError:
        raise InputError(f"{path}: expected a {expected_format} file, found nothing") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path}: expected a {expected_format} file: {error}") from None
    if not isinstance(document, dict) or document.get("format") != expected_format:
        raise InputError(f"{path}: expected a file whose format is {expected_format!r}")
    if document.get("version") != expected_version:
        found = document.get("version")
        raise InputError(f"{path}: expected version {expected_version} of {expected_format}, got {found!r}")
    return document


def _array(name: str, values: list[Any], dtype: type[np.number[Any]]) -> npt.NDArray[Any]:
    try:
        array = np.array(values, dtype)
    except OverflowError:
        raise InputError(f"{name}: expected numbers that fit {dtype.__name__}") from None
    if not np.isfinite(array).all():
        raise InputError(f"{name}: expected finite numbers")
    return array
