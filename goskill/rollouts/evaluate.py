"""Rolling a policy out: many environments per forward pass, the paper's evaluation protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Event, Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.envs.metaworld.tasks import episode_seed
from goskill.envs.suite import Suite
from goskill.envs.suite_processes import choose_workers
from goskill.envs.suite_registry import find_suite
from goskill.errors import InputError
from goskill.evaluation.results import UNKNOWN, Protocol, Results, Skills, TaskEpisodes, package_versions
from goskill.rollouts.batch_run import BatchRun, Moment, VectorEnv, has_skills, skill_history
from goskill.rollouts.policy import Policy, Prompts
from goskill.rollouts.schedule import EnvironmentPart, EpisodeKey, schedule
from goskill.rollouts.side_by_side import half_of_torchs_threads, run_side_by_side
from goskill.seeds import check_seed

MakeEnvironments = Callable[[Sequence[str]], VectorEnv]
OpenEnvironments = Callable[[Sequence[str], int], VectorEnv]
"""(a task per environment, worker processes) -> environments."""


def evaluate(
    policy: Policy,
    tasks: Sequence[str],
    episodes: int = 50,
    *,
    suite: Suite | str | None = None,
    prompts: Prompts | None = None,
    seed: int = 0,
    episode_seeds: Mapping[str, Sequence[int]] | None = None,
    workers: int | None = None,
    max_steps: int | None = None,
    batch: int = 250,
    progress: Callable[[int, int], None] | None = None,
    record: Callable[[Moment], None] | None = None,
    make_environments: MakeEnvironments | None = None,
) -> Results:
    """Run ``episodes`` episodes of each task of ``suite`` (by default MetaWorld) and sum them up.

    Every episode starts from a new state, decided by (seed, task, index of the episode) alone, and goes on until the
    environment ends it or ``max_steps`` (by default the suite's) are over, whether it has succeeded or not.
    ``episode_seeds`` replaces what the environments of a task are reset with, ``episodes`` numbers each. At most
    ``batch`` environments live at a time, in two halves that act and step side by side where the policy can ``fork``,
    with half of torch's threads each. The results don't depend on ``workers``; on ``batch``, the number of torch's
    threads and the device they depend through the rounding of the policy's own arithmetic only.
    ``progress(done, total)`` is called with numbers of environment steps.

    ``make_environments(tasks)`` replaces the suite's pools by any Gymnasium vector environment with one
    sub-environment per task name, in one piece; the names are up to the caller then, ``max_steps`` is 500 by default,
    and all autoreset modes will do.

    Success is what infos report as ``success`` or ``is_success`` (or the suite's own keys) at any step, or in
    ``final_info``. It is unknown, not zero, for episodes in which nothing reports it.

    Raises InputError for wrong arguments, for a policy that needs prompts and does not get them, for actions that are
    misshapen, NaN or out of range, and for observations and rewards that are not finite, naming environment, task and
    step.
    """
    seed = check_seed("seed", seed)
    found = None if suite is None and make_environments is not None else find_suite(suite or "metaworld")
    if max_steps is None:
        max_steps = 500 if found is None else found.max_steps
    _check_arguments(tasks, episodes=episodes, max_steps=max_steps, batch=batch)
    prompts = prompts or {}
    _check_prompts(policy, tasks, prompts)
    seed_of = _seeds(seed, found, tasks, episodes, episode_seeds)
    if make_environments is not None:
        given, workers = make_environments, 0
        open_environments: OpenEnvironments = lambda tasks, workers: given(tasks)  # noqa: E731
    else:
        own = find_suite(found or "metaworld")
        workers = choose_workers(own, workers)
        open_environments = lambda tasks, workers: own.make_vec(tasks, workers=workers)  # noqa: E731
    rollout = _Rollout(
        policy, tasks, episodes, found, open_environments, prompts, seed_of, max_steps, progress, record
    )
    for group in schedule(tasks, episodes, batch):
        if make_environments is None and hasattr(policy, "fork"):
            rollout.play_halves(group.halves, workers)
        else:
            rollout.play(policy, workers, group.whole, Event())
    name = None if found is None else found.name
    protocol = Protocol(episodes=episodes, max_steps=max_steps, seed=seed, batch=batch, suite=name)
    return rollout.results(protocol)


class _Rollout:
    """An evaluation under way, whose parts may run side by side."""

    def __init__(
        self,
        policy: Policy,
        tasks: Sequence[str],
        episodes: int,
        suite: Suite | None,
        open_environments: OpenEnvironments,
        prompts: Prompts,
        seed_of: Callable[[EpisodeKey], int],
        max_steps: int,
        progress: Callable[[int, int], None] | None,
        record: Callable[[Moment], None] | None,
    ) -> None:
        self._policy = policy
        self._success_keys = Suite.success_keys if suite is None else suite.success_keys
        self._open = open_environments
        self._prompts = prompts
        self._seed_of = seed_of
        self._max_steps = max_steps
        self._progress = progress
        self._record = record
        self._collected = _Collected(policy, tasks, episodes, suite)
        self._done, self._total = 0, len(tasks) * episodes * max_steps
        self._lock = Lock()
        self.results = self._collected.results

    def play_halves(self, parts: Sequence[EnvironmentPart], workers: int) -> None:
        """Parts with workers and a policy each, side by side where there is a worker for each."""
        shares = [max(workers // len(parts), min(workers, 1)) for _ in parts]
        jobs = [
            partial(self.play, self._policy.fork(), share, part)  # type: ignore[attr-defined]
            for share, part in zip(shares, parts, strict=True)
        ]
        with half_of_torchs_threads():
            if len(parts) <= workers:
                run_side_by_side(jobs)
            else:
                for job in jobs:
                    job(Event())

    def play(self, policy: Policy, workers: int, part: EnvironmentPart, stop: Event) -> None:
        """All rounds of a part, in one set of environments, until ``stop`` is set."""
        environments = self._open(part.environments, workers)
        try:
            _check_environments(environments, part.environments, self._prompts)
            for episodes in part.rounds:
                seeds = [self._seed_of(key) for key in episodes]
                run = BatchRun(policy, environments, episodes, self._prompts, seeds, self._success_keys)
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


class _Collected:
    """The finished episodes of an evaluation, put in order."""

    def __init__(self, policy: Policy, tasks: Sequence[str], episodes: int, suite: Suite | None) -> None:
        self._packages = Suite.packages if suite is None else suite.packages
        self._policy = policy  # what its episodes have in common; each run has a policy of its own
        self._episodes = {task: TaskEpisodes.empty(episodes) for task in tasks}
        self._usage: dict[str, npt.NDArray[np.int64]] = {}
        self._first: dict[str, list[int]] = {}

    def add(self, run: BatchRun) -> None:
        history = skill_history(run.policy) if has_skills(run.policy) else None
        for position, key in enumerate(run.keys):
            if key.spare:
                continue
            rows = self._episodes[key.task]
            rows.seed[key.index] = run.seeds[position]
            rows.returns[key.index] = run.returns[position]
            known = run.success_known[position]
            rows.success_step[key.index] = run.success_step[position] if known else UNKNOWN
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
        return Results(
            name, protocol, self._episodes, skills=skills, versions=package_versions(self._packages)
        )


def _skill_shape(policy: Any) -> tuple[int, int]:
    return int(policy.skill_count), int(policy.horizon)


def _check_environments(environments: VectorEnv, tasks: Sequence[str], prompts: Prompts) -> None:
    if environments.num_envs != len(tasks):
        raise InputError(
            f"environments: expected one for each of {len(tasks)} tasks, got {environments.num_envs}"
        )
    shapes = environments.single_observation_space.shape, environments.single_action_space.shape
    for task in tasks:
        for one in prompts.get(task, ()):
            for name, shape, rows in zip(
                ("observations", "actions"), shapes, (one.observations, one.actions), strict=True
            ):
                if shape is not None and rows.shape[1:] != shape:
                    raise InputError(
                        f"prompts: expected {name} of shape {shape}, the environments', of task {task!r}, "
                        f"got {rows.shape[1:]}"
                    )


def _seeds(
    seed: int,
    suite: Suite | None,
    tasks: Sequence[str],
    episodes: int,
    given: Mapping[str, Sequence[int]] | None,
) -> Callable[[EpisodeKey], int]:
    if given is None:
        names = {task: task if suite is None else suite.task_name(task) for task in tasks}
        return lambda key: episode_seed(seed, names[key.task], key.index)
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
