"""Reading npz files: what np.load does, without its copies and without parsing the same headers again and again."""

from __future__ import annotations

import functools
import io
import math
import os
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.store_files import open_regular
from goskill.errors import StoreError

try:  # decompresses about twice as fast
    from isal import isal_zlib as zlib
except ImportError:
    import zlib  # type: ignore[no-redef]

_SIZE_LIMIT = 1 << 30
_LOCAL_HEADER = b"PK\x03\x04"
_ENCRYPTED = 1


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an npz file that are among ``names``, read-only. StoreError names the file.

    Checksums are compared. Pickled objects are refused, and files that hold more than 1 GiB.
    """
    return _read(path, lambda name: name in names, _SIZE_LIMIT)


def read_all(path: Path, limit: int) -> dict[str, npt.NDArray[Any]]:
    """As :func:`read_arrays`, all arrays of a file that holds at most so many bytes."""
    return _read(path, lambda name: True, limit)


def _read(path: Path, wanted: Callable[[str], bool], limit: int) -> dict[str, npt.NDArray[Any]]:
    try:
        with open_regular(path) as file:
            raw = _whole(file, limit)
            with zipfile.ZipFile(file) as archive:
                members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if sum(member.file_size for member in members.values()) > limit:
            raise ValueError(f"it holds more than {limit} bytes")
        return {name: _array(_content(raw, member)) for name, member in members.items() if wanted(name)}
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    # A damaged archive raises one of many errors of zipfile, zlib and NumPy, some of which say nothing.
    except Exception as error:
        raise StoreError(f"{path}: cannot be read: {str(error) or type(error).__name__}") from error


class _Buffer(threading.local):
    """Memory for one file after another: fresh memory costs more than reading into it."""

    def __init__(self) -> None:
        self.memory = bytearray()


_buffer = _Buffer()


def _whole(file: io.FileIO, limit: int) -> memoryview:
    """The file's bytes, until the next call."""
    size = os.fstat(file.fileno()).st_size
    if size > limit:
        raise ValueError(f"it has more than {limit} bytes")
    if size > len(_buffer.memory):
        _buffer.memory = bytearray(size)
    view = memoryview(_buffer.memory)[:size]
    if file.readinto(view) != size:
        raise ValueError(f"it could not be read to its end at {size} bytes")
    return view


def _content(raw: memoryview, member: zipfile.ZipInfo) -> bytes:
    start = member.header_offset
    header = bytes(raw[start : start + 30])
    if len(header) < 30 or not header.startswith(_LOCAL_HEADER):
        raise ValueError(f"{member.filename} has no header")
    start += 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    packed = raw[start : start + member.compress_size]
    if member.flag_bits & _ENCRYPTED:
        raise ValueError(f"{member.filename} is encrypted")
    if member.compress_type == zipfile.ZIP_STORED:
        content = bytes(packed)
    elif member.compress_type == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(-15).decompress(packed, member.file_size + 1)
    else:
        raise ValueError(f"{member.filename} is compressed by method {member.compress_type}")
    if len(content) != member.file_size or zlib.crc32(content) != member.CRC:
        raise ValueError(f"the checksum of {member.filename} does not hold")
    return content


def _array(content: bytes) -> npt.NDArray[Any]:
    major = content[6] if len(content) > 6 else 0
    width = 2 if major == 1 else 4
    offset = 8 + width + int.from_bytes(content[8 : 8 + width], "little")
    shape, fortran_order, dtype = _header(content[:offset])
    if len(content) != offset + math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"an array of shape {list(shape)} and dtype {dtype} in {len(content) - offset} bytes"
        )
    flat: npt.NDArray[Any] = np.frombuffer(content, dtype, math.prod(shape), offset)
    return flat.reshape(shape, order="F" if fortran_order else "C")


@functools.lru_cache(1024)
def _header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    stream = io.BytesIO(header)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    if any(size < 0 for size in shape):
        raise ValueError(f"an array of shape {list(shape)}")
    return shape, fortran_order, dtype
