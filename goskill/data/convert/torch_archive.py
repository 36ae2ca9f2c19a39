"""Tensors in files that torch.save wrote, read a few rows at a time: nothing of the pickle in them is run."""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.convert.restricted_pickle import Function, check_parts
from goskill.data.store_files import open_regular
from goskill.errors import StoreError

try:  # several times as fast
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

_PICKLE_LIMIT = 1 << 20
_LOCAL_HEADER = b"PK\x03\x04"
_BLOCK = 1 << 22
_MOST_BETWEEN = 4  # times as many bytes as rows have may lie between them
_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


@dataclass(frozen=True)
class Tensor:
    """A tensor that lies in a file: where, of which type, and how its elements follow one another there."""

    member: zipfile.ZipInfo
    begin: int  # of its storage in the file
    dtype: np.dtype[Any]
    offset: int  # in the storage, in elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first to the last."""
    if not math.prod(shape):
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


class _Pickled:
    """Stands for a tensor, or a storage, while unpickling: what was said of it, unchecked."""

    def __init__(self, *said: object) -> None:
        self.said = said

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes a tensor")


class _TensorDict:
    """Stands for a TensorDict while unpickling."""

    def __init__(self) -> None:
        self.columns: object = None

    def __setstate__(self, state: object) -> None:
        self.columns = state.get("_tensordict") if isinstance(state, dict) else None


class _Dict(dict[Any, Any]):
    """Stands for the kind of dict that a TensorDict holds."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes a dict")


def _make(kind: object, state: object) -> _TensorDict:
    made = _TensorDict()
    made.__setstate__(state)
    return made


def _nothing(*_: object) -> None:
    return None


_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): Function(_Pickled),
    ("torch", "Size"): Function(tuple),
    ("torch", "device"): Function(_nothing),
    ("collections", "OrderedDict"): Function(_nothing),  # of hooks
    ("__builtin__", "set"): Function(_nothing),  # of locks
    ("builtins", "set"): Function(_nothing),
    ("tensordict.tensordict", "TensorDict"): _TensorDict,
    ("tensordict._td", "TensorDict"): _TensorDict,
    ("tensordict.utils", "_StringOnlyDict"): _Dict,
    ("tensordict._reductions", "_make_td"): Function(_make),
    **{("torch", name): code for name, code in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {f'{module}.{name}'!r:.80}")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Pickled:
        return _Pickled(*pid)


class TorchArchive:
    """The tensors of a TensorDict, or dict, that torch.save wrote into a file, by their names.

    Raises StoreError that names the file for anything else, for tensors that the file does not hold, and for
    compressed or encrypted members. Use it in a ``with`` block, or until it is garbage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: dict[str, Tensor] = {}
        try:
            self._file = open_regular(path)
            self._open()
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
        # A hostile archive or pickle can raise nearly anything.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise StoreError(f"{path}: is not what torch.save writes: {reason}") from error

    def _open(self) -> None:
        with zipfile.ZipFile(self._file) as archive:
            members = {member.filename: member for member in archive.infolist()}
            pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
            if len(pickles) != 1:
                raise ValueError(f"expected one data.pkl, got {len(pickles)}")
            prefix = pickles[0].removesuffix("data.pkl")
            if members[pickles[0]].file_size > _PICKLE_LIMIT:
                raise ValueError(f"its data.pkl has more than {_PICKLE_LIMIT:,} bytes")
            stream = io.BytesIO(archive.read(pickles[0]))
            order = f"{prefix}byteorder"
            if order in members and archive.read(order) != b"little":
                raise ValueError("its byte order is not little")
        check_parts(stream)
        found = _Unpickler(stream).load()
        columns = found.columns if isinstance(found, _TensorDict) else found
        if not isinstance(columns, dict) or not all(isinstance(name, str) for name in columns):
            raise ValueError(f"expected a TensorDict, got {type(found).__name__}")
        for name, pickled in columns.items():
            if isinstance(pickled, _Pickled):
                self.tensors[name] = self._placed(f"{name!r:.80}", pickled, prefix, members)

    def _placed(
        self, name: str, pickled: _Pickled, prefix: str, members: dict[str, zipfile.ZipInfo]
    ) -> Tensor:
        """Where a tensor lies. ValueError if the file does not hold it."""
        storage, offset, shape, strides, *_ = pickled.said
        kind, code, key, *_ = storage.said if isinstance(storage, _Pickled) else ("", "", "")
        if kind != "storage" or code not in _STORAGES.values() or not isinstance(key, str):
            raise ValueError(f"{name} has no storage of numbers")
        if not isinstance(shape, tuple) or not isinstance(strides, tuple) or len(shape) != len(strides):
            raise ValueError(f"{name} has no shape")
        numbers = [number for number in (offset, *shape, *strides) if type(number) is int]
        if len(numbers) != 1 + 2 * len(shape) or not all(0 <= number < 1 << 48 for number in numbers):
            raise ValueError(f"{name} has an impossible shape")
        member = members.get(f"{prefix}data/{key}")
        if member is None:
            raise ValueError(f"the values of {name} are missing")
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise ValueError(f"the values of {name} are compressed or encrypted")
        dtype = np.dtype(str(code))
        if (numbers[0] + _span(shape, strides)) * dtype.itemsize > member.file_size:
            raise ValueError(f"{name} has shape {list(shape)} in {member.file_size} bytes")
        header = os.pread(self._file.fileno(), 30, member.header_offset)
        if len(header) < 30 or not header.startswith(_LOCAL_HEADER):
            raise ValueError(f"the values of {name} have no header")
        names = sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        return Tensor(member, member.header_offset + 30 + names, dtype, numbers[0], shape, strides)

    def check_values(self) -> None:
        """Read all values of the tensors, and hold them to the archive's checksums. StoreError names the tensor."""
        buffer = memoryview(bytearray(_BLOCK))
        for name, tensor in self.tensors.items():
            known, done, size = 0, 0, tensor.member.file_size
            while done < size:
                block = buffer[: min(_BLOCK, size - done)]
                self._read_into(block, tensor.begin + done)
                known = crc32(block, known)
                done += len(block)
            if known != tensor.member.CRC:
                raise StoreError(f"{self.path}: the checksum of {name!r} does not hold, the file is damaged")

    def rows(self, name: str, first: int, last: int) -> npt.NDArray[Any]:
        """Some rows of a tensor of one axis or more. StoreError for rows that lie far apart."""
        tensor = self.tensors[name]
        shape, itemsize = (last - first, *tensor.shape[1:]), tensor.dtype.itemsize
        span = _span(shape, tensor.strides)
        if span > _MOST_BETWEEN * math.prod(shape):
            raise StoreError(
                f"{self.path}: {name!r}: expected rows one after another, got strides {list(tensor.strides)}"
            )
        content = np.empty(span, tensor.dtype)
        start = tensor.offset + first * tensor.strides[0]
        self._read_into(content.data.cast("B"), tensor.begin + start * itemsize)
        strides = [stride * itemsize for stride in tensor.strides]
        return np.lib.stride_tricks.as_strided(content, shape, strides, writeable=False)

    def _read_into(self, block: memoryview, offset: int) -> None:
        done = 0
        try:
            while done < len(block):
                count = os.preadv(self._file.fileno(), [block[done:]], offset + done)
                if not count:
                    raise StoreError(
                        f"{self.path}: ends at {offset + done} bytes, in the middle of its values"
                    )
                done += count
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read: {error.strerror or error}") from error
