"""Statistics of observations in float64, and the normalisation made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

_ROUNDING = 8 * float(np.finfo(np.float32).eps)  # 9.5e-7


@dataclass(frozen=True, eq=False)
class Normalization:
    """How observations are normalised: ``(x - mean) / std`` in float32.

    ``mean`` and ``std`` are float32 [observation_dim].
    """

    mean: Float32Array
    std: Float32Array

    def apply(self, observations: npt.NDArray[Any]) -> Float32Array:
        """Normalise observations [..., observation_dim], as the samplers do with ``normalize=True``."""
        result: Float32Array = (observations.astype(np.float32) - self.mean) / self.std
        return result


@dataclass(frozen=True, eq=False)
class Statistics:
    """Moments of every observation dimension; all arrays are float64 [dim].

    ``squares`` is the sum of squared deviations from ``mean``.
    """

    count: int
    mean: Float64Array
    squares: Float64Array
    minimum: Float64Array
    maximum: Float64Array

    @classmethod
    def empty(cls, dim: int) -> Statistics:
        """Statistics of no rows."""
        return cls(0, np.zeros(dim), np.zeros(dim), np.full(dim, np.inf), np.full(dim, -np.inf))

    @classmethod
    def of(cls, rows: npt.NDArray[Any]) -> Statistics:
        """Statistics of rows [N, dim], N >= 1."""
        # One row per dimension: contiguous sums are faster, and pairwise.
        values = np.array(rows.T, dtype=np.float64, order="C")
        mean, minimum, maximum = values.mean(axis=1), values.min(axis=1), values.max(axis=1)
        values -= mean[:, None]
        return cls(len(rows), mean, np.einsum("dn,dn->d", values, values), minimum, maximum)

    def merge(self, other: Statistics) -> Statistics:
        """Statistics of both sets of rows (Chan, Golub and LeVeque's pairwise update)."""
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        share = other.count / count
        return Statistics(
            count,
            self.mean + delta * share,
            self.squares + other.squares + delta**2 * (self.count * share),
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
        )

    @property
    def std(self) -> Float64Array:
        """Population standard deviation float64 [dim]."""
        return np.sqrt(self.squares / max(self.count, 1))

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Dimensions [dim] that do not vary, or by no more than rounding, as those of an object that lies still.

        Rounding: a std of at most 8 units in the last place of float32, as which observations are stored, at the
        dimension's largest magnitude, or at 1 if that is less: parts of a unit quaternion round at the whole's scale.
        """
        if self.count == 0:
            return np.zeros(len(self.mean), dtype=np.bool_)
        magnitude = np.maximum(np.abs(self.minimum), np.abs(self.maximum))
        rounding = self.std <= _ROUNDING * np.maximum(magnitude, 1.0)
        return np.asarray(rounding | (self.minimum == self.maximum), dtype=np.bool_)

    @property
    def rounding(self) -> npt.NDArray[np.bool_]:
        """Those :attr:`constant` dimensions [dim] that do vary, by rounding."""
        return np.asarray(self.constant & (self.minimum != self.maximum), dtype=np.bool_)

    def normalization(self) -> Normalization:
        """Mean and std + 1e-6 in float32; :attr:`constant` dimensions are only centred.

        Were they divided by what little they vary, any later variation would explode.
        """
        std = np.where(self.constant, 1.0, self.std + 1e-6)
        return Normalization(self.mean.astype(np.float32), std.astype(np.float32))

    def to_json(self) -> dict[str, Any]:
        """Plain lists, exact in float64."""
        arrays = {name: getattr(self, name).tolist() for name in ("mean", "squares", "minimum", "maximum")}
        return {"count": self.count, **arrays}
