"""Policies whose environments begin episodes at different times."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.errors import InputError
from goskill.rollouts.policy import FloatArray, Policy, Prompts, checked_rewards


@dataclass
class _Cohort:
    """Environments whose episodes began together, and the policy that acts in them."""

    policy: Any
    rows: npt.NDArray[np.int64]  # environments, those that have begun another episode since included


class StaggeredPolicy:
    """Any policy that can ``fork``, with ``reset`` of some environments while the others go on.

    Environments that are reset together are a batch of their own from then on. One that is reset leaves its batch,
    whose row for it goes on unread until all have left it: resets that come one by one cost a batch each.

    Args:
        policy: acts in each batch. A policy that cannot ``fork`` takes resets of all environments only.
        prompts: demonstrations by task for ``reset`` calls without any.
    """

    def __init__(self, policy: Policy, prompts: Prompts | None = None) -> None:
        self.name = str(getattr(policy, "name", type(policy).__name__))
        self.needs_prompts = bool(getattr(policy, "needs_prompts", False))
        self.prompts = dict(prompts or {})
        self._policy: Any = policy
        self._tasks: list[str] = []
        self._cohorts: list[_Cohort] = []
        self._cohort = np.zeros(0, dtype=np.int64)  # of each environment, an index

    def reset(
        self,
        tasks: Sequence[str],
        prompts: Prompts | None = None,
        seed: int | Sequence[int] = 0,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Begin episodes of ``tasks``: in all environments, whose number is theirs, or in those of ``rows``, one each.

        Raises InputError for rows that are no environments or come twice, and for what the policy refuses.
        """
        if rows is None:
            chosen = np.arange(len(tasks))
            self._tasks = list(tasks)
            self._cohorts, self._cohort = [], np.full(len(tasks), -1)
        else:
            chosen = self._checked_rows(rows, len(tasks))
        policy = self._fork()
        policy.reset(list(tasks), self.prompts if prompts is None else prompts, seed)
        for row, task in zip(chosen.tolist(), tasks, strict=True):
            self._tasks[row] = task
        self._cohort[chosen] = len(self._cohorts)
        self._cohorts.append(_Cohort(policy, chosen))
        self._drop_empty()

    def act(self, observations: FloatArray, *, explore: bool = False) -> FloatArray:
        """Actions float32 [N, action_dim] for raw observations [N, observation_dim]."""
        observations = np.asarray(observations, dtype=np.float32)
        if len(observations) != len(self._tasks):
            raise InputError(
                f"observations: expected {len(self._tasks)} rows as reset, got {len(observations)}"
            )
        actions: FloatArray | None = None
        for index, cohort in enumerate(self._cohorts):
            own = np.asarray(act(cohort.policy, observations[cohort.rows], explore), dtype=np.float32)
            if actions is None:
                actions = np.zeros((len(observations), own.shape[1]), dtype=np.float32)
            live = self._cohort[cohort.rows] == index
            actions[cohort.rows[live]] = own[live]
        if actions is None:
            raise InputError("act: expected a reset before the first action")
        return actions

    def observe(self, rewards: npt.ArrayLike, terminated: npt.ArrayLike | None = None) -> None:
        """What each environment paid for the last action, [N], and whether its episode ended by it, bool [N].

        Raises InputError for other shapes, and for rewards that are not finite.
        """
        paid = checked_rewards(rewards, len(self._tasks))
        ended = np.zeros(len(paid), np.bool_) if terminated is None else np.asarray(terminated, np.bool_)
        if ended.shape != paid.shape:
            raise InputError(f"terminated: expected shape {paid.shape} as reset, got {ended.shape}")
        for index, cohort in enumerate(self._cohorts):
            live = self._cohort[cohort.rows] == index
            observe(cohort.policy, np.where(live, paid[cohort.rows], 0.0), ended[cohort.rows])

    def _fork(self) -> Any:
        if hasattr(self._policy, "fork"):
            return self._policy.fork()
        if self._cohorts:
            raise InputError(f"rows: expected None, {self.name} begins all its episodes together")
        return self._policy

    def _checked_rows(self, rows: Sequence[int], count: int) -> npt.NDArray[np.int64]:
        chosen = np.asarray(rows, dtype=np.int64)
        fits = chosen.ndim == 1 and len(set(chosen.tolist())) == len(chosen) == count > 0
        if not fits or chosen.min() < 0 or chosen.max() >= len(self._tasks):
            raise InputError(
                f"rows: expected {count} different ones of {len(self._tasks)} environments, got {rows!r:.80}"
            )
        return chosen

    def _drop_empty(self) -> None:
        kept = [index for index in range(len(self._cohorts)) if (self._cohort == index).any()]
        place = np.full(len(self._cohorts), -1)
        place[kept] = np.arange(len(kept))
        self._cohort = place[self._cohort]
        self._cohorts = [self._cohorts[index] for index in kept]


def act(policy: Any, observations: FloatArray, explore: bool = False) -> FloatArray:
    """A policy's actions; policies that do not explore are not asked to."""
    if explore and "explore" in inspect.signature(policy.act).parameters:
        actions: FloatArray = policy.act(observations, explore=True)
        return actions
    actions = policy.act(observations)
    return actions


def observe(policy: Any, rewards: npt.NDArray[np.float64], terminated: npt.NDArray[np.bool_]) -> None:
    """Tell a policy what came of its actions, if it wants to know: rewards, and ends if it takes them."""
    if not hasattr(policy, "observe"):
        return
    if len(inspect.signature(policy.observe).parameters) > 1:
        policy.observe(rewards, terminated)
    else:
        policy.observe(rewards.astype(np.float32))
