"""Files that appear whole or not at all: columns, checksummed manifests, atomic folders."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill import files
from goskill.errors import StoreError
from goskill.files import parse_json, sync_folder

MANIFEST = "manifest.json"
TEMPORARY = ".writing-"
_MANIFEST_LIMIT = 64 * 1024 * 1024
_CHECKSUM = re.compile(rb'"checksum": "([0-9a-f]{64})"')
_COLUMN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEADER_SIZE = 128


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses (no space left, no permission …) into a StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{error.filename or path}: {error.strerror or error}") from error


def size_of(path: Path) -> int:
    """A file's bytes. StoreError names what cannot be reached."""
    with storage_errors(path):
        return path.stat().st_size


def write_manifest(path: Path, content: Mapping[str, Any]) -> str:
    """Replace a manifest atomically and return its checksum, which covers every byte of the file."""
    blank = json.dumps({"checksum": "0" * 64, **content}, indent=2, allow_nan=False) + "\n"
    checksum = hashlib.sha256(blank.encode()).hexdigest()
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}.json")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(blank.replace("0" * 64, checksum, 1))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return checksum


def open_regular(path: str | os.PathLike[str]) -> io.FileIO:
    """A regular file, open for reading, unbuffered. Raises StoreError for anything else, OSError as open does."""
    return _regular(path, os.O_RDONLY, "rb")


def open_lock(path: str | os.PathLike[str]) -> io.FileIO:
    """A file to be locked, made if it is missing and left as it is otherwise. Raises as :func:`open_regular`."""
    return _regular(path, os.O_RDWR | os.O_CREAT, "rb+")


def _regular(path: str | os.PathLike[str], flags: int, mode: str) -> io.FileIO:
    try:
        return files.open_regular(path, flags, mode)
    except files.NotRegularError:
        raise StoreError(f"{os.fspath(path)}: is not a regular file") from None


def read_whole(path: Path, limit: int, kind: str) -> bytes:
    """All of a regular file. StoreError names it if it cannot be read or has more than ``limit`` bytes."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise StoreError(f"{path}: expected at most {limit:,} bytes of {kind}, got {size:,}")
            return file.read()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest whose checksum holds. StoreError otherwise."""
    raw = read_whole(path, _MANIFEST_LIMIT, "a manifest")
    found = _CHECKSUM.search(raw)
    if found is None:
        raise StoreError(f"{path}: is not a goskill manifest (no checksum)")
    blank = raw[: found.start(1)] + b"0" * 64 + raw[found.end(1) :]
    if hashlib.sha256(blank).hexdigest().encode() != found.group(1):
        raise StoreError(f"{path}: the checksum does not hold, the file is damaged")
    try:
        content = parse_json(raw)
    except ValueError as error:
        raise StoreError(f"{path}: is not valid JSON") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path}: expected a JSON object")
    if content.get("checksum") != found.group(1).decode():
        raise StoreError(f"{path}: expected one checksum at the top, got {content.get('checksum')!r:.80}")
    return content


def field(path: Path, content: Mapping[str, Any], name: str, kind: type) -> Any:
    """One field of a manifest, of the right type. StoreError otherwise."""
    value = content.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise StoreError(f"{path}: expected {name!r} to be of type {kind.__name__}, got {value!r:.80}")
    return value


def count_field(path: Path, content: Mapping[str, Any], name: str, least: int) -> int:
    """A count in a manifest, at least ``least`` and within 48 bits. StoreError otherwise."""
    value = int(field(path, content, name, int))
    if not least <= value < 1 << 48:
        raise StoreError(f"{path}: expected {name!r} to be at least {least}, got {value}")
    return value


def column_entries(path: Path, content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A manifest's columns by their names, which are plain file names, each with a SHA-256. StoreError otherwise."""
    columns: dict[str, dict[str, Any]] = field(path, content, "columns", dict)
    for name, entry in columns.items():
        if not _COLUMN.fullmatch(name):
            raise StoreError(f"{path}: expected columns with plain file names, got {name!r:.80}")
        checksum = entry.get("sha256") if isinstance(entry, dict) else None
        if not isinstance(checksum, str) or not _SHA256.fullmatch(checksum):
            raise StoreError(f"{path}: expected the SHA-256 of column {name!r}, got {entry!r:.80}")
    return columns


def _header(descr: str, shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return (
        b"\x93NUMPY\x01\x00"
        + (_HEADER_SIZE - 10).to_bytes(2, "little")
        + text.ljust(_HEADER_SIZE - 11)
        + b"\n"
    )


class ColumnWriter:
    """Streams rows into one ``.npy`` file; the header is completed by :meth:`finish`."""

    def __init__(self, folder: Path, name: str, descr: str, row_shape: tuple[int, ...] = ()) -> None:
        self.name = name
        self._dtype = np.dtype(descr)
        self._descr = descr
        self._row_shape = row_shape
        self._rows = 0
        self._hash = hashlib.sha256()
        self._file = open(folder / f"{name}.npy", "wb", buffering=1 << 18)  # noqa: SIM115 - closed by finish
        self._file.write(_header(descr, (0, *row_shape)))

    def write(self, rows: npt.NDArray[Any]) -> None:
        """Append rows of the column's shape; they are converted to its dtype."""
        data = np.ascontiguousarray(rows, dtype=self._dtype)
        self._rows += len(data)
        block = data.reshape(-1).view(np.uint8).data if data.size else b""
        self._hash.update(block)
        self._file.write(block)

    def finish(self) -> dict[str, Any]:
        """Complete the header, make the file durable, return its entry in the manifest."""
        self._file.seek(0)
        self._file.write(_header(self._descr, (self._rows, *self._row_shape)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {
            "dtype": self._descr,
            "shape": [self._rows, *self._row_shape],
            "bytes": Path(self._file.name).stat().st_size,
            "sha256": self._hash.hexdigest(),
        }

    def abandon(self) -> None:
        """Close the file whatever state it is in."""
        with contextlib.suppress(OSError):
            self._file.close()


def column_digest(path: Path) -> Iterator[bytes]:
    """The array data of a ``.npy`` file in blocks, behind its header (which opening a store checks)."""
    with open_regular(path) as file:
        preamble = file.read(10)
        file.seek(10 + int.from_bytes(preamble[8:10], "little"))
        while block := file.read(1 << 22):
            yield block


def temporary_folder(parent: Path) -> Path:
    """A new folder that readers ignore, to be renamed into place or removed."""
    path = parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    path.mkdir()
    return path


def publish_folder(temporary: Path, target: Path) -> None:
    """Make a finished folder visible under its name, durably."""
    sync_folder(temporary)
    os.rename(temporary, target)
    sync_folder(target.parent)


def remove_temporaries(parent: Path) -> None:
    """Delete what killed writers left."""
    for path in parent.glob(f"{TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
