"""Rolling a policy out: many environments per forward pass, the paper's evaluation protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event, Lock
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from goskill.envs.pool_input import check_workers
from goskill.errors import InputError
from goskill.evaluation.results import Protocol, Results, Skills, TaskEpisodes, package_versions
from goskill.rollouts.policy import FloatArray, Policy, Prompts
from goskill.rollouts.schedule import EpisodeKey, Part, schedule
from goskill.rollouts.side_by_side import half_of_torchs_threads, run_side_by_side
from goskill.seeds import check_seed

VectorEnv = gymnasium.vector.VectorEnv[Any, Any, Any]
MakeEnvironments = Callable[[Sequence[str]], VectorEnv]


@dataclass(frozen=True)
class Moment:
    """What a ``record`` callback sees after each step. Arrays are [N, ...] over the environments of the
    batch.

    ``step`` counts from 1; ``observations`` are what the actions answered; ``returns`` are the sums of
    rewards so far; ``success`` is this step's; ``skills`` are those in charge, or None for a policy without
    skills.
    """

    episodes: Sequence[EpisodeKey]
    step: int
    observations: FloatArray
    actions: FloatArray
    rewards: npt.NDArray[np.float64]
    returns: npt.NDArray[np.float64]
    success: npt.NDArray[np.bool_]
    skills: npt.NDArray[np.int64] | None


def evaluate(
    policy: Policy,
    tasks: Sequence[str],
    episodes: int = 50,
    *,
    prompts: Prompts | None = None,
    seed: int = 0,
    episode_seeds: Mapping[str, Sequence[int]] | None = None,
    workers: int | None = None,
    max_steps: int = 500,
    batch: int = 250,
    progress: Callable[[int, int], None] | None = None,
    record: Callable[[Moment], None] | None = None,
    make_environments: MakeEnvironments | None = None,
) -> Results:
    """Run ``episodes`` episodes of each task and sum them up.

    Every episode starts from a new object and goal position, decided by (seed, task, index of the episode)
    alone, and goes on for ``max_steps`` steps whether it succeeds or not. ``episode_seeds`` replaces what the
    environments of a task are reset with, ``episodes`` numbers each. At most ``batch`` environments
    live at a time, in two halves that act and step side by side where the policy can ``fork``, with half of
    torch's threads each. The results don't depend on ``workers``; on ``batch``, the number of torch's threads and
    the device they depend through the rounding of the policy's own arithmetic only.
    ``progress(done, total)`` hears of environment steps. ``make_environments(tasks)`` replaces the pools of
    :func:`goskill.envs.make_vec` by any Gymnasium vector environment with one sub-environment per task name,
    in one piece.

    Raises InputError for wrong arguments, for a policy that needs prompts and does not get them, and for
    actions that are misshapen, NaN or out of range, naming environment, task and step.
    """
    seed = check_seed("seed", seed)
    _check_arguments(tasks, episodes=episodes, max_steps=max_steps, batch=batch)
    prompts = prompts or {}
    _check_prompts(policy, tasks, prompts)
    workers = check_workers(workers) if make_environments is None else 0
    seed_of = _seeds(seed, tasks, episodes, episode_seeds)
    rollout = _Rollout(policy, tasks, episodes, prompts, seed_of, max_steps, progress, record)
    for group in schedule(tasks, episodes, batch):
        if make_environments is not None:
            rollout.play(policy, make_environments, group.whole, Event())
        elif not hasattr(policy, "fork"):
            rollout.play(policy, partial(_make_metaworld, workers=workers), group.whole, Event())
        else:
            rollout.play_halves(group.halves, workers)
    protocol = Protocol(episodes=episodes, max_steps=max_steps, seed=seed, batch=batch)
    return rollout.results(protocol)


class _Rollout:
    """An evaluation under way, whose parts may run side by side."""

    def __init__(
        self,
        policy: Policy,
        tasks: Sequence[str],
        episodes: int,
        prompts: Prompts,
        seed_of: Callable[[EpisodeKey], int],
        max_steps: int,
        progress: Callable[[int, int], None] | None,
        record: Callable[[Moment], None] | None,
    ) -> None:
        self._policy = policy
        self._prompts = prompts
        self._seed_of = seed_of
        self._max_steps = max_steps
        self._progress = progress
        self._record = record
        self._collected = _Collected(policy, tasks, episodes)
        self._done, self._total = 0, len(tasks) * episodes * max_steps
        self._lock = Lock()
        self.results = self._collected.results

    def play_halves(self, parts: Sequence[Part], workers: int) -> None:
        """Parts with workers and a policy each, side by side where there is a worker for each."""
        shares = [max(workers // len(parts), min(workers, 1)) for _ in parts]
        jobs = [
            partial(self.play, self._policy.fork(), partial(_make_metaworld, workers=share), part)  # type: ignore[attr-defined]
            for share, part in zip(shares, parts, strict=True)
        ]
        with half_of_torchs_threads():
            if len(parts) <= workers:
                run_side_by_side(jobs)
            else:
                for job in jobs:
                    job(Event())

    def play(self, policy: Policy, make: MakeEnvironments, part: Part, stop: Event) -> None:
        """All rounds of a part, in one set of environments, until ``stop`` is set."""
        environments = make(part.environments)
        try:
            for keys in part.rounds:
                seeds = [self._seed_of(key) for key in keys]
                run = BatchRun(policy, environments, keys, self._prompts, seeds)
                self._play_round(run, stop)
                if stop.is_set():
                    return
                with self._lock:
                    self._collected.add(run)
        finally:
            environments.close()

    def _play_round(self, run: BatchRun, stop: Event) -> None:
        counted = sum(not key.spare for key in run.keys)
        for step in range(1, self._max_steps + 1):
            moment = run.step(with_skills=self._record is not None)
            over = step == self._max_steps or not run.alive.any()
            with self._lock:
                self._done += counted * (self._max_steps - step + 1 if over else 1)
                if self._record is not None:
                    self._record(moment)
                if self._progress is not None:
                    self._progress(self._done, self._total)
            if over or stop.is_set():
                return


class BatchRun:
    """One episode in each environment of a batch, step by step."""

    def __init__(
        self,
        policy: Policy,
        environments: VectorEnv,
        keys: Sequence[EpisodeKey],
        prompts: Prompts,
        seeds: Sequence[int],
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
        self.alive = np.ones(count, dtype=np.bool_)
        policy.reset([key.task for key in keys], prompts, self.seeds)
        # Gymnasium's annotation of the base class leaves out the lists that its documentation promises.
        observations, _ = environments.reset(seed=self.seeds)  # type: ignore[arg-type]
        self._observations = np.asarray(observations, dtype=np.float32)
        self._observe = getattr(policy, "observe", None)

    def step(self, with_skills: bool = False) -> Moment:
        """Act once in every environment. An episode that its environment ended stops counting."""
        observations = self._observations
        actions = self._checked(self.policy.act(observations))
        following, rewards, terminated, truncated, infos = self.environments.step(actions)
        rewards = np.where(self.alive, rewards, 0.0)
        success = np.asarray(infos.get("success", np.zeros(len(self.keys)))) > 0
        self.steps += 1
        self.returns += rewards
        self.lengths += self.alive
        self.success_step[self.alive & success & (self.success_step < 0)] = self.steps
        self.success_last = np.where(self.alive, success, self.success_last)
        if self._observe is not None:
            self._observe(rewards.astype(np.float32))
        self.alive &= ~(np.asarray(terminated) | np.asarray(truncated))
        self._observations = np.asarray(following, dtype=np.float32)
        return Moment(
            self.keys,
            self.steps,
            observations,
            actions,
            rewards,
            self.returns,
            success,
            _skill_history(self.policy)[-1] if with_skills and _has_skills(self.policy) else None,
        )

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
                f"{actions[environment, dimension]} in dimension {dimension} of environment {environment} "
                f"(task {self.keys[environment].task!r}, episode {self.keys[environment].index}) "
                f"at step {self.steps + 1}"
            )
        return actions.astype(np.float32, copy=False)


class _Collected:
    """The finished episodes of an evaluation, put in order."""

    def __init__(self, policy: Policy, tasks: Sequence[str], episodes: int) -> None:
        self._policy = policy  # what its episodes have in common; each run has a policy of its own
        self._episodes = {task: TaskEpisodes.empty(episodes) for task in tasks}
        self._usage: dict[str, npt.NDArray[np.int64]] = {}
        self._first: dict[str, list[int]] = {}

    def add(self, run: BatchRun) -> None:
        history = _skill_history(run.policy) if _has_skills(run.policy) else None
        for position, key in enumerate(run.keys):
            if key.spare:
                continue
            rows = self._episodes[key.task]
            rows.seed[key.index] = run.seeds[position]
            rows.returns[key.index] = run.returns[position]
            rows.success_step[key.index] = run.success_step[position]
            rows.success_last[key.index] = run.success_last[position]
            rows.length[key.index] = run.lengths[position]
            if history is not None:
                self._add_skills(key, history[:, position], int(run.lengths[position]))

    def _add_skills(self, key: EpisodeKey, history: npt.NDArray[np.int64], length: int) -> None:
        count, horizon = _skill_shape(self._policy)
        chosen = history[: -(-length // horizon)]
        usage = self._usage.setdefault(key.task, np.zeros(count, dtype=np.int64))
        usage += np.bincount(chosen, minlength=count)
        if key.index == 0:
            self._first[key.task] = chosen.tolist()

    def results(self, protocol: Protocol) -> Results:
        skills = None
        if self._usage:
            count, horizon = _skill_shape(self._policy)
            usage = {task: self._usage[task].tolist() for task in self._episodes}
            skills = Skills(count, horizon, usage, {task: self._first[task] for task in self._episodes})
        name = str(getattr(self._policy, "name", type(self._policy).__name__))
        return Results(name, protocol, self._episodes, skills=skills, versions=package_versions())


def _has_skills(policy: Policy) -> bool:
    return getattr(policy, "skill_count", None) is not None


def _skill_history(policy: Any) -> npt.NDArray[np.int64]:
    return np.asarray(policy.skill_history, dtype=np.int64)


def _skill_shape(policy: Any) -> tuple[int, int]:
    return int(policy.skill_count), int(policy.horizon)


def _make_metaworld(tasks: Sequence[str], workers: int) -> VectorEnv:
    from goskill.envs import make_vec

    environments: VectorEnv = make_vec(tasks, workers=workers, autoreset_mode=AutoresetMode.DISABLED)
    return environments


def _seeds(
    seed: int, tasks: Sequence[str], episodes: int, given: Mapping[str, Sequence[int]] | None
) -> Callable[[EpisodeKey], int]:
    from goskill.envs import episode_seed

    if given is None:
        return lambda key: episode_seed(seed, key.task, key.index)
    for task in tasks:
        if len(given.get(task, ())) != episodes:
            raise InputError(
                f"episode_seeds: expected {episodes} of task {task!r}, got {len(given.get(task, ()))}"
            )
    return lambda key: int(given[key.task][key.index])


def _check_arguments(tasks: Sequence[str], **counts: int) -> None:
    if isinstance(tasks, str) or not tasks:
        raise InputError(f"tasks: expected a list of at least one task, got {tasks!r}")
    repeated = [task for index, task in enumerate(tasks) if task in tasks[:index]]
    if repeated:
        raise InputError(f"tasks: expected each task once, got {repeated[0]!r} twice")
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}")


def _check_prompts(policy: Policy, tasks: Sequence[str], prompts: Prompts) -> None:
    missing = [task for task in tasks if not prompts.get(task)]
    if missing and getattr(policy, "needs_prompts", False):
        raise InputError(
            f"prompts: expected at least one demonstration of each task, got none of {missing[0]!r}"
        )
