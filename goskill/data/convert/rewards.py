"""Rewards of datasets that may have none: never zero unless the caller says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.errors import InputError, StoreError


def check_option(missing_rewards: object) -> None:
    """InputError unless it is None or "zero"."""
    if missing_rewards not in (None, "zero"):
        raise InputError(f"missing_rewards: expected None or 'zero', got {missing_rewards!r:.80}")


def rewards_of(
    where: str, rewards: npt.NDArray[Any] | None, steps: int, missing_rewards: str | None
) -> npt.NDArray[Any]:
    """The rewards, or zeros where there are none and the caller wants zeros. StoreError otherwise."""
    if rewards is not None:
        return rewards
    if missing_rewards is None:
        raise StoreError(f"{where}: has no rewards: give missing_rewards='zero' to store zeros")
    return np.zeros(steps, np.float32)
