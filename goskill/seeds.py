"""Which seeds goskill takes."""

from __future__ import annotations

from numbers import Integral

from goskill.errors import InputError


def check_seed(name: str, seed: int) -> int:
    """``seed`` as a plain integer. Raises InputError that names it unless it is an integer in [0, 2**60).

    The rest of 64 bits leaves room for the seeds that are derived from it.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 1 << 60:
        raise InputError(f"{name}: expected an integer from 0 to 2**60 - 1, got {seed!r}")
    return int(seed)
