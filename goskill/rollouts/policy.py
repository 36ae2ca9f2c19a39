"""What an object must offer to be rolled out: the interface between methods and environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from goskill.errors import InputError

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Demonstration:
    """One whole episode that shows a task, in the store's own units (not normalised).

    ``observations`` float32 [T + 1, observation_dim] (the final one included), ``actions`` float32
    [T, action_dim], ``rewards`` float32 [T].
    """

    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray


Prompts = Mapping[str, Sequence[Demonstration]]
"""Demonstrations by task name, best first."""


@runtime_checkable
class Policy(Protocol):
    """Acts in a batch of environments. It keeps its own caches from one call to the next.

    A policy may also have

    - ``observe(rewards, terminated)``, float32 [N] and bool [N]: called after each step with what each environment
      paid and whether that ended its episode (not: cut it short), for policies that are conditioned on the return to
      go or that learn; ``observe(rewards)`` will do;
    - ``fork()``: another policy that acts the same and has episodes of its own; evaluation then runs two
      halves of its episodes at the same time, in two threads;
    - ``needs_prompts`` True: every task must then come with at least one demonstration;
    - ``name``: what tables and figures call it (the class name otherwise);
    - what :class:`SkillPolicy` lists, from which skill usage is counted and drawn.
    """

    def reset(self, tasks: Sequence[str], prompts: Prompts, seed: int | Sequence[int] = 0) -> None:
        """Begin an episode in each of ``len(tasks)`` environments.

        ``seed`` decides every random choice. :func:`goskill.rollouts.evaluate` gives one per environment, so that an
        episode does not depend on which others run beside it. A policy may have a further argument ``rows``: the
        environments that begin an episode, one for each of ``tasks``, while the others go on
        (:class:`goskill.rollouts.staggered.StaggeredPolicy` gives it to any policy that can fork).
        """

    def act(self, observations: FloatArray) -> FloatArray:
        """Actions float32 [N, action_dim] in the action space for raw observations float32 [N, observation_dim].

        A policy that explores while it learns has a keyword ``explore``, False unless given.
        """


@runtime_checkable
class SkillPolicy(Policy, Protocol):
    """A policy that chooses one of ``skill_count`` skills every ``horizon`` steps."""

    skill_count: int
    horizon: int

    @property
    def skill_history(self) -> npt.NDArray[np.int64]:
        """The skills chosen since ``reset``: int64 [decisions, N], oldest first."""


def checked_observations(observations: npt.ArrayLike, count: int, size: int, when: str = "") -> FloatArray:
    """Those of ``count`` environments, contiguous [count, size]. Raises InputError for another shape, NaN, infinities.

    ``when`` ends what is said of the latter.
    """
    values = np.ascontiguousarray(observations, dtype=np.float32)
    if values.shape != (count, size):
        raise InputError(f"observations: expected shape {(count, size)} as reset, got {values.shape}")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        index = int(np.argmin(finite))
        raise InputError(f"observations: expected finite numbers, got others in environment {index}{when}")
    return values


def check_precision(precision: str) -> None:
    """Raises InputError for what policies cannot act in."""
    if precision not in ("float32", "bfloat16"):
        raise InputError(f"precision: expected 'float32' or 'bfloat16', got {precision!r}")


def checked_rewards(rewards: npt.ArrayLike, count: int) -> npt.NDArray[np.float64]:
    """What each of ``count`` environments paid, [N]. Raises InputError for another shape, NaN and infinities."""
    paid = np.asarray(rewards, dtype=np.float64)
    if paid.shape != (count,):
        raise InputError(f"rewards: expected shape {(count,)} as reset, got {paid.shape}")
    finite = np.isfinite(paid)
    if not finite.all():
        index = int(np.argmin(finite))
        raise InputError(f"rewards: expected finite numbers, got {paid[index]} from environment {index}")
    return paid
