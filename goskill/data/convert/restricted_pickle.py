"""Reading pickled prompt files without running what they contain."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.store_files import read_whole
from goskill.errors import StoreError

_SIZE_LIMIT = 1 << 28
_MOST_PARTS = 1 << 22  # a byte of a pickle can make an object of a hundred
_PLAIN_TYPE = re.compile(r"[?]|b1|[iu][1248]|f[248]|[US][0-9]{1,6}|O8?")
_DEPTH = 4  # of arrays, lists and dicts in one another: an array of episodes, each a dict of arrays


class _Type:
    """Stands for ``numpy.dtype`` while unpickling: plain numbers, text, and objects, which only lists become."""

    def __init__(self, code: str, align: object = False, copy: object = True) -> None:
        if not _PLAIN_TYPE.fullmatch(code):
            raise pickle.UnpicklingError(f"it asks for the type {code!r:.40}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, rest = state[1], state[2:5]
        if order not in ("<", ">", "|", "=") or any(part is not None for part in rest):
            raise pickle.UnpicklingError("it asks for a type of several parts")
        self.dtype = self.dtype.newbyteorder(order)

    def array(self, content: bytes | bytearray, shape: tuple[int, ...], order: str) -> npt.NDArray[Any]:
        """The numbers in as many bytes. ValueError for anything else."""
        if self.dtype.hasobject or not isinstance(content, (bytes, bytearray)):
            raise pickle.UnpicklingError("it makes objects of bytes")
        values: npt.NDArray[Any] = np.frombuffer(content, self.dtype)
        return values.reshape(shape, order="F" if order == "F" else "C")


class _Array:
    """Stands for ``numpy.ndarray`` while unpickling: NumPy's own can be made to look at any memory."""

    def __init__(self) -> None:
        self.values: npt.NDArray[Any] | list[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran_order, content = state
        if isinstance(content, list) and isinstance(kind, _Type) and kind.dtype.hasobject:
            if np.prod(shape, dtype=object) != len(content):
                raise pickle.UnpicklingError(f"an array of shape {shape!r:.40} of {len(content)} objects")
            self.values = content
        else:
            self.values = kind.array(content, shape, "F" if fortran_order else "C")


class Function:
    """What a pickle may call, and nothing else: its attributes cannot be set."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes a function")


def _reconstruct(kind: type, shape: object, code: object) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("it asks for an array of another class")
    return _Array()


def _from_buffer(content: bytes, kind: _Type, shape: tuple[int, ...], order: str) -> _Array:
    result = _Array()
    result.values = kind.array(content, shape, order)
    return result


def _scalar(kind: _Type, content: bytes) -> Any:
    return kind.array(content, (1,), "C")[0]


def _no_bytes() -> bytes:
    return b""


class _Encoder:
    """Old protocols write bytes as text in Latin-1, and no other codec is needed. The same text gives the same bytes:
    a pickle can ask for a long one again and again."""

    def __init__(self) -> None:
        self._known: dict[str, bytes] = {}

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"it asks for the codec {encoding!r:.40}")
        if text not in self._known:
            self._known[text] = text.encode("latin1")
        return self._known[text]


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("__builtin__", "bytes"): Function(_no_bytes),
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = Function(_reconstruct)
    _ALLOWED[f"{_core}.multiarray", "scalar"] = Function(_scalar)
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = Function(_from_buffer)


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self._allowed = {**_ALLOWED, ("_codecs", "encode"): Function(_Encoder())}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {f'{module}.{name}'!r:.80}")
        return self._allowed[module, name]


def check_parts(stream: io.BytesIO) -> None:
    """Refuse a pickle that would make more objects than its size suggests. The stream is where it was afterwards."""
    begin = stream.tell()
    for parts, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if parts == _MOST_PARTS:
            raise pickle.UnpicklingError(f"it has more than {_MOST_PARTS:,} parts")
        # The unpickler would make room for as many.
        if opcode.name in ("PUT", "LONG_BINPUT") and isinstance(argument, int) and argument > parts:
            raise pickle.UnpicklingError(f"it remembers an object by the number {argument}")
    stream.seek(begin)


def _load(stream: io.BytesIO) -> Any:
    """What is pickled, with arrays in place of what stands for them."""
    check_parts(stream)
    return _resolved(_Unpickler(stream).load(), _DEPTH, {})


def _resolved(value: Any, depth: int, known: dict[int, Any]) -> Any:
    if isinstance(value, _Array):
        value = value.values
        if value is None:
            raise pickle.UnpicklingError("an array without content")
    if not isinstance(value, (list, tuple, dict)):
        return value
    if depth == 0:
        raise pickle.UnpicklingError(f"it has more than {_DEPTH} levels")
    # The same object may be there any number of times.
    if id(value) not in known:
        if isinstance(value, dict):
            known[id(value)] = {key: _resolved(item, depth - 1, known) for key, item in value.items()}
        else:
            known[id(value)] = [_resolved(item, depth - 1, known) for item in value]
    return known[id(value)]


def load_prompts(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The episodes of a ``.npy`` file of pickled dicts, or of a plain pickle file.

    Only NumPy arrays of numbers or text, dicts, lists, tuples (as lists) and scalars are rebuilt. Raises StoreError
    for anything else, for files of more than 256 MiB and for pickles of more than four million parts (an array is
    about ten, a number in a list one).
    """
    path = Path(path)
    raw = read_whole(path, _SIZE_LIMIT, "prompts")
    stream = io.BytesIO(raw)
    try:
        if raw[:6] == b"\x93NUMPY":
            version = np.lib.format.read_magic(stream)
            reader = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            dtype = reader(stream)[2]
            if dtype != np.dtype(object):
                raise StoreError(f"{path}: expected pickled episodes, got an array of {dtype}")
        content = _load(stream)
    except StoreError:
        raise
    # A hostile pickle can make the unpickler raise nearly anything.
    except Exception as error:
        raise StoreError(f"{path}: cannot be read safely: {error}") from error
    if not isinstance(content, list) or not all(isinstance(episode, dict) for episode in content):
        raise StoreError(f"{path}: expected a list of episodes, each a dict of arrays")
    return content
