"""Results in files: JSON with everything, CSV with one row per episode. What is read is checked."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.errors import InputError
from goskill.evaluation.results import UNKNOWN, DataReturns, Protocol, Results, Skills, TaskEpisodes
from goskill.files import parse_json, read_text, write_atomically

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


def load_results(path: str | Path) -> Results:
    """Read a results file, trusting nothing in it. The summaries are computed anew from the episodes."""
    source = _find(Path(path))
    document = read_json(source, FORMAT, VERSION)
    read = FileReader(source)
    protocol = read.mapping(document, "protocol")
    episodes = read.mapping(document, "episodes")
    if not episodes:
        raise InputError(f"{source}: episodes: expected at least one task, got none")
    return Results(
        policy=read.text(document, "policy"),
        protocol=Protocol(
            **{name: read.integer(protocol, name) for name in ("episodes", "max_steps", "seed", "batch")},
            suite=read.text(protocol, "suite") if protocol.get("suite") is not None else None,
        ),
        episodes={task: read.task_episodes(task, episodes) for task in episodes},
        skills=read.skills(read.mapping(document, "skills")) if "skills" in document else None,
        data=read.data(read.mapping(document, "data")) if "data" in document else {},
        versions={str(name): str(version) for name, version in read.mapping(document, "versions").items()},
    )


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


def _find(path: Path) -> Path:
    return path / "results.json" if path.is_dir() else path


class FileReader:
    """Takes values of the expected kind out of a document, or says where it is wrong."""

    def __init__(self, source: Path) -> None:
        self.source = source

    def mapping(self, container: Mapping[str, Any], name: str) -> dict[str, Any]:
        return dict(self._take(container, name, "an object", lambda value: isinstance(value, dict)))

    def text(self, container: Mapping[str, Any], name: str) -> str:
        return str(self._take(container, name, "text", lambda value: isinstance(value, str)))

    def integer(self, container: Mapping[str, Any], name: str) -> int:
        return int(self._take(container, name, "an integer", _is_integer))

    def number(self, container: Mapping[str, Any], name: str) -> float:
        return float(self._take(container, name, "a finite number", _is_number))

    def integers(self, container: Mapping[str, Any], name: str) -> list[int]:
        return list(self._take(container, name, "a list of integers", _list_of(_is_integer)))

    def counts(self, container: Mapping[str, Any], name: str, length: int) -> list[int]:
        counts = self.integers(container, name)
        if len(counts) != length or min(counts, default=0) < 0:
            raise InputError(f"{self.source}: {name}: expected {length} counts, got {str(counts)[:60]}")
        return counts

    def task_episodes(self, task: str, episodes: Mapping[str, Any]) -> TaskEpisodes:
        rows = self.mapping(episodes, task)
        found = TaskEpisodes(
            np.array(self.integers(rows, "seed"), np.int64),
            np.array(
                self._take(rows, "return", "a list of finite numbers", _list_of(_is_number)), np.float64
            ),
            *self._success(rows),
            np.array(self.integers(rows, "length"), np.int64),
        )
        sizes = {
            len(column)
            for column in (found.seed, found.returns, found.success_step, found.success_last, found.length)
        }
        if len(sizes) != 1 or 0 in sizes:
            raise InputError(
                f"{self.source}: episodes of {task!r}: expected columns of one length, got {sorted(sizes)}"
            )
        return found

    def _success(self, rows: Mapping[str, Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Steps and last successes; an episode that does not know has None for both."""
        steps = self._take(rows, "success_step", "a list of integers", _list_of(_or_none(_is_integer)))
        last = self._take(rows, "success_last", "a list of booleans", _list_of(_or_none(_is_boolean)))
        if [one is None for one in steps] != [one is None for one in last]:
            raise InputError(f"{self.source}: success_last: expected null where success_step is null")
        return (
            np.array([UNKNOWN if one is None else one for one in steps], np.int64),
            np.array([bool(one) for one in last], np.bool_),
        )

    def data(self, document: Mapping[str, Any]) -> dict[str, DataReturns]:
        rows = {task: self.mapping(document, task) for task in document}
        return {
            task: DataReturns(
                self.number(row, "mean"), self.number(row, "best"), self.integer(row, "episodes")
            )
            for task, row in rows.items()
        }

    def skills(self, document: Mapping[str, Any]) -> Skills:
        count, horizon = self.integer(document, "count"), self.integer(document, "horizon")
        usage = self.mapping(document, "usage")
        first = self.mapping(document, "first_episode")
        skills = Skills(
            count,
            horizon,
            {task: self.counts(usage, task, count) for task in usage},
            {task: self.integers(first, task) for task in first},
        )
        if horizon < 1 or any(not 0 <= s < count for row in skills.first_episode.values() for s in row):
            raise InputError(
                f"{self.source}: skills: expected indices in [0, {count}) and a horizon of at least 1"
            )
        return skills

    def _take(
        self, container: Mapping[str, Any], name: str, expected: str, fits: Callable[[Any], bool]
    ) -> Any:
        if name not in container:
            raise InputError(f"{self.source}: {name}: expected {expected}, found nothing")
        value = container[name]
        if not fits(value):
            raise InputError(f"{self.source}: {name}: expected {expected}, got {str(value)[:60]!r}")
        return value


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: Any) -> bool:
    return math.isfinite(value) if isinstance(value, float) else _is_integer(value)


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(fits(entry) for entry in value)
