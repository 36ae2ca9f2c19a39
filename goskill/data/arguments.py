"""Checks of what samplers and selections are told."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from goskill.data.store import EpisodeStore
from goskill.errors import InputError

# Of horizons, windows and batches: the native samplers multiply two of them in 64 bits.
MOST_STEPS = 2**31 - 1
LARGEST_SEED = 2**63 - 1


def checked_integer(name: str, value: int, least: int, most: int | None = None) -> int:
    """The value as an int of at least ``least`` and at most ``most``. InputError names the argument otherwise."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name}: expected an integer {wanted}, got {value!r}")
    return int(value)


def checked_flag(name: str, value: bool) -> bool:
    """The value as a bool. InputError names the argument if it is none."""
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name}: expected True or False, got {value!r:.80}")
    return bool(value)


def checked_scale(name: str, value: float) -> float:
    """The value as a finite float above 0. InputError names the argument otherwise."""
    if not is_real(value) or not 0 < value < float("inf"):
        raise InputError(f"{name}: expected a finite number above 0, got {value!r:.80}")
    return float(value)


def checked_share(name: str, value: float) -> float:
    """The value as a float in [0, 1]. InputError names the argument otherwise."""
    if not is_real(value) or not 0 <= value <= 1:
        raise InputError(f"{name}: expected a number in [0, 1], got {value!r:.80}")
    return float(value)


def is_real(value: object) -> bool:
    """Whether a value is a real number, of Python or NumPy; bools are none."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def checked_store(store: EpisodeStore) -> EpisodeStore:
    """A store with episodes. InputError otherwise."""
    if not isinstance(store, EpisodeStore):
        raise InputError(f"store: expected an EpisodeStore (see EpisodeStore.open), got {store!r:.80}")
    if store.num_episodes == 0:
        raise InputError(f"store: {store.path} has no episodes to sample from")
    return store


def checked_indices(name: str, value: npt.ArrayLike, store: EpisodeStore) -> list[int]:
    """Indices of episodes of the store. InputError names the argument otherwise."""
    array = np.asarray(value)
    if array.size == 0:
        return []
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"{name}: expected integers [n], got dtype {array.dtype} and shape {list(array.shape)}"
        )
    for index in (array.min(), array.max()):
        if not 0 <= index < store.num_episodes:
            raise InputError(f"{name}: expected indices in [0, {store.num_episodes}), got {index}")
    return [int(i) for i in array]
