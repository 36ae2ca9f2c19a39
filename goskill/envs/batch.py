"""Many environments in one process, stepped in turn over shared buffers."""

from __future__ import annotations

import mmap
import pickle
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from goskill.envs.metaworld.environment import ACTION_DIM, OBSERVATION_DIM, make
from goskill.envs.metaworld.models import Models

INFO_KEYS = (
    "success",
    "near_object",
    "grasp_success",
    "grasp_reward",
    "in_place_reward",
    "obj_to_target",
    "unscaled_reward",
)
"""What every MetaWorld environment reports after a step."""


class Buffers:
    """The arrays that pool and workers share, laid out over one anonymous file in memory.

    ``observations`` float64 [N, 39], ``actions`` float32 [N, 4], ``rewards`` float64 [N], ``truncated``
    bool [N], ``infos`` float64 [N, 7] (`INFO_KEYS`), ``stepped`` bool [N] (false where this step was a
    reset), ``seeds`` int64 [N] (negative: do not reseed), ``reset_mask`` bool [N]; ``final_observations``
    and ``final_infos`` hold the end of the episode where an environment was reset in the same step.
    """

    observations: npt.NDArray[np.float64]
    actions: npt.NDArray[np.float32]
    rewards: npt.NDArray[np.float64]
    truncated: npt.NDArray[np.bool_]
    infos: npt.NDArray[np.float64]
    stepped: npt.NDArray[np.bool_]
    seeds: npt.NDArray[np.int64]
    reset_mask: npt.NDArray[np.bool_]
    final_observations: npt.NDArray[np.float64]
    final_infos: npt.NDArray[np.float64]

    _LAYOUT: tuple[tuple[str, type[Any], tuple[int, ...]], ...] = (
        ("observations", np.float64, (OBSERVATION_DIM,)),
        ("final_observations", np.float64, (OBSERVATION_DIM,)),
        ("infos", np.float64, (len(INFO_KEYS),)),
        ("final_infos", np.float64, (len(INFO_KEYS),)),
        ("rewards", np.float64, ()),
        ("seeds", np.int64, ()),
        ("actions", np.float32, (ACTION_DIM,)),
        ("truncated", np.bool_, ()),
        ("stepped", np.bool_, ()),
        ("reset_mask", np.bool_, ()),
    )

    def __init__(self, memory: mmap.mmap | bytearray, num_envs: int) -> None:
        offset = 0
        for name, dtype, shape in self._LAYOUT:
            array: npt.NDArray[Any] = np.ndarray((num_envs, *shape), dtype, memory, offset)
            setattr(self, name, array)
            offset += array.nbytes

    @classmethod
    def size(cls, num_envs: int) -> int:
        """Bytes of memory that ``num_envs`` environments need."""
        return num_envs * sum(
            np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64)) for _, dtype, shape in cls._LAYOUT
        )


class EnvironmentBatch:
    """Environments of a pool, by index: resets and steps them in turn, reading and writing `Buffers`.

    ``options`` are arguments of `goskill.envs.make`.
    """

    def __init__(
        self,
        buffers: Buffers,
        tasks: dict[int, str],
        autoreset_mode: AutoresetMode,
        options: dict[str, Any],
    ) -> None:
        self._buffers = buffers
        self._tasks = tasks
        self._mode = autoreset_mode
        models = Models()
        self._envs = {index: make(task, 0, models=models, **options) for index, task in tasks.items()}
        self._finished = dict.fromkeys(tasks, True)

    def reset(self, indices: Iterable[int]) -> None:
        """Reset those of ``indices`` that the reset mask names."""
        for index in indices:
            if self._buffers.reset_mask[index]:
                seed = int(self._buffers.seeds[index])
                with _named(index, self._tasks[index]):
                    observation, _ = self._envs[index].reset(seed=seed if seed >= 0 else None)
                self._buffers.observations[index] = observation
                self._finished[index] = False

    def step(self, indices: Iterable[int]) -> None:
        """One step of each of ``indices``, or its reset where the autoreset mode asks for one."""
        buffers = self._buffers
        for index in indices:
            with _named(index, self._tasks[index]):
                env = self._envs[index]
                if self._finished[index]:
                    buffers.observations[index], _ = env.reset()
                    buffers.rewards[index] = 0.0
                    buffers.truncated[index] = buffers.stepped[index] = self._finished[index] = False
                    continue
                observation, reward, _, truncated, info = env.step(buffers.actions[index])
                buffers.rewards[index] = reward
                buffers.truncated[index] = truncated
                buffers.stepped[index] = True
                values = [info[key] for key in INFO_KEYS]
                if truncated and self._mode is AutoresetMode.SAME_STEP:
                    buffers.final_observations[index] = observation
                    buffers.final_infos[index] = values
                    buffers.stepped[index] = False
                    observation, _ = env.reset()
                else:
                    buffers.infos[index] = values
                    self._finished[index] = truncated and self._mode is AutoresetMode.NEXT_STEP
                buffers.observations[index] = observation

    def render(self, indices: Iterable[int]) -> list[npt.NDArray[np.uint8]]:
        """The picture of each of ``indices``, uint8 [height, width, 3]."""
        return [self._envs[index].render() for index in indices]  # type: ignore[misc]

    def close(self) -> None:
        for env in self._envs.values():
            env.close()


class _named:  # noqa: N801 (a context manager, used as a function)
    """Says in whose environment an exception was raised."""

    def __init__(self, index: int, task: str) -> None:
        self._where = (index, task)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            index, task = self._where
            raise RuntimeError(f"environment {index} ({task}): {error}") from error


STEP, RESET, RENDER = 0, 1, 2


def serve_batch(
    descriptor: int,
    num_envs: int,
    tasks: dict[int, str],
    groups: Sequence[Sequence[int]],
    autoreset_mode: AutoresetMode,
    options: dict[str, Any],
) -> Any:
    """In a worker process: an `EnvironmentBatch` that answers ``bytes([operation, group])``."""
    buffers = Buffers(mmap.mmap(descriptor, Buffers.size(num_envs)), num_envs)
    batch = EnvironmentBatch(buffers, tasks, autoreset_mode, options)

    def handle(message: bytes) -> bytes:
        operation, indices = message[0], groups[message[1]]
        if operation == STEP:
            batch.step(indices)
        elif operation == RESET:
            batch.reset(indices)
        elif operation == RENDER:
            return pickle.dumps(batch.render(indices))
        return b""

    return handle
