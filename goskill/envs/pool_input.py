"""What a pool accepts: everything a caller gives is checked here and refused by name."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode

from goskill.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from goskill.envs.suite import Suite

_MOST_GROUPS = 255


def check_workers(workers: int | None) -> int:
    """``workers``, or as many as there are cores for this process. More than those only get in each other's way."""
    cores = len(os.sched_getaffinity(0))
    if workers is None:
        return cores
    if workers < 0:
        raise InputError(f"workers: expected at least 0, got {workers}")
    if workers > cores:
        warnings.warn(
            f"workers: {workers} are slower than {cores}, the number of cores for this process", stacklevel=2
        )
    return int(workers)


def check_sizes(num_envs: int, groups: int) -> None:
    """At least one environment, and at least one in each group."""
    if num_envs < 1:
        raise InputError(f"num_envs: expected at least 1, got {num_envs}")
    most = min(num_envs, _MOST_GROUPS)
    if not 1 <= groups <= most:
        raise InputError(f"groups: expected from 1 to {most} (one environment each), got {groups}")


def checked_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """The mode, also by its name in Gymnasium."""
    try:
        return AutoresetMode(mode)
    except ValueError:
        modes = ", ".join(known.value for known in AutoresetMode)
        raise InputError(f"autoreset_mode: expected one of {modes}, got {mode!r}") from None


def checked_actions(
    actions: npt.ArrayLike, space: Box, tasks: Sequence[str], indices: range, step: int
) -> npt.NDArray[Any]:
    """Actions [environments, action_dim] within the bounds of ``space``, for the environments ``indices``."""
    shape = (len(indices), *space.shape)
    try:
        array = np.asarray(actions, space.dtype)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"actions: expected {space.dtype} {list(shape)}, got {error} at step {step}"
        ) from None
    if array.shape != shape:
        raise InputError(
            f"actions: expected shape {list(shape)}, one row per environment, got {list(array.shape)} at step {step}"
        )
    inside = (array >= space.low) & (array <= space.high)
    if not inside.all():
        row = int(np.flatnonzero(~inside.all(1))[0])
        index = indices[row]
        raise InputError(
            f"actions: expected numbers in {bounds_of(space)}, got {array[row].tolist()} "
            f"for environment {index} ({tasks[index]}) at step {step}"
        )
    return array


def bounds_of(space: Box) -> str:
    """The bounds of all dimensions in a message, ``[-1, 1]``."""
    return f"[{space.low.min():g}, {space.high.max():g}]"


def checked_seeds(seed: int | Sequence[int | None] | None, num_envs: int) -> npt.NDArray[np.int64]:
    """A seed for each environment, int64 [N]; -1 where it goes on with its own random stream."""
    if seed is None:
        seeds: list[int | None] = [None] * num_envs
    elif isinstance(seed, (int, np.integer)):
        seeds = [int(seed) + index for index in range(num_envs)]
    elif isinstance(seed, Iterable):
        seeds = list(seed)
    else:
        raise InputError(f"seed: expected a whole number, or one for each environment, got {seed!r}")
    if len(seeds) != num_envs:
        raise InputError(f"seed: expected one for each of {num_envs} environments, got {len(seeds)}")
    for one in seeds:
        if one is not None and not (isinstance(one, int | np.integer) and 0 <= one < 2**63):
            raise InputError(f"seed: expected from 0 to 2**63 - 1, got {one!r}")
    return np.array([-1 if one is None else one for one in seeds], np.int64)


def checked_reset_options(
    options: dict[str, Any] | None, num_envs: int
) -> tuple[npt.NDArray[np.bool_], dict[str, Any] | None]:
    """``options["reset_mask"]``, bool [N], all true without one; and the other options, None without ``options``."""
    rest = dict(options or {})
    mask = np.asarray(rest.pop("reset_mask", np.ones(num_envs, np.bool_)))
    if mask.dtype != np.bool_ or mask.shape != (num_envs,) or not mask.any():
        kind = InputError if mask.dtype == np.bool_ else InputTypeError
        raise kind(
            f"reset_mask: expected bool [{num_envs}] with at least one true, got {mask.dtype} "
            f"{list(mask.shape)} with {int(np.count_nonzero(mask))} true"
        )
    return mask, None if options is None else rest


def checked_options(suite: Suite, options: dict[str, Any]) -> dict[str, Any]:
    """What `Suite.make` will be given besides task and seed."""
    mode = options["render_mode"]
    if mode is not None and mode not in suite.render_modes:
        modes = ", ".join(map(repr, suite.render_modes))
        raise InputError(f"render_mode: expected None or one of {modes}, got {mode!r}")
    try:
        inspect.signature(suite.make).bind(suite.tasks[0], None, **options)
    except TypeError as error:
        raise InputError(f"suite {suite.name!r}: make: {error}") from None
    return suite.prepare(options)
