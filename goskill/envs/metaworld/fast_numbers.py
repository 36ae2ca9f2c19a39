"""The numbers on which MetaWorld's rewards and observations spend their time: faster, equal bit for bit.

Every function falls back on the original wherever it does not know that its own answer is the same.
"""

from __future__ import annotations

import math
import types
from typing import Any

import numpy as np
import numpy.typing as npt
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

_FLOAT64 = np.dtype(np.float64)
_LONG_TAIL_SCALE = float(np.sqrt(1 / 0.1 - 1))
_GAUSSIAN_SCALE = float(np.sqrt(-2 * np.log(0.1)))
_NORM_SQUARED_SLACK = 1e-9


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """`numpy.linalg.norm`, without its overhead for float64 vectors and numbers."""
    if (ord is None or ord == 2) and axis is None and not keepdims:
        if (
            type(x) is np.ndarray
            and x.ndim == 1
            and x.dtype is _FLOAT64
            # NumPy copies what is not contiguous, and the sum's rounding depends on where the numbers are.
            and (x.base is None or x.flags.c_contiguous)
        ):
            return np.float64(math.sqrt(x.dot(x)))
        if type(x) is np.float64 and ord is None:
            number = float(x)
            return np.float64(math.sqrt(number * number))
    return np.linalg.norm(x, ord, axis, keepdims)


def hstack(arrays: Any) -> Any:
    """`numpy.hstack`, without its overhead for vectors or for float64 numbers."""
    if type(arrays) is tuple:
        kinds = {type(array) for array in arrays}
        if kinds == {np.float64}:
            return np.array(arrays)
        if kinds == {np.ndarray} and all(array.ndim == 1 for array in arrays):
            return np.concatenate(arrays)
    return np.hstack(arrays)


def tolerance(
    x: Any,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: Any = 0.0,
    sigmoid: Any = "gaussian",
    value_at_margin: float = 0.1,
) -> Any:
    """`metaworld.utils.reward_utils.tolerance`, in plain floats for the two sigmoids that the tasks use."""
    lower, upper = bounds
    if (
        not isinstance(x, float)
        or (sigmoid != "long_tail" and sigmoid != "gaussian")
        or value_at_margin != 0.1
        or lower > upper
        or margin < 0
    ):
        return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)
    value = float(x)
    if lower <= value <= upper:
        return 1.0
    margin = float(margin)
    if margin == 0:
        return 0.0
    distance = (float(lower) - value if value < lower else value - float(upper)) / margin
    try:
        if sigmoid == "long_tail":
            return 1 / ((distance * _LONG_TAIL_SCALE) ** 2 + 1)
        # NumPy's exponential and the C library's differ in the last bit.
        return float(np.exp(-0.5 * (distance * _GAUSSIAN_SCALE) ** 2))
    except OverflowError:
        return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)


class _Quaternion:
    """What `FastRotation.from_matrix` returns: a rotation of which only the quaternion is asked."""

    __slots__ = ("_quaternion",)

    def __init__(self, quaternion: npt.NDArray[np.float64]) -> None:
        self._quaternion = quaternion

    def as_quat(self) -> npt.NDArray[np.float64]:
        return self._quaternion


def quaternion_of(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The quaternion (x, y, z, w) of a rotation matrix [3, 3], as SciPy computes it."""
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = matrix.tolist()
    trace = m00 + m11 + m22
    largest = max(m00, m11, m22, trace)
    # The largest of four candidates decides; the first one where several are equal.
    if largest == m00:
        x, y, z, w = chosen, _, _, _ = 1 - trace + 2 * m00, m10 + m01, m20 + m02, m21 - m12
    elif largest == m11:
        x, y, z, w = _, chosen, _, _ = m10 + m01, 1 - trace + 2 * m11, m21 + m12, m02 - m20
    elif largest == m22:
        x, y, z, w = _, _, chosen, _ = m20 + m02, m21 + m12, 1 - trace + 2 * m22, m10 - m01
    else:
        x, y, z, w = _, _, _, chosen = m21 - m12, m02 - m20, m10 - m01, 1 + trace
    norm_squared = x * x + y * y + z * z + w * w
    # Holds for rotations only; SciPy first makes anything else one.
    if not abs(norm_squared - 4 * chosen) < _NORM_SQUARED_SLACK:
        return np.asarray(Rotation.from_matrix(matrix).as_quat(), np.float64)
    length = math.sqrt(norm_squared)
    return np.array((x / length, y / length, z / length, w / length))


class FastRotation:
    """Stands in for `scipy.spatial.transform.Rotation` where only ``from_matrix(…).as_quat()`` is used."""

    @staticmethod
    def from_matrix(matrix: Any) -> Any:
        if type(matrix) is np.ndarray and matrix.shape == (3, 3) and matrix.dtype is _FLOAT64:
            return _Quaternion(quaternion_of(matrix))
        return Rotation.from_matrix(matrix)


def _namespace(original: Any, **replaced: Any) -> types.ModuleType:
    namespace = types.ModuleType(original.__name__)
    namespace.__dict__.update(original.__dict__)
    namespace.__dict__.update(replaced)
    return namespace


fast_numpy = _namespace(np, hstack=hstack, linalg=_namespace(np.linalg, norm=norm))
"""NumPy with the functions above in it."""

fast_reward_utils = _namespace(reward_utils, tolerance=tolerance)
"""MetaWorld's reward utilities with the functions above in them."""
