"""One episode of a store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Episode:
    """One whole episode of T steps, in the data's own units. The arrays are read-only views of the store.

    ``observations`` float32 [T + 1, observation_dim] (the final one included), ``actions`` float32
    [T, action_dim], ``rewards`` float32 [T], ``returns_to_go`` float32 [T] (undiscounted), ``success``
    bool [T] (the success signal after each step) or None where it was not recorded, ``task`` a name,
    ``return_`` the undiscounted return in float64.
    """

    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    rewards: npt.NDArray[np.float32]
    returns_to_go: npt.NDArray[np.float32]
    success: npt.NDArray[np.bool_] | None
    task: str
    return_: float
