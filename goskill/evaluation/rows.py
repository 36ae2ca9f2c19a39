"""The rows of a study: one JSON line for each task of each finished run."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from goskill.errors import InputError
from goskill.files import open_to_append, parse_json, read_bytes
from goskill.settings import from_mapping

Row = dict[str, Any]
NAMES = ("contender", "data", "seed", "budget", "task", "iterations")
"""What tells rows apart."""
VERSIONS = ("goskill", "metaworld", "mujoco", "torch")
"""Packages whose versions rows must share to stand in one table."""


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells this row from others."""
    return tuple(row[name] for name in NAMES)


def versions(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The versions that rows of one table share, in the order of ``VERSIONS``."""
    return tuple(str(row["versions"].get(name, "unknown")) for name in VERSIONS)


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file, none if there is no file. An unfinished last line is left out.

    Raises InputError for a line that is no row, by its number and what it lacks.
    """
    file = Path(path)
    if not file.exists():
        return []
    return _parse(read_bytes(file), file)


def append_rows(path: str | Path, rows: Iterable[Row]) -> list[Row]:
    """Add the rows that are not in the file yet, safely on disk, and return them.

    What a killed writer left of a line is removed first. The file is locked meanwhile. Raises OSError that names the
    file, as of a full disk; the file is then as it was.
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with open_to_append(file) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        content = stream.read()
        there = {key(row) for row in _parse(content, file)}
        new = [row for row in rows if key(row) not in there]
        whole = content.rfind(b"\n") + 1
        stream.truncate(whole)
        try:
            _write_all(
                stream.fileno(), "".join(json.dumps(row, sort_keys=True) + "\n" for row in new).encode()
            )
            os.fsync(stream.fileno())
        except OSError as error:
            stream.truncate(whole)
            raise OSError(error.errno, error.strerror, str(file)) from error
    return new


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _parse(content: bytes, file: Path) -> list[Row]:
    rows = []
    # What follows the last line end was never finished.
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        try:
            row = parse_json(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{file}: line {number}: expected a row of a study, got {line[:60]!r}")
        known = {name: row[name] for name in _FIELDS if name in row}
        from_mapping(_Fields, known, f"{file}: line {number}: row")
        rows.append(row)
    return rows


@dataclass(frozen=True)
class _Fields:
    """What a row has, and how it is told to be right. What it has besides is kept."""

    contender: str
    method: str
    data: str
    task: str
    fingerprint: str
    settings: str
    seed: int
    iterations: int
    episodes: int
    return_mean: float
    success: float | None
    success_last: float | None
    versions: Mapping[str, Any]
    machine: Mapping[str, Any]
    sweep: Mapping[str, Any]
    finetuned: bool
    scripted: bool
    budget: Literal["iterations", "seconds"]
    ablations: list[Any]
    schedule: Mapping[str, int]
    seconds: Mapping[str, float]
    commit: str | None
    device: str = "cpu"  # missing in rows from before it was written down
    skills: Mapping[str, list[int]] = field(default_factory=dict)  # missing in rows of runs without skills

    def __post_init__(self) -> None:
        for name in ("wall", "cpu"):
            if name not in self.seconds:
                raise InputError(f"seconds.{name}: expected one, found nothing")


_FIELDS = [one.name for one in fields(_Fields)]
