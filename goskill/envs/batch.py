"""Environments of one process of a pool, which read and write the arrays that they share with it."""

from __future__ import annotations

import mmap
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from goskill.envs.answers import answer_of, packed_answers
from goskill.envs.suite import Env, Suite, TaskBatch, check_env
from goskill.envs.suite_processes import unpacked
from goskill.errors import InputError

Infos = list[tuple[int, dict[str, Any] | None, dict[str, Any]]]
"""What does not fit the arrays: (environment, info at the end of its episode where it was reset, info)."""


@dataclass(frozen=True)
class BufferLayout:
    """The sizes of :class:`Buffers`."""

    num_envs: int
    observation_dim: int
    observation_dtype: np.dtype[Any]
    action_dim: int
    action_dtype: np.dtype[Any]
    info_keys: tuple[str, ...]

    @classmethod
    def of(cls, suite: Suite, num_envs: int) -> BufferLayout:
        observations, actions = suite.observation_space, suite.action_space
        sizes = observations.shape[0], observations.dtype, actions.shape[0], actions.dtype
        return cls(num_envs, *sizes, suite.info_keys or ())

    def columns(self) -> list[tuple[str, Any, tuple[int, ...]]]:
        return [
            ("observations", self.observation_dtype, (self.observation_dim,)),
            ("final_observations", self.observation_dtype, (self.observation_dim,)),
            ("infos", np.float64, (len(self.info_keys),)),
            ("final_infos", np.float64, (len(self.info_keys),)),
            ("rewards", np.float64, ()),
            ("seeds", np.int64, ()),
            ("actions", self.action_dtype, (self.action_dim,)),
            ("terminated", np.bool_, ()),
            ("truncated", np.bool_, ()),
            ("stepped", np.bool_, ()),
            ("reset_mask", np.bool_, ()),
        ]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(
            self.num_envs * np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
            for _, dtype, shape in self.columns()
        )


class Buffers:
    """The arrays that pool and workers share, laid out over one anonymous file in memory.

    ``observations`` [N, observation_dim] and ``actions`` [N, action_dim] in the suite's types, ``rewards`` float64
    [N], ``terminated`` and ``truncated`` bool [N], ``infos`` float64 [N, K] (the suite's ``info_keys``), ``stepped``
    bool [N] (false where this step was a reset), ``seeds`` int64 [N] (negative: do not reseed), ``reset_mask`` bool
    [N]; ``final_observations`` and ``final_infos`` hold the end of the episode where an environment was reset in the
    same step.
    """

    observations: npt.NDArray[Any]
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[np.float64]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    infos: npt.NDArray[np.float64]
    stepped: npt.NDArray[np.bool_]
    seeds: npt.NDArray[np.int64]
    reset_mask: npt.NDArray[np.bool_]
    final_observations: npt.NDArray[Any]
    final_infos: npt.NDArray[np.float64]

    def __init__(self, memory: mmap.mmap | bytearray, layout: BufferLayout) -> None:
        offset = 0
        for name, dtype, shape in layout.columns():
            array: npt.NDArray[Any] = np.ndarray((layout.num_envs, *shape), dtype, memory, offset)
            setattr(self, name, array)
            offset += array.nbytes


STEP, RESET, RENDER, CALL, SET_ATTR = range(5)


class _Askable:
    """What the environments of a batch answer besides steps and resets."""

    render: Callable[..., Any]
    call: Callable[..., Any]
    set_attr: Callable[..., Any]

    def ask(self, operation: int, indices: Sequence[int], *arguments: Any) -> list[Any]:
        """An answer of each of ``indices``, :class:`~goskill.envs.answers.Raised` where it raised."""
        ask = {RENDER: self.render, CALL: self.call, SET_ATTR: self.set_attr}[operation]
        return [answer_of(partial(ask, index, *arguments)) for index in indices]


class EnvironmentBatch(_Askable):
    """Environments of a pool, by index, reset and stepped in turn. ``options`` are arguments of `Suite.make`."""

    def __init__(
        self,
        buffers: Buffers,
        suite: Suite,
        tasks: dict[int, str],
        autoreset_mode: AutoresetMode,
        options: dict[str, Any],
    ) -> None:
        self._buffers = buffers
        self._tasks = tasks
        self._mode = autoreset_mode
        self._keys = suite.info_keys
        self._shape = (suite.observation_dim,)
        made = suite.make_all(list(tasks.values()), **options)
        self._envs: dict[int, Env] = dict(zip(tasks, made, strict=True))
        for index, env in self._envs.items():
            check_env(suite, tasks[index], env)
        self._finished = dict.fromkeys(tasks, True)

    def reset(self, indices: Sequence[int], options: dict[str, Any] | None = None) -> Infos:
        """Reset those of ``indices`` that the reset mask names."""
        infos: Infos = []
        for index in indices:
            if self._buffers.reset_mask[index]:
                seed = int(self._buffers.seeds[index])
                with _named(index, self._tasks[index]):
                    observation, info = self._envs[index].reset(
                        seed=seed if seed >= 0 else None, options=options
                    )
                    self._buffers.observations[index] = self._checked(observation)
                if info:
                    infos.append((index, None, info))
                self._finished[index] = False
        return infos

    def step(self, indices: Sequence[int]) -> Infos:
        """One step of each of ``indices``, or its reset where the autoreset mode asks for one."""
        buffers, keys = self._buffers, self._keys
        infos: Infos = []
        for index in indices:
            with _named(index, self._tasks[index]):
                env = self._envs[index]
                if self._finished[index]:
                    observation, info = env.reset()
                    buffers.observations[index] = self._checked(observation)
                    buffers.rewards[index] = 0.0
                    buffers.terminated[index] = buffers.truncated[index] = False
                    buffers.stepped[index] = self._finished[index] = False
                    if info:
                        infos.append((index, None, info))
                    continue
                observation, reward, terminated, truncated, info = env.step(buffers.actions[index])
                over = terminated or truncated
                buffers.rewards[index] = reward
                buffers.terminated[index] = terminated
                buffers.truncated[index] = truncated
                buffers.stepped[index] = True
                if keys is not None:
                    values = [info[key] for key in keys]
                    info = {} if len(info) == len(keys) else {k: v for k, v in info.items() if k not in keys}
                if over and self._mode is AutoresetMode.SAME_STEP:
                    buffers.final_observations[index] = self._checked(observation)
                    if keys is not None:
                        buffers.final_infos[index] = values
                    buffers.stepped[index] = False
                    last = info
                    observation, info = env.reset()
                    infos.append((index, last, info))
                else:
                    if keys is not None:
                        buffers.infos[index] = values
                    if info:
                        infos.append((index, None, info))
                    self._finished[index] = over and self._mode is AutoresetMode.NEXT_STEP
                buffers.observations[index] = self._checked(observation)
        return infos

    def _checked(self, observation: Any) -> Any:
        # NumPy would spread a shorter one over the row.
        if np.shape(observation) != self._shape:
            raise InputError(f"expected observations of shape {self._shape}, got {np.shape(observation)}")
        return observation

    def render(self, index: int) -> Any:
        """Its picture."""
        return self._envs[index].render()

    def call(self, index: int, name: str, arguments: Any, keywords: Any) -> Any:
        """What its attribute ``name`` is, or answers where it can be called."""
        attribute = self._envs[index].get_wrapper_attr(name)
        return attribute(*arguments, **keywords) if callable(attribute) else attribute

    def set_attr(self, index: int, name: str, values: dict[int, Any]) -> None:
        self._envs[index].set_wrapper_attr(name, values[index])

    def close(self) -> None:
        for env in self._envs.values():
            env.close()


class SteppedTogether(_Askable):
    """Environments of a pool, by index, in a suite's own :class:`TaskBatch`."""

    def __init__(
        self,
        buffers: Buffers,
        suite: Suite,
        tasks: dict[int, str],
        autoreset_mode: AutoresetMode,
        batch: TaskBatch,
    ) -> None:
        self._buffers = buffers
        self._suite = suite
        self._tasks = tasks
        self._mode = autoreset_mode
        self._batch = batch
        self._row = {index: row for row, index in enumerate(tasks)}
        self._finished = np.ones(len(tasks), np.bool_)
        self._seeds = np.full(len(tasks), -1, np.int64)  # of their newest reset with one; -1: unknown

    def reset(self, indices: Sequence[int], options: dict[str, Any] | None = None) -> Infos:
        """Reset those of ``indices`` that the reset mask names."""
        chosen = np.array([index for index in indices if self._buffers.reset_mask[index]], np.int64)
        seeds = [int(seed) if seed >= 0 else None for seed in self._buffers.seeds[chosen]]
        self._begin(chosen, seeds)
        return []

    def step(self, indices: Sequence[int]) -> Infos:
        """One step of each of ``indices``, or its reset where the autoreset mode asks for one."""
        buffers = self._buffers
        chosen = np.asarray(indices, np.int64)
        over = self._finished[self._rows(chosen)]
        begun, stepped = chosen[over], chosen[~over]
        buffers.rewards[begun] = 0.0
        buffers.terminated[begun] = buffers.truncated[begun] = buffers.stepped[begun] = False
        self._begin(begun, [None] * len(begun))
        if not len(stepped):
            return []
        rows = self._rows(stepped)
        observations, rewards, terminated, truncated, infos = self._batch.step(rows, buffers.actions[stepped])
        buffers.rewards[stepped] = rewards
        buffers.terminated[stepped] = terminated
        buffers.truncated[stepped] = truncated
        buffers.stepped[stepped] = True
        buffers.observations[stepped] = observations
        values = np.stack([infos[key] for key in self._suite.info_keys or ()], 1) if infos else None
        if values is not None:
            buffers.infos[stepped] = values
        ended = np.asarray(terminated) | np.asarray(truncated)
        if self._mode is AutoresetMode.NEXT_STEP:
            self._finished[rows] = ended
        if self._mode is AutoresetMode.SAME_STEP and ended.any():
            last = stepped[ended]
            buffers.final_observations[last] = buffers.observations[last]
            buffers.final_infos[last] = buffers.infos[last]
            buffers.stepped[last] = False
            self._begin(last, [None] * len(last))
        return []

    def render(self, index: int) -> None:
        return None

    def call(self, index: int, name: str, arguments: Any, keywords: Any) -> Any:
        """The suite's spaces and its seed; other attributes of single environments are not there."""
        if name == "np_random_seed":
            return int(self._seeds[self._row[index]])
        if name in ("observation_space", "action_space"):
            return getattr(self._suite, name)
        raise AttributeError(
            f"{name!r}: the environments of suite {self._suite.name!r} are stepped together and have no attributes"
        )

    def set_attr(self, index: int, name: str, values: dict[int, Any]) -> Any:
        return self.call(index, name, (), {})

    def close(self) -> None:
        self._batch.close()

    def _rows(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.array([self._row[int(index)] for index in indices], np.int64)

    def _begin(self, indices: npt.NDArray[np.int64], seeds: Sequence[int | None]) -> None:
        if len(indices):
            rows = self._rows(indices)
            self._buffers.observations[indices] = self._batch.reset(rows, seeds)
            known = [seed is not None for seed in seeds]
            self._seeds[rows[known]] = [seed for seed in seeds if seed is not None]
            self._finished[rows] = False


def open_batch(
    buffers: Buffers,
    suite: Suite,
    tasks: dict[int, str],
    autoreset_mode: AutoresetMode,
    options: dict[str, Any],
) -> EnvironmentBatch | SteppedTogether:
    """Environments for the tasks of a pool, by index: the suite's own batch if it has one, else one by one."""
    batch = suite.make_batch(list(tasks.values()), **options)
    if batch is None:
        return EnvironmentBatch(buffers, suite, tasks, autoreset_mode, options)
    return SteppedTogether(buffers, suite, tasks, autoreset_mode, batch)


class _named:  # noqa: N801 (a context manager, used as a function)
    """Says in whose environment an exception was raised."""

    def __init__(self, index: int, task: str) -> None:
        self._where = (index, task)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            index, task = self._where
            kind = InputError if isinstance(error, InputError) else RuntimeError
            raise kind(f"environment {index} ({task}): {error}") from error


def serve_batch(
    descriptor: int,
    layout: BufferLayout,
    packed_suite: bytes,
    tasks: dict[int, str],
    groups: Sequence[Sequence[int]],
    autoreset_mode: AutoresetMode,
    options: dict[str, Any],
) -> Any:
    """In a worker process: environments that answer ``bytes([operation, group])`` and pickled arguments.

    The answer to a step or a reset is pickled `Infos`, or empty where all infos are in the arrays; to anything else,
    the answers of the environments.
    """
    buffers = Buffers(mmap.mmap(descriptor, layout.size), layout)
    batch = open_batch(buffers, unpacked(packed_suite), tasks, autoreset_mode, options)

    def handle(message: bytes) -> bytes:
        operation, indices = message[0], groups[message[1]]
        if operation == STEP:
            infos = batch.step(indices)
            return pickle.dumps(infos) if infos else b""
        arguments = pickle.loads(message[2:]) if len(message) > 2 else ()
        if operation == RESET:
            infos = batch.reset(indices, *arguments)
            return pickle.dumps(infos) if infos else b""
        return packed_answers(batch.ask(operation, indices, *arguments))

    return handle
