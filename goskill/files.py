"""Files of others, read with care, and files of our own, written so that a reader never finds a part of one."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def parse_json(text: str | bytes) -> Any:
    """What a file holds as JSON. Raises ValueError for all that cannot be read, too deep a nesting included."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def parse_toml(text: str) -> dict[str, Any]:
    """What a file holds as TOML. Raises ValueError for what cannot be read."""
    content: dict[str, Any] = tomllib.loads(text)
    return content


def packaged_names(package: str, folder: str) -> list[str]:
    """The names of the TOML files that come in a folder of a package of ours."""
    files = resources.files(package).joinpath(folder).iterdir()
    return sorted(file.name[: -len(".toml")] for file in files if file.name.endswith(".toml"))


def packaged_text(package: str, folder: str, name: str) -> str:
    """What the TOML file of that name holds."""
    return resources.files(package).joinpath(folder).joinpath(f"{name}.toml").read_text(encoding="utf-8")


class NotRegularError(OSError):
    """A named pipe, a device, a folder: opening it could wait, and reading it never end."""


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY, mode: str = "rb") -> io.FileIO:
    """A file, opened unbuffered. Raises NotRegularError for what is no regular file, else OSError as open does.

    Every file that may be someone else's is opened here: of a run, a store, a study, or data to be converted.
    """
    # Without O_NONBLOCK opening a named pipe would wait for its other end.
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegularError(errno.EINVAL, "not a regular file", os.fspath(path))
    return io.FileIO(descriptor, mode)


def open_to_append(path: str | Path) -> io.FileIO:
    """A regular file, made if it is missing, to write at its end. Raises as :func:`open_regular`."""
    return open_regular(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, "ab+")


def read_bytes(path: str | Path) -> bytes:
    """What a regular file holds. Raises as :func:`open_regular`."""
    with open_regular(path) as file:
        return file.readall()


def read_text(path: str | Path) -> str:
    """A regular file of UTF-8. Raises OSError as :func:`read_bytes` does, and UnicodeDecodeError, a ValueError."""
    return read_bytes(path).decode("utf-8")


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
