"""JSON that may hold anything, and writing files so that a reader finds the old one or the new one, never a part."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """What a file holds as JSON. Raises ValueError for all that cannot be read, too deep a nesting included."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def write_atomically(path: str | Path, contents: str | bytes) -> Path:
    """Write ``contents`` (text as UTF-8) beside ``path`` and rename it into place. Returns the path.

    Folders on the way are made.

    Raises OSError, as of a full disk, with the name of the file or folder that could not be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        _replace(target, contents.encode() if isinstance(contents, str) else contents)
    except OSError as error:
        # Writing to an open file names none, and nobody knows the temporary one.
        raise OSError(error.errno, error.strerror, str(target)) from error
    return target


def sync_folder(path: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(target: Path, contents: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; these are for everyone who may read the folder.
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
