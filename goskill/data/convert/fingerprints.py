"""What files are known by, to tell whether a source has changed since it was converted."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

from goskill.data.store_files import open_regular, storage_errors

_LOCAL_HEADER, _END, _END_64 = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06"
_TAIL = 1 << 12  # bytes that hold the end of an archive, and the directory of a small one
_DIRECTORY_LIMIT = 1 << 26
_ELSEWHERE = 0xFFFFFFFF  # a number that only the 64-bit record holds


def fingerprint(path: Path) -> str:
    """The size of a regular file and a digest of its content. StoreError names what cannot be read.

    Of a zip archive the directory is enough: it holds the checksum of every member, and readers compare them.
    """
    with storage_errors(path), open_regular(path) as file:
        directory = _directory(file)
        if directory is not None:
            return f"zip {os.fstat(file.fileno()).st_size} {hashlib.sha256(directory).hexdigest()}"
        size, digest = content_digest(file)
        return f"{size} {digest}"


def stamp(file: Path) -> tuple[int, ...]:
    """What changes when a file is written or replaced. StoreError names what cannot be reached."""
    with storage_errors(file):
        facts = file.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def content_digest(file: io.FileIO) -> tuple[int, str]:
    """The size of an open file and its SHA-256."""
    size, digest = 0, hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


def _directory(file: io.FileIO) -> bytes | None:
    """The directory of a zip archive; None for any other file."""
    descriptor = file.fileno()
    size = os.fstat(descriptor).st_size
    if os.pread(descriptor, 4, 0) != _LOCAL_HEADER:
        return None
    begin = max(0, size - _TAIL)
    tail = os.pread(descriptor, _TAIL, begin)
    end, end_64 = tail.rfind(_END), tail.rfind(_END_64)
    if end < 0:
        return None
    length, offset = (int.from_bytes(tail[end + at : end + at + 4], "little") for at in (12, 16))
    if _ELSEWHERE in (length, offset) and end_64 >= 0:
        length, offset = (int.from_bytes(tail[end_64 + at : end_64 + at + 8], "little") for at in (40, 48))
    if not 0 < length <= min(size - offset, _DIRECTORY_LIMIT):
        return None
    inside = offset - begin
    return tail[inside : inside + length] if inside >= 0 else os.pread(descriptor, length, offset)
