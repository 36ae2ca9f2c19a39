"""Reading pickled prompt files without running what they contain."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from goskill.errors import StoreError

_SIZE_LIMIT = 1 << 30
# All that NumPy needs to rebuild arrays and scalars of plain numbers and strings.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        if name == "encode":
            return _latin1
        return super().find_class(
            module.replace("numpy.core", "numpy._core") if _new_numpy() else module, name
        )


def _new_numpy() -> bool:
    return int(np.__version__.split(".")[0]) >= 2


def _latin1(text: str, encoding: str) -> bytes:
    """Old protocols write bytes as text in this encoding, and no other is needed."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r:.40}")
    return text.encode("latin1")


def load_prompts(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The episodes of a ``.npy`` file of pickled dicts, or of a plain pickle file.

    Only NumPy arrays, dicts, lists, tuples and scalars are rebuilt. Raises StoreError for anything else.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _SIZE_LIMIT:
            raise StoreError(f"{path}: is too large for a file of prompts")
        raw = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    stream = io.BytesIO(raw)
    load: Callable[[], Any] = _Unpickler(stream).load
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
        content = load()
    except StoreError:
        raise
    # A hostile pickle can make the unpickler raise nearly anything.
    except Exception as error:
        raise StoreError(f"{path}: cannot be read safely: {error}") from error
    episodes = list(content.reshape(-1)) if isinstance(content, np.ndarray) else content
    if not isinstance(episodes, list) or not all(isinstance(episode, dict) for episode in episodes):
        raise StoreError(f"{path}: expected a list of episodes, each a dict of arrays")
    return episodes
