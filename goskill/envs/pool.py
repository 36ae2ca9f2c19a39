"""Many MetaWorld environments at once, in worker processes, as one `gymnasium.vector.VectorEnv`."""

from __future__ import annotations

import mmap
import os
import pickle
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from goskill.envs.batch import INFO_KEYS, RENDER, RESET, STEP, Buffers, EnvironmentBatch
from goskill.envs.metaworld.environment import (
    ACTION_DIM,
    OBSERVATION_DIM,
    RENDER_MODES,
    check_render_mode,
    implementation,
)
from goskill.envs.metaworld.tasks import task_names
from goskill.envs.pool_input import (
    check_sizes,
    check_workers,
    checked_actions,
    checked_autoreset_mode,
    checked_reset_mask,
    checked_seeds,
)
from goskill.envs.process import WorkerProcess
from goskill.errors import InputError, WorkerDied, WorkerFailed

Step = tuple[
    npt.NDArray[np.float64],
    npt.NDArray[np.float64],
    npt.NDArray[np.bool_],
    npt.NDArray[np.bool_],
    dict[str, Any],
]


def make_vec(
    tasks: str | Iterable[str],
    num_envs: int | None = None,
    *,
    workers: int | None = None,
    seed: int | None = None,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    goal_visible: bool = True,
    groups: int = 1,
    render_mode: str | None = None,
    width: int = 480,
    height: int = 480,
) -> EnvironmentPool:
    """A pool of MetaWorld environments: see `EnvironmentPool`.

    ``tasks`` is a suite's name or task names; environment i runs task ``tasks[i % len(tasks)]``.
    ``num_envs`` defaults to one per task. ``workers`` processes share the environments (default: one per
    core, but no more than there are environments); 0 runs them in this process. Results do not depend on
    the number of workers.
    """
    return EnvironmentPool(
        tasks,
        num_envs,
        workers=workers,
        seed=seed,
        autoreset_mode=autoreset_mode,
        goal_visible=goal_visible,
        groups=groups,
        render_mode=render_mode,
        width=width,
        height=height,
    )


class EnvironmentPool(
    gymnasium.vector.VectorEnv[npt.NDArray[np.float64], npt.NDArray[np.float32], npt.NDArray[Any]]
):
    """MetaWorld environments, tasks mixed at will, stepped together.

    Observations float64 [N, 39], actions float32 [N, 4] in [-1, 1], rewards float64 [N]; every info key is
    float64 [N] with its Gymnasium mask ``_key``. ``reset(seed=…)`` takes one seed (environment i gets
    ``seed + i``), a seed or None for each, and ``options={"reset_mask": bool [N]}``.

    With ``groups=G`` the environments are split into G equal runs of indices that can be in flight on their
    own: ``send(actions, group)`` starts a step and ``recv(group)`` waits for it, so a policy can act in one
    group while the physics of another runs.

    Raises `InputError` for wrong arguments, and for actions that are misshapen, NaN or outside [-1, 1]
    (named by environment and step); `WorkerDied` when a worker process ends, `WorkerFailed` when its work
    raises. The pool is closed then, and after Ctrl-C in a call while workers are asked; nothing hangs.
    """

    def __init__(
        self,
        tasks: str | Iterable[str],
        num_envs: int | None = None,
        *,
        workers: int | None = None,
        seed: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        goal_visible: bool = True,
        groups: int = 1,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
    ) -> None:
        self.closed = True
        names = task_names(tasks)
        count = len(names) if num_envs is None else int(num_envs)
        check_sizes(count, groups)
        self.autoreset_mode = checked_autoreset_mode(autoreset_mode)
        check_render_mode(render_mode)
        workers = check_workers(workers)
        self.tasks = [names[index % len(names)] for index in range(count)]
        self.num_envs = count
        self.num_workers = min(workers, count)
        self.render_mode = render_mode
        self._next_seed = seed
        self._seeded = False
        self._finished = np.ones(count, np.bool_)
        self._steps = 0

        self.metadata = {
            "render_modes": list(RENDER_MODES),
            "render_fps": 80,
            "autoreset_mode": self.autoreset_mode,
        }
        # Tasks have different bounds for their goals, and a reset leaves MetaWorld's observation unclipped.
        self.single_observation_space = Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float64)
        self.single_action_space = Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)

        bounds = [count * group // groups for group in range(groups + 1)]
        self._groups = [range(bounds[group], bounds[group + 1]) for group in range(groups)]
        self._pending = [False] * groups
        self._in_flight: deque[int] = deque()
        self._workers: list[WorkerProcess] = []
        self._batch: EnvironmentBatch | None = None
        options = {
            "goal_visible": goal_visible,
            "render_mode": render_mode,
            "width": width,
            "height": height,
            "impl": implementation(),
        }
        if self.num_workers == 0:
            self._buffers = Buffers(bytearray(Buffers.size(count)), count)
            self._batch = EnvironmentBatch(
                self._buffers, dict(enumerate(self.tasks)), self.autoreset_mode, options
            )
            self._shares = [[list(group) for group in self._groups]]
        else:
            self._shares = self._split(self.num_workers)
            self._start_workers(options)
        self.closed = False

    def _split(self, workers: int) -> list[list[list[int]]]:
        """Environments [worker][group]: every worker has its share of every group, and few tasks."""
        shares: list[list[list[int]]] = [[] for _ in range(workers)]
        for group in self._groups:
            # Tasks differ in cost: dealing them out evens the workers' loads.
            rank = {
                task: number for number, task in enumerate(sorted({self.tasks[index] for index in group}))
            }
            by_task = sorted(
                group, key=lambda index: (rank[self.tasks[index]] % workers, self.tasks[index], index)
            )
            for worker in range(workers):
                shares[worker].append(
                    by_task[len(group) * worker // workers : len(group) * (worker + 1) // workers]
                )
        return shares

    def _start_workers(self, options: dict[str, Any]) -> None:
        descriptor = os.memfd_create("goskill-environments")
        try:
            size = Buffers.size(self.num_envs)
            os.ftruncate(descriptor, size)
            self._buffers = Buffers(mmap.mmap(descriptor, size), self.num_envs)
            for worker, share in enumerate(self._shares):
                tasks = {index: self.tasks[index] for indices in share for index in indices}
                arguments = (descriptor, self.num_envs, tasks, share, self.autoreset_mode, options)
                name, target = f"environment worker {worker}", "goskill.envs.batch:serve_batch"
                self._workers.append(WorkerProcess(name, target, arguments, (descriptor,)))
        except BaseException:
            self._stop_workers()
            raise
        finally:
            os.close(descriptor)

    # Resetting and stepping

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        """Reset all environments, or those of ``options["reset_mask"]``; see the class for seeds."""
        self._check_idle("reset()")
        self._buffers.seeds[:] = self._seeds(seed)
        self._buffers.reset_mask[:] = checked_reset_mask(options, self.num_envs)
        with self._exchange():
            for group in range(len(self._groups)):
                self._begin(RESET, group)
            for group in range(len(self._groups)):
                self._finish(group)
        self._finished &= ~self._buffers.reset_mask
        return self._buffers.observations.copy(), {}

    def step(self, actions: npt.ArrayLike) -> Step:
        """One step of every environment, actions float32 [N, 4]."""
        self._check_idle("step()")
        actions = self._checked(actions, range(self.num_envs))
        with self._exchange():
            for group, indices in enumerate(self._groups):
                self._send(actions[indices.start : indices.stop], group)
            for group in range(len(self._groups)):
                self._finish(group)
        return self._results(range(self.num_envs))

    def send(self, actions: npt.ArrayLike, group: int = 0) -> None:
        """Start a step of one group, actions float32 [environments of the group, 4]."""
        actions = self._checked(actions, self._group(group))
        if self._pending[group]:
            raise RuntimeError(f"group {group} has a step in flight: recv() it before the next send()")
        with self._exchange():
            self._send(actions, group)

    def recv(self, group: int = 0) -> Step:
        """Wait for the step that `send` started; the results of that group's environments."""
        indices = self._group(group)
        if not self._pending[group]:
            raise RuntimeError(f"group {group} has no step in flight: send() first")
        with self._exchange():
            self._finish(group)
        return self._results(indices)

    @property
    def group_slices(self) -> list[slice]:
        """Which environments each group holds."""
        return [slice(group.start, group.stop) for group in self._groups]

    def render(self) -> tuple[npt.NDArray[np.uint8], ...]:
        """A picture of every environment, uint8 [height, width, 3] (``render_mode="rgb_array"``)."""
        self._check_idle("render()")
        if self._batch is not None:
            return tuple(self._batch.render(range(self.num_envs)))
        frames: dict[int, npt.NDArray[np.uint8]] = {}
        with self._exchange():
            for group in range(len(self._groups)):
                self._request(RENDER, group)
                for worker, share in zip(self._workers, self._shares, strict=True):
                    frames.update(zip(share[group], pickle.loads(worker.reply()), strict=True))
        return tuple(frames[index] for index in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """End the worker processes."""
        self._stop_workers()
        if self._batch is not None:
            self._batch.close()
            self._batch = None

    def __del__(self) -> None:
        if not getattr(self, "closed", True):
            self.close()

    def __enter__(self) -> EnvironmentPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Below: one request to the workers, and what is checked before it

    def _send(self, actions: npt.NDArray[np.float32], group: int) -> None:
        indices = self._groups[group]
        self._buffers.actions[indices.start : indices.stop] = actions
        self._begin(STEP, group)
        self._pending[group] = True

    def _begin(self, operation: int, group: int) -> None:
        if self._batch is not None:
            (self._batch.step if operation == STEP else self._batch.reset)(self._groups[group])
            return
        self._in_flight.append(group)
        self._request(operation, group)

    def _request(self, operation: int, group: int) -> None:
        for worker in self._workers:
            worker.request(bytes([operation, group]))

    def _finish(self, group: int) -> None:
        # Workers answer in the order in which they were asked.
        while group in self._in_flight:
            for worker in self._workers:
                worker.reply()
            self._in_flight.popleft()
        self._pending[group] = False

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Around requests and answers: ended halfway they no longer match, and the pool is closed."""
        try:
            yield
        except (WorkerDied, WorkerFailed) as failure:
            raise self._abandon(failure) from None
        except BaseException:
            if self._batch is None:
                self._kill_workers()
            raise

    def _abandon(self, failure: WorkerDied | WorkerFailed) -> RuntimeError:
        names = [f"{worker.name} " for worker in self._workers]
        number = next(index for index, name in enumerate(names) if str(failure).startswith(name))
        tasks = sorted({self.tasks[index] for indices in self._shares[number] for index in indices})
        self._kill_workers()
        return type(failure)(f"{failure}; it ran {', '.join(tasks)}; the pool is closed")

    def _results(self, indices: range) -> Step:
        rows = slice(indices.start, indices.stop)
        buffers = self._buffers
        truncated = buffers.truncated[rows].copy()
        if self.autoreset_mode is AutoresetMode.DISABLED:
            self._finished[rows] = truncated
        stepped = buffers.stepped[rows].copy()
        infos: dict[str, Any] = {}
        if stepped.any():
            for column, key in enumerate(INFO_KEYS):
                infos[key] = np.where(stepped, buffers.infos[rows, column], 0.0)
                infos[f"_{key}"] = stepped.copy()
        if self.autoreset_mode is AutoresetMode.SAME_STEP and truncated.any():
            final = np.full(len(indices), None, dtype=object)
            for row in np.flatnonzero(truncated):
                final[row] = buffers.final_observations[indices[row]].copy()
            infos["final_obs"], infos["_final_obs"] = final, truncated.copy()
            last: dict[str, Any] = {}
            for column, key in enumerate(INFO_KEYS):
                last[key] = np.where(truncated, buffers.final_infos[rows, column], 0.0)
                last[f"_{key}"] = truncated.copy()
            infos["final_info"], infos["_final_info"] = last, truncated.copy()
        return (
            buffers.observations[rows].copy(),
            buffers.rewards[rows].copy(),
            np.zeros(len(indices), np.bool_),
            truncated,
            infos,
        )

    def _group(self, group: int) -> range:
        self._check_open()
        if not 0 <= group < len(self._groups):
            raise InputError(f"group: expected from 0 to {len(self._groups) - 1}, got {group}")
        return self._groups[group]

    def _checked(self, actions: npt.ArrayLike, indices: range) -> npt.NDArray[np.float32]:
        self._check_open()
        checked = checked_actions(actions, self.tasks, indices, self._steps)
        over = np.flatnonzero(self._finished[indices.start : indices.stop])
        if len(over):
            index = indices[int(over[0])]
            raise RuntimeError(
                f"environment {index} ({self.tasks[index]}) has no episode to step: reset it first"
            )
        if indices.stop == self.num_envs:
            self._steps += 1
        return checked

    def _seeds(self, seed: int | Sequence[int | None] | None) -> npt.NDArray[np.int64]:
        if seed is None:
            seed, self._next_seed = self._next_seed, None
            if seed is None and not self._seeded:
                seed = int(np.random.SeedSequence().generate_state(1)[0])
        seeds = checked_seeds(seed, self.num_envs)
        self._seeded = True
        return seeds

    def _check_idle(self, call: str) -> None:
        self._check_open()
        if any(self._pending):
            raise RuntimeError(
                f"group {self._pending.index(True)} has a step in flight: recv() it before {call}"
            )

    def _check_open(self) -> None:
        if self.closed:
            raise RuntimeError("the environment pool is closed")

    def _stop_workers(self) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.close()

    def _kill_workers(self) -> None:
        self.closed = True
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.kill()
