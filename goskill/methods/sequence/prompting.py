"""Demonstrations as prompts: which of their decision points are shown, and whether they fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from goskill.errors import InputError
from goskill.models import Decisions
from goskill.rollouts.policy import Demonstration


def last_decisions(
    demonstrations: Sequence[Demonstration],
    choices: Tensor,
    normalize: Callable[[Tensor], Tensor],
    *,
    length: int,
    horizon: int,
    return_scale: float,
) -> Decisions:
    """The last decision points of each demonstration, as rows of [len(demonstrations), length, ...].

    They end at the demonstration's end, ``horizon`` steps apart; a demonstration with fewer is padded on the
    left, as ``goskill.data.ContextSampler`` does. ``choices`` [steps, ...] are what the policy embeds of every step
    of all demonstrations, one after the other; the device is theirs.
    """
    P, H = length, horizon
    count = len(demonstrations)
    steps = np.zeros((count, P), dtype=np.int64)  # in all demonstrations, one after the other
    rows = np.zeros((count, P), dtype=np.int64)  # their observations, of which each has one more
    timesteps = np.zeros((count, P), dtype=np.int64)
    to_go = np.zeros((count, P), dtype=np.float64)
    mask = np.zeros((count, P), dtype=np.bool_)
    first = 0
    for index, demonstration in enumerate(demonstrations):
        T = len(demonstration.rewards)
        points = min(P, max(T // H, 1))
        times = np.maximum(T - points * H, 0) + H * np.arange(points)
        here = slice(P - points, P)
        steps[index, here], rows[index, here] = first + times, first + index + times
        timesteps[index, here], mask[index, here] = times // H, True
        to_go[index, here] = _returns_to_go(demonstration)[times] / return_scale
        first += T
    device = choices.device
    observations = np.concatenate([demonstration.observations for demonstration in demonstrations])
    return Decisions(
        returns_to_go=torch.from_numpy(to_go).float().to(device)[..., None],
        observations=normalize(torch.from_numpy(observations[rows]).to(device)),
        choices=choices[torch.from_numpy(steps).to(device)],
        timesteps=torch.from_numpy(timesteps).to(device),
        mask=None if mask.all() else torch.from_numpy(mask).to(device),
    )


def check_demonstrations(
    task: str,
    demonstrations: Sequence[Demonstration],
    *,
    observation_dim: int,
    action_dim: int,
    horizon: int,
    max_decisions: int,
) -> None:
    """Raises InputError, naming the task, if there are none or one of them does not fit a policy."""
    if not demonstrations:
        raise InputError(f"prompts: expected at least one demonstration of task {task!r}, got none")
    for index, demonstration in enumerate(demonstrations):
        T = len(demonstration.rewards)
        which = f"demonstration {index} of task {task!r}"
        expected = {
            "observations": (T + 1, observation_dim),
            "actions": (T, action_dim),
            "rewards": (T,),
        }
        for name, shape in expected.items():
            values = np.asarray(getattr(demonstration, name))
            if values.shape != shape or T == 0:
                raise InputError(
                    f"prompts: expected {name} of shape {shape}, at least one step, in {which}, "
                    f"got {values.shape}"
                )
            if not np.isfinite(values).all():
                raise InputError(f"prompts: expected finite {name} in {which}, got others")
        if (T - 1) // horizon >= max_decisions:
            raise InputError(f"prompts: expected at most {max_decisions} decisions in {which}, got {T} steps")


def demonstrated_return(demonstration: Demonstration) -> float:
    """Undiscounted sum of a demonstration's rewards."""
    return float(np.sum(demonstration.rewards, dtype=np.float64))


def _returns_to_go(demonstration: Demonstration) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    rewards: np.ndarray[tuple[int], np.dtype[np.float64]] = np.asarray(
        demonstration.rewards, dtype=np.float64
    )
    return np.cumsum(rewards[::-1])[::-1]
