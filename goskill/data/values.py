"""Checks of the numbers that are written into stores."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.errors import InputError


def float32_values(name: str, value: npt.ArrayLike, shape: tuple[int | None, ...]) -> npt.NDArray[np.float32]:
    """The array in float32 (itself, if it is), or an InputError that says what is wrong with it.

    A size of None in ``shape`` stands for any.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name}: expected real numbers, got dtype {array.dtype}")
    fits = array.ndim == len(shape) and all(
        w is None or w == g for w, g in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = "[" + ", ".join("T" if size is None else str(size) for size in shape) + "]"
        raise InputError(f"{name}: expected shape {wanted}, got {list(array.shape)}")
    with np.errstate(over="ignore"):
        result = array.astype(np.float32, copy=False)
    finite = np.isfinite(result)
    if not finite.all():
        place = tuple(int(i) for i in np.argwhere(~finite)[0])
        reason = "finite values" if not np.isfinite(array[place]) else "values that fit float32"
        raise InputError(f"{name}: expected {reason}, got {array[place]} at index {list(place)}")
    return result


def success_values(value: npt.ArrayLike | None, length: int) -> npt.NDArray[np.int8]:
    """The success column of an episode: -1 where it was not recorded. InputError for anything but truth values."""
    if value is None:
        return np.full(length, -1, dtype=np.int8)
    array: npt.NDArray[Any] = np.asarray(value)
    if (
        array.dtype.kind not in "biuf"
        or array.shape not in ((), (length,))
        or not np.isin(array, (0, 1)).all()
    ):
        raise InputError(
            f"success: expected one truth value or {length} of them, "
            f"got dtype {array.dtype} and shape {list(array.shape)}"
        )
    if array.ndim == 1:
        return array.astype(np.int8)
    column = np.zeros(length, dtype=np.int8)
    column[-1] = array
    return column
