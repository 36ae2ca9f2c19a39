"""Statistics of observations in float64, and the normalisation made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]


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

    def normalization(self) -> Normalization:
        """Mean and std + 1e-6 in float32; a constant dimension is only centred.

        Were a constant dimension divided by 1e-6, any later variation of it would explode.
        """
        std = np.where(self.minimum == self.maximum, 1.0, self.std + 1e-6)
        return Normalization(self.mean.astype(np.float32), std.astype(np.float32))

    def to_json(self) -> dict[str, Any]:
        """Plain lists, exact in float64."""
        arrays = {name: getattr(self, name).tolist() for name in ("mean", "squares", "minimum", "maximum")}
        return {"count": self.count, **arrays}
