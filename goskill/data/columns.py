"""Columns that a store declares beside those that every store has: their types, and the values they take."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.store_files import field
from goskill.errors import InputError, StoreError, closest

Columns = dict[str, "np.dtype[Any]"]  # by name; the shape of an entry is the dtype's own
Array = npt.NDArray[Any]

EPISODE_ENDS = ("terminated", "truncated")
EVERY_STORE = {  # the columns of every shard, with their types; rows of the first two have a width
    "observations": "<f4",
    "actions": "<f4",
    "rewards": "<f4",
    "returns_to_go": "<f4",
    "success": "|i1",
    "episode_start": "<i8",
    "episode_length": "<i8",
    "episode_task": "<i8",
    "episode_return": "<f8",
}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_DESCR = re.compile(r"[<|][biufU][0-9]{1,4}")
_MOST_COLUMNS = 100
_MOST_AXES = 6
_MOST_BYTES = 1 << 28  # of one entry
_LONGEST_TEXT = 1000


def checked_columns(argument: str, declared: Mapping[str, Any] | None, texts: bool) -> Columns:
    """What a writer declares, as dtypes in little-endian order. ``texts``: whether columns may hold text.

    Raises InputError that names the argument and the column.
    """
    if not isinstance(declared or {}, Mapping):
        raise InputError(f"{argument}: expected types by column name, got {declared!r:.80}")
    columns = {}
    for name, type_ in (declared or {}).items():
        try:
            dtype = np.dtype(type_)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{argument}: {name!r:.80}: expected a NumPy dtype, got {type_!r:.80}"
            ) from error
        little = dtype.base.newbyteorder("<")
        columns[name] = np.dtype((little, dtype.shape)) if dtype.shape else little
    fault = _fault(columns, texts)
    if fault:
        raise InputError(f"{argument}: {fault}")
    return columns


def read_columns(path: Path, content: Mapping[str, Any], name: str, texts: bool) -> Columns:
    """What a manifest declares under a name. Raises StoreError for anything that a writer would not declare."""
    columns = {}
    for column, entry in field(path, content, name, dict).items():
        type_ = _dtype(entry) if isinstance(entry, dict) else None
        if type_ is None:
            raise StoreError(f"{path}: {name}: expected dtype and shape of {column!r:.80}, got {entry!r:.80}")
        columns[column] = type_
    fault = _fault(columns, texts)
    if fault:
        raise StoreError(f"{path}: {name}: {fault}")
    return columns


def _dtype(entry: Mapping[str, Any]) -> np.dtype[Any] | None:
    """The dtype of a manifest's entry; None unless it is written as NumPy writes it."""
    descr, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(descr, str) or not _DESCR.fullmatch(descr) or not isinstance(shape, list):
        return None
    if len(shape) > _MOST_AXES or not all(type(size) is int and 0 < size <= _MOST_BYTES for size in shape):
        return None
    with contextlib.suppress(TypeError):  # there is no float of three bytes
        if math.prod(shape) <= _MOST_BYTES and np.dtype(descr).str == descr:
            return np.dtype((descr, tuple(shape))) if shape else np.dtype(descr)
    return None


def manifest_entry(columns: Columns) -> dict[str, dict[str, Any]]:
    """What a manifest says of declared columns: :func:`read_columns` reads it."""
    return {name: {"dtype": type_.base.str, "shape": list(type_.shape)} for name, type_ in columns.items()}


def native_columns(columns: Columns) -> list[tuple[str, str, list[int]]]:
    """What the native store takes."""
    return [(name, type_.base.str, list(type_.shape)) for name, type_ in columns.items()]


def _fault(columns: Columns, texts: bool) -> str | None:
    if len(columns) > _MOST_COLUMNS:
        return f"expected at most {_MOST_COLUMNS} columns, got {len(columns)}"
    for name, type_ in columns.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in EVERY_STORE:
            return (
                "expected names of up to 64 letters, digits and '_', a letter first, "
                f"that no other column has, got {name!r:.80}"
            )
        fault = _fault_of_type(name, type_, texts)
        if fault:
            return f"{name!r}: {fault}, got {type_.base.str!r:.40} of shape {list(type_.shape)}"
    return None


def _fault_of_type(name: str, type_: np.dtype[Any], texts: bool) -> str | None:
    base, kinds = type_.base, "biufU" if texts else "biuf"
    if base.kind not in kinds or base.itemsize == 0 or (base.kind in "iuf" and base.itemsize > 8):
        known = "bool, integers and floats of up to 64 bits"
        return f"expected {known}, or text with a length such as 'U64'" if texts else f"expected {known}"
    if base.kind == "U" and base.itemsize > 4 * _LONGEST_TEXT:
        return f"expected text of at most {_LONGEST_TEXT} letters"
    if base.str[0] == ">":
        return "expected little-endian numbers"
    if len(type_.shape) > _MOST_AXES or not 0 < type_.itemsize <= _MOST_BYTES:
        return f"expected entries of at most {_MOST_AXES} axes and {_MOST_BYTES:,} bytes, none empty"
    if name in EPISODE_ENDS and (base.kind != "b" or type_.shape):
        return "expected one bool per step"
    return None


def step_values(name: str, value: npt.ArrayLike, length: int) -> Array:
    """A step column's values of an episode as an array [T, ...]. InputError unless there is one for each step.

    ``terminated`` and ``truncated`` end an episode, so they are one truth value, or true at the last step at most.
    """
    array: Array = np.asarray(value)
    if name in EPISODE_ENDS:
        return _end_values(name, array, length)
    if array.ndim < 1 or len(array) != length:
        raise InputError(
            f"{name}: expected one entry for each of {length} steps, got shape {list(array.shape)}"
        )
    return array


def _end_values(name: str, array: Array, length: int) -> Array:
    truth = array.dtype.kind in "biuf" and bool(np.isin(array, (0, 1)).all())
    if not truth or array.shape not in ((), (length,)):
        raise InputError(
            f"{name}: expected one truth value or {length} of them, "
            f"got dtype {array.dtype} and shape {list(array.shape)}"
        )
    if array.ndim == 1 and array[:-1].any():
        step = int(np.flatnonzero(array)[0])
        raise InputError(
            f"{name}: expected the episode to end there, got it at step {step} of {length}: cut it behind that step"
        )
    values = np.zeros(length, dtype=bool)
    values[-1] = array if array.ndim == 0 else array[-1]
    return values


def declared_values(
    argument: str, declared: Columns, given: Mapping[str, Array], length: int
) -> dict[str, Array]:
    """What steps or episodes give for all declared columns, in their types: [length, ...].

    Raises InputError that names the column: not declared, not given, of another shape, or values that the type
    cannot hold.
    """
    for name in given:
        if name not in declared:
            known = closest(name, declared) if declared else "the store declares none"
            raise InputError(f"{argument}: expected declared columns, got {name!r:.80}; {known}")
    values = {}
    for name, type_ in declared.items():
        if name not in given:
            raise InputError(f"{argument}: expected {name!r}, which the store declares, got none")
        rows, shape = given[name], (length, *type_.shape)
        if rows.shape != shape:
            raise InputError(f"{name}: expected shape {list(shape)}, got {list(rows.shape)}")
        values[name] = (
            _texts(name, rows, type_) if type_.base.kind == "U" else cast_numbers(name, rows, type_)
        )
    return values


def _texts(name: str, rows: Array, type_: np.dtype[Any]) -> Array:
    if rows.dtype.kind != "U":
        raise InputError(f"{name}: expected text, got dtype {rows.dtype}")
    longest = type_.base.itemsize // 4
    for text in rows.ravel().tolist():
        if len(text) > longest or not text.isprintable():
            raise InputError(f"{name}: expected at most {longest} printable letters, got {text!r:.80}")
    return rows.astype(type_.base)


def cast_numbers(name: str, rows: Array, type_: np.dtype[Any]) -> Array:
    """Numbers in the column's type; floats may be rounded, all else is kept as it is or refused with an InputError."""
    base = type_.base
    if rows.dtype.kind not in "biuf":
        raise InputError(f"{name}: expected numbers, got dtype {rows.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = rows.astype(base, copy=False)
        # A float that rounds to 2^63 becomes another integer; compared as what came, the two differ.
        wrong = ~np.isfinite(cast) if base.kind == "f" else cast.astype(rows.dtype) != rows
    if base.kind in "iu" and rows.dtype.kind in "iu":
        wrong |= (cast < 0) != (rows < 0)  # -1 and the largest unsigned integer have the same bits
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise InputError(
            f"{name}: expected finite values that fit {base}, got {rows[place]} at index {list(place)}"
        )
    return cast


def checked_texts(where: str, column: Array) -> Array:
    """A text column that was read. StoreError for letters that no writer lets in."""
    letters = np.ascontiguousarray(column).view(np.uint32)
    # Above the last code point, or one half of a pair: NumPy makes no text of them.
    impossible = (letters > 0x10FFFF) | ((letters >= 0xD800) & (letters < 0xE000))
    if impossible.any() or not all(text.isprintable() for text in np.unique(column).tolist()):
        raise StoreError(f"{where}: expected printable text")
    return column
