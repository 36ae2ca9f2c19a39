"""The rows of a study: one JSON line for each task of each finished run."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from goskill.errors import InputError
from goskill.files import open_to_append, parse_json, read_bytes

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
        for name, is_right in FIELDS.items():
            if name not in row and name in OPTIONAL:
                continue
            if name not in row or not is_right(row[name]):
                got = f"{row[name]!r}" if name in row else "none"
                raise InputError(f"{file}: line {number}: expected a row of a study: {name!r} is {got}")
        rows.append(row)
    return rows


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


FIELDS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("contender", "method", "data", "task", "fingerprint", "settings"), _is_text),
    **dict.fromkeys(("seed", "iterations", "episodes"), _is_count),
    "return_mean": _is_number,
    **dict.fromkeys(("success", "success_last"), lambda value: value is None or _is_number(value)),
    **dict.fromkeys(("versions", "machine", "sweep"), _is_table),
    **dict.fromkeys(("finetuned", "scripted"), _is_flag),
    "budget": lambda value: value in ("iterations", "seconds"),
    "ablations": lambda value: isinstance(value, list),
    "schedule": lambda value: _is_table(value) and all(map(_is_count, value.values())),
    "seconds": lambda value: (
        _is_table(value) and all(_is_number(value.get(name)) for name in ("wall", "cpu"))
    ),
    "commit": lambda value: value is None or _is_text(value),
    "device": _is_text,
    "skills": lambda value: (
        _is_table(value)
        and all(isinstance(counts, list) and all(map(_is_count, counts)) for counts in value.values())
    ),
}
"""What a row has, and how it is told to be right. What it has besides is kept."""
OPTIONAL = ("device", "skills")
"""What rows may lack: runs before it was written down, and runs without skills."""
