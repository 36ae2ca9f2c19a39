"""Many environments at once, in worker processes, as one `gymnasium.vector.VectorEnv`."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.error import ClosedEnvironmentError
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from goskill.envs.answers import without_errors
from goskill.envs.batch import (
    CALL,
    RENDER,
    RESET,
    SET_ATTR,
    STEP,
    BufferLayout,
    Buffers,
    EnvironmentBatch,
    Infos,
    SteppedTogether,
    open_batch,
)
from goskill.envs.pool_infos import add_infos, final_infos, stepped_infos
from goskill.envs.pool_input import (
    check_sizes,
    checked_actions,
    checked_autoreset_mode,
    checked_options,
    checked_reset_options,
    checked_seeds,
)
from goskill.envs.pool_workers import PoolWorkers
from goskill.envs.suite import Suite
from goskill.envs.suite_processes import choose_workers
from goskill.envs.suite_registry import tasks_in
from goskill.errors import InputError, WorkerDied, WorkerFailed

Flags = npt.NDArray[np.bool_]
Step = tuple[npt.NDArray[Any], npt.NDArray[np.float64], Flags, Flags, dict[str, Any]]


class PoolClosed(ClosedEnvironmentError, RuntimeError):  # noqa: N818 (reads as what happened)
    """A closed pool was asked for something."""


def make_vec(
    tasks: str | Iterable[str],
    num_envs: int | None = None,
    *,
    suite: Suite | str | None = None,
    workers: int | None = None,
    seed: int | None = None,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    groups: int = 1,
    render_mode: str | None = None,
    **options: Any,
) -> EnvironmentPool:
    """A pool of environments: see `EnvironmentPool`.

    ``tasks`` is a suite's name (all of its tasks) or task names of ``suite``, by default MetaWorld's; environment i
    runs task ``tasks[i % len(tasks)]``. ``num_envs`` defaults to one per task. ``workers`` processes share the
    environments (default: one per core, but no more than there are environments); 0 runs them in this process. Results
    do not depend on the number of workers. ``options`` are further arguments of the suite's ``make``, such as
    MetaWorld's ``goal_visible``, ``width`` and ``height`` (`goskill.envs.make`).
    """
    return EnvironmentPool(
        tasks,
        num_envs,
        suite=suite,
        workers=workers,
        seed=seed,
        autoreset_mode=autoreset_mode,
        groups=groups,
        render_mode=render_mode,
        **options,
    )


class EnvironmentPool(gymnasium.vector.VectorEnv[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]):
    """Environments of one suite, tasks mixed at will, stepped together.

    Observations [N, observation_dim] and actions [N, action_dim] in the suite's types, rewards float64 [N]; infos are
    those of `gymnasium.vector.SyncVectorEnv`, and float64 [N] for the suite's ``info_keys``. ``reset(seed=...)`` takes
    one seed (environment i gets ``seed + i``), a seed or None for each, and ``options={"reset_mask": bool [N]}``.

    With ``groups=G`` the environments are split into G equal runs of indices that can be in flight on their
    own: ``send(actions, group)`` starts a step and ``recv(group)`` waits for it, so a policy can act in one
    group while the physics of another runs.

    Raises `InputError` for wrong arguments, and for actions that are misshapen, NaN or out of bounds
    (named by environment and step); `WorkerDied` when a worker process ends, `WorkerFailed` when its work
    raises. The pool is closed then, and after Ctrl-C in a call while workers are asked; nothing hangs. A closed
    pool raises `gymnasium.error.ClosedEnvironmentError`. What an environment raises when it is asked something
    (`render`, `call`, `get_attr`, `set_attr`) is raised as it is, and the pool goes on: an AttributeError for an
    unknown name.
    """

    def __init__(
        self,
        tasks: str | Iterable[str],
        num_envs: int | None = None,
        *,
        suite: Suite | str | None = None,
        workers: int | None = None,
        seed: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        groups: int = 1,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        self.closed = True
        self.suite, names = tasks_in(suite, tasks)
        count = len(names) if num_envs is None else int(num_envs)
        check_sizes(count, groups)
        self.autoreset_mode = checked_autoreset_mode(autoreset_mode)
        options = checked_options(self.suite, {"render_mode": render_mode, **options})
        workers = choose_workers(self.suite, workers)
        self.tasks = [names[index % len(names)] for index in range(count)]
        self.num_envs = count
        self.num_workers = min(workers, count)
        self.render_mode = render_mode
        self._next_seed = seed
        self._seeded = False
        self._finished = np.ones(count, np.bool_)
        self._steps = 0

        self.metadata = {
            "render_modes": list(self.suite.render_modes),
            "render_fps": self.suite.render_fps,
            "autoreset_mode": self.autoreset_mode,
        }
        self.single_action_space = self._actions = self.suite.action_space
        self.action_space = batch_space(self.single_action_space, count)

        bounds = [count * group // groups for group in range(groups + 1)]
        self._groups = [range(bounds[group], bounds[group + 1]) for group in range(groups)]
        self._pending = [False] * groups
        self._infos: list[Infos] = [[] for _ in range(groups)]
        self._batch: EnvironmentBatch | SteppedTogether | None = None
        layout = BufferLayout.of(self.suite, count)
        self._info_keys = layout.info_keys
        if self.num_workers == 0:
            self._buffers = Buffers(bytearray(layout.size), layout)
            self._batch = open_batch(
                self._buffers, self.suite, dict(enumerate(self.tasks)), self.autoreset_mode, options
            )
        else:
            given = (self.suite, self.tasks, self._groups, self.num_workers, layout)
            self._workers = PoolWorkers(*given, self.autoreset_mode, options)
            self._buffers = self._workers.buffers
        self.closed = False

    # Resetting and stepping

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Reset all environments, or those of ``options["reset_mask"]``; see the class for seeds.

        What else is in ``options`` is passed on to each environment.
        """
        self._check_idle("reset()")
        mask, rest = checked_reset_options(options, self.num_envs)
        self._buffers.seeds[:] = self._seeds(seed)
        self._buffers.reset_mask[:] = mask
        arguments = b"" if rest is None or self._batch is not None else pickle.dumps((rest,))
        with self._exchange():
            for group in range(len(self._groups)):
                self._begin(RESET, group, rest, arguments)
            for group in range(len(self._groups)):
                self._finish(group)
        self._finished &= ~self._buffers.reset_mask
        infos: dict[str, Any] = {}
        for group in range(len(self._groups)):
            add_infos(infos, self._infos[group], 0, self.num_envs)
        return self._buffers.observations.copy(), infos

    def step(self, actions: npt.ArrayLike) -> Step:
        """One step of every environment, actions [N, action_dim]."""
        self._check_idle("step()")
        actions = self._checked(actions, range(self.num_envs))
        with self._exchange():
            for group, indices in enumerate(self._groups):
                self._send(actions[indices.start : indices.stop], group)
            for group in range(len(self._groups)):
                self._finish(group)
        return self._results(range(self.num_envs), range(len(self._groups)))

    def send(self, actions: npt.ArrayLike, group: int = 0) -> None:
        """Start a step of one group, actions [environments of the group, action_dim]."""
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
        return self._results(indices, [group])

    @property
    def group_slices(self) -> list[slice]:
        """Which environments each group holds."""
        return [slice(group.start, group.stop) for group in self._groups]

    # Asking the environments themselves

    def render(self) -> tuple[Any, ...]:
        """A picture of every environment, uint8 [height, width, 3] (``render_mode="rgb_array"``)."""
        self._check_idle("render()")
        return self._ask(RENDER)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What each environment's method ``name`` answers; the attribute, where it cannot be called.

        All environments are asked, also if one of them raises: the exception of the first that did is raised then.
        """
        self._check_idle(f"call({name!r})")
        return self._ask(CALL, name, args, kwargs)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The attribute ``name`` of each environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set the attribute ``name`` of each environment: a list or tuple of one value each, or one for all."""
        self._check_idle(f"set_attr({name!r})")
        if not isinstance(values, (list, tuple)):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise InputError(
                f"values: expected one for each of {self.num_envs} environments, got {len(values)}"
            )
        self._ask(SET_ATTR, name, dict(enumerate(values)))

    @cached_property
    def observation_space(self) -> Box:  # type: ignore[override]
        """The environments' own spaces, which may have different bounds, as one [N, observation_dim]."""
        spaces = self.get_attr("observation_space")
        low, high = (np.stack([getattr(space, bound) for space in spaces]) for bound in ("low", "high"))
        return Box(low, high, dtype=self.suite.observation_space.dtype)

    @cached_property
    def single_observation_space(self) -> Box:  # type: ignore[override]
        """The least Box that holds the space of every environment."""
        spaces = self.observation_space
        return Box(spaces.low.min(0), spaces.high.max(0), dtype=spaces.dtype)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """What each environment was seeded with; -1 where that is not known."""
        return self.get_attr("np_random_seed")

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Copies of each environment's random number generator."""
        return self.get_attr("np_random")

    def close_extras(self, **kwargs: Any) -> None:
        """End the worker processes."""
        if self.num_workers:
            self._workers.close()
        elif self._batch is not None:
            self._batch.close()
            self._batch = None

    def __del__(self) -> None:
        if not getattr(self, "closed", True):
            self.close()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("an environment pool cannot be copied or pickled: make another with make_vec")

    def __enter__(self) -> EnvironmentPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Below: one request to the workers, and what is checked before it

    def _ask(self, operation: int, *arguments: Any) -> tuple[Any, ...]:
        """Answers of all environments, in their order."""
        if self._batch is not None:
            return without_errors(self._batch.ask(operation, range(self.num_envs), *arguments), self.tasks)
        content = pickle.dumps(arguments)  # what cannot be pickled is refused before anybody is asked
        with self._exchange():
            answers = self._workers.ask(operation, content)
        return without_errors(answers, self.tasks)

    def _send(self, actions: npt.NDArray[Any], group: int) -> None:
        indices = self._groups[group]
        self._buffers.actions[indices.start : indices.stop] = actions
        self._begin(STEP, group)
        self._pending[group] = True

    def _begin(self, operation: int, group: int, options: Any = None, content: bytes = b"") -> None:
        if self._batch is not None:
            indices = self._groups[group]
            self._infos[group] = (
                self._batch.step(indices) if operation == STEP else self._batch.reset(indices, options)
            )
            return
        self._infos[group] = []
        self._workers.begin(operation, group, content)

    def _finish(self, group: int) -> None:
        if self._batch is None:
            for finished, infos in self._workers.finish(group):
                self._infos[finished] += infos
        self._pending[group] = False

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Around requests and answers: ended halfway they no longer match, and the pool is closed."""
        try:
            yield
        except (WorkerDied, WorkerFailed) as failure:
            named = self._workers.named(failure)
            self._kill_workers()
            raise named from None
        except BaseException:
            if self._batch is None:
                self._kill_workers()
            raise

    def _results(self, indices: range, groups: Iterable[int]) -> Step:
        rows = slice(indices.start, indices.stop)
        buffers = self._buffers
        terminated, truncated = buffers.terminated[rows].copy(), buffers.truncated[rows].copy()
        over = terminated | truncated
        if self.autoreset_mode is AutoresetMode.DISABLED:
            self._finished[rows] = over
        infos = stepped_infos(buffers, rows, self._info_keys)
        if self.autoreset_mode is AutoresetMode.SAME_STEP and over.any():
            infos |= final_infos(buffers, rows, over, self._info_keys)
        for group in groups:
            add_infos(infos, self._infos[group], indices.start, len(indices))
        return buffers.observations[rows].copy(), buffers.rewards[rows].copy(), terminated, truncated, infos

    def _group(self, group: int) -> range:
        self._check_open()
        if not 0 <= group < len(self._groups):
            raise InputError(f"group: expected from 0 to {len(self._groups) - 1}, got {group}")
        return self._groups[group]

    def _checked(self, actions: npt.ArrayLike, indices: range) -> npt.NDArray[Any]:
        self._check_open()
        checked = checked_actions(actions, self._actions, self.tasks, indices, self._steps)
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
            raise PoolClosed("the environment pool is closed")

    def _kill_workers(self) -> None:
        self.closed = True
        self._workers.kill()
