"""One episode in each environment of a batch, step by step, whatever the environments make of an episode's end."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from goskill.envs.suite import Suite
from goskill.errors import InputError
from goskill.rollouts.policy import FloatArray, Policy, Prompts
from goskill.rollouts.schedule import EpisodeKey

VectorEnv = gymnasium.vector.VectorEnv[Any, Any, Any]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Moment:
    """What a ``record`` callback sees after each step. Arrays are [N, ...] over the environments of the
    batch.

    ``step`` counts from 1; ``observations`` are what the actions answered; ``returns`` are the sums of
    rewards so far; ``success`` says where this step was reported as one, ``alive`` where the episode was not over
    before this step; ``skills`` are those in charge, or None for
    a policy without skills.
    """

    episodes: Sequence[EpisodeKey]
    step: int
    observations: FloatArray
    actions: FloatArray
    rewards: npt.NDArray[np.float64]
    returns: npt.NDArray[np.float64]
    success: BoolArray
    alive: BoolArray
    skills: npt.NDArray[np.int64] | None


class BatchRun:
    """One episode in each environment, of which each counts until its own end.

    Raises InputError for actions that the environments cannot take, and for observations and rewards that are not
    finite, naming environment, task and step.
    """

    def __init__(
        self,
        policy: Policy,
        environments: VectorEnv,
        keys: Sequence[EpisodeKey],
        prompts: Prompts,
        seeds: Sequence[int],
        success_keys: Sequence[str] = Suite.success_keys,
    ) -> None:
        self.policy = policy
        self.environments = environments
        self.keys = keys
        self.seeds = list(seeds)
        count = len(keys)
        self.steps = 0
        self.returns = np.zeros(count, dtype=np.float64)
        self.lengths = np.zeros(count, dtype=np.int64)
        self.success_step = np.full(count, -1, dtype=np.int64)
        self.success_last = np.zeros(count, dtype=np.bool_)
        self.success_known = np.zeros(count, dtype=np.bool_)
        self.alive = np.ones(count, dtype=np.bool_)
        self._success_keys = success_keys
        mode = (getattr(environments, "metadata", None) or {}).get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._resets_by_hand = AutoresetMode(mode) is AutoresetMode.DISABLED
        self._over = np.zeros(count, dtype=np.bool_)
        policy.reset([key.task for key in keys], prompts, self.seeds)
        # Gymnasium's annotation of the base class leaves out the lists that its documentation promises.
        observations, _ = environments.reset(seed=self.seeds)  # type: ignore[arg-type]
        self._observations = self._observed(observations)
        self._tell = _teller(policy)

    def step(self, with_skills: bool = False) -> Moment:
        """Act once in every environment. An episode that its environment ended stops counting."""
        observations = self._observations
        actions = self._checked(self.policy.act(observations))
        if self._resets_by_hand and self._over.any():
            self.environments.reset(options={"reset_mask": self._over.copy()})
        following, paid, terminated, truncated, infos = self.environments.step(actions)
        self.steps += 1
        terminated = np.asarray(terminated, np.bool_)
        self._over = terminated | np.asarray(truncated, np.bool_)
        rewards = np.where(self.alive, self._paid(paid), 0.0)
        success, reported = reported_success(infos, len(self.keys), self._success_keys)
        success, reported = success & self.alive, reported & self.alive
        self.returns += rewards
        self.lengths += self.alive
        self.success_known |= reported
        self.success_step[success & (self.success_step < 0)] = self.steps
        self.success_last = np.where(reported, success, self.success_last)
        self._tell(rewards.astype(np.float32), terminated & self.alive)
        self._observations = self._observed(following)
        alive, self.alive = self.alive, self.alive & ~self._over
        return Moment(
            self.keys,
            self.steps,
            observations,
            actions,
            rewards,
            self.returns,
            success,
            alive,
            skill_history(self.policy)[-1] if with_skills and has_skills(self.policy) else None,
        )

    def _observed(self, observations: Any) -> FloatArray:
        array = _numbers("observations", observations, (len(self.keys), None), np.float32)
        self._check_finite("observations", array)
        return array

    def _paid(self, rewards: Any) -> npt.NDArray[np.float64]:
        array = _numbers("rewards", rewards, (len(self.keys),), np.float64)
        self._check_finite("rewards", array)
        return array

    def _check_finite(self, name: str, array: npt.NDArray[Any]) -> None:
        wrong = ~np.isfinite(array)
        wrong = (wrong if array.ndim == 1 else wrong.any(1)) & self.alive
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            values = array[index] if array.ndim == 1 else array[index][~np.isfinite(array[index])][0]
            raise InputError(
                f"environments: expected finite {name}, got {values} from {self._named(index)} at step {self.steps}"
            )

    def _named(self, index: int) -> str:
        key = self.keys[index]
        return f"environment {index} (task {key.task!r}, episode {key.index})"

    def _checked(self, actions: FloatArray) -> FloatArray:
        """``actions``, unless they are not what the environments can take."""
        space = self.environments.single_action_space
        if not isinstance(space, gymnasium.spaces.Box):
            raise InputError(f"environments: expected continuous actions, got {space}")
        actions = np.asarray(actions)
        expected = (len(self.keys), *space.shape)
        at = f"at step {self.steps + 1} of {', '.join(dict.fromkeys(key.task for key in self.keys))}"
        if actions.shape != expected:
            raise InputError(f"actions: expected shape {expected} {at}, got {actions.shape}")
        if not np.issubdtype(actions.dtype, np.floating):
            raise InputError(f"actions: expected floating point numbers {at}, got {actions.dtype}")
        wrong = ~((actions >= space.low) & (actions <= space.high))
        if wrong.any():
            environment, dimension = (int(index[0]) for index in np.nonzero(wrong))
            raise InputError(
                f"actions: expected numbers in [{space.low.min():g}, {space.high.max():g}], got "
                f"{actions[environment, dimension]} in dimension {dimension} of {self._named(environment)} "
                f"at step {self.steps + 1}"
            )
        return actions.astype(np.float32, copy=False)


def reported_success(
    infos: Mapping[str, Any], count: int, keys: Sequence[str] = Suite.success_keys
) -> tuple[BoolArray, BoolArray]:
    """What the infos of a step say about success, bool [N], and where they say anything, bool [N].

    An episode that ended in this step is asked in ``final_info`` where there is one: arrays by key as Gymnasium has
    them since 1.0, or one dictionary per environment as before.
    """
    success, reported = _in_arrays(infos, count, keys)
    final = infos.get("final_info")
    if final is None:
        return success, reported
    if isinstance(final, Mapping):
        ended = np.asarray(infos.get("_final_info", np.ones(count)), np.bool_)
        at_end, known = _in_arrays(final, count, keys)
    else:
        last = list(final)
        ended = np.array([one is not None for one in last], np.bool_)
        values = np.array([success_of(one or {}, keys) for one in last])
        at_end, known = values > 0, ~np.isnan(values)
    return np.where(ended, at_end, success), np.where(ended, known, reported)


def _in_arrays(infos: Mapping[str, Any], count: int, keys: Sequence[str]) -> tuple[BoolArray, BoolArray]:
    found = np.full(count, np.nan)
    for key in keys:
        if key in infos:
            values = np.array([_number(key, one) for one in np.asarray(infos[key]).reshape(-1)])
            if len(values) != count:
                raise InputError(f"infos: expected {key!r} of {count} environments, got {len(values)}")
            there = np.asarray(infos.get(f"_{key}", np.ones(count)), np.bool_)
            found = np.where(np.isnan(found) & there, values, found)
    return found > 0, ~np.isnan(found)


def success_of(info: Mapping[str, Any], keys: Sequence[str]) -> float:
    """What one environment's info says of success: above 0 is one, NaN says nothing."""
    told = (_number(key, info[key]) for key in keys if key in info)
    return next((value for value in told if not np.isnan(value)), np.nan)


def _number(key: str, value: Any) -> float:
    """NaN for what says nothing."""
    try:
        return np.nan if value is None else float(value)
    except (TypeError, ValueError):
        raise InputError(f"infos: expected {key!r} to be a number or a boolean, got {value!r}") from None


def _numbers(name: str, values: Any, shape: tuple[int | None, ...], dtype: type[Any]) -> npt.NDArray[Any]:
    try:
        array = np.asarray(values, dtype)
    except (TypeError, ValueError):
        array = np.empty(0, dtype)
    fits = array.ndim == len(shape) and all(
        size in (None, own) for size, own in zip(shape, array.shape, strict=True)
    )
    if not fits:
        expected = "[" + ", ".join("dimension" if size is None else str(size) for size in shape) + "]"
        got = f"shape {list(array.shape)}" if array.size else type(values).__name__
        raise InputError(f"environments: expected {name} as numbers {expected}, got {got}")
    return array


def _teller(policy: Policy) -> Callable[[FloatArray, BoolArray], None]:
    """``policy.observe``, of which the second argument is younger than the first."""
    observe = getattr(policy, "observe", None)
    if observe is None:
        return lambda rewards, terminated: None
    try:
        inspect.signature(observe).bind(None, None)
    except TypeError:
        return lambda rewards, terminated: observe(rewards)
    return observe  # type: ignore[no-any-return]


def has_skills(policy: Policy) -> bool:
    return getattr(policy, "skill_count", None) is not None


def skill_history(policy: Any) -> npt.NDArray[np.int64]:
    return np.asarray(policy.skill_history, dtype=np.int64)
