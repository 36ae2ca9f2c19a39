"""The rows of a study: one JSON line for each task of each finished run."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from goskill.errors import InputError

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


def of_one_version(rows: Sequence[Row]) -> list[Row]:
    """The rows of the versions that made most of them, for what can show one only."""
    counts = Counter(versions(row) for row in rows)
    return [row for row in rows if versions(row) == counts.most_common(1)[0][0]]


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file, none if there is no file. An unfinished last line is left out.

    Raises InputError for a line that is no row, by its number.
    """
    file = Path(path)
    if not file.exists():
        return []
    return _parse(file.read_bytes(), file)


def append_rows(path: str | Path, rows: Iterable[Row]) -> list[Row]:
    """Add the rows that are not in the file yet, safely on disk, and return them.

    What a killed writer left of a line is removed first. The file is locked meanwhile.
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        content = stream.read()
        there = {key(row) for row in _parse(content, file)}
        new = [row for row in rows if key(row) not in there]
        stream.truncate(content.rfind(b"\n") + 1)
        stream.write("".join(json.dumps(row, sort_keys=True) + "\n" for row in new).encode())
        stream.flush()
        os.fsync(stream.fileno())
    return new


def _parse(content: bytes, file: Path) -> list[Row]:
    rows = []
    # What follows the last line end was never finished.
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not _is_row(row):
            raise InputError(f"{file}: line {number}: expected a row of a study, got {line[:60]!r}")
        rows.append(row)
    return rows


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or any(name not in row for name in NAMES):
        return False
    numbers: Sequence[Any] = [row.get(name) for name in ("return_mean", "success", "episodes", "iterations")]
    return (
        all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
        and all(isinstance(row.get(name), dict) for name in ("versions", "machine", "seconds", "schedule"))
        and all(isinstance(row.get(name), str) for name in ("fingerprint", "settings", "method"))
    )
