"""Chunks as TD-MPC2's datasets have them: a TensorDict in a file of torch.save, by tensordict itself or in the layout
of the release that wrote the published files."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

ROWS, WIDTH, ACTIONS = 6, 39, 6
DIMENSIONS = {0: (24, 6), 4: (6, 2), 15: (12, 2), 30: (39, 4), 33: (39, 4), 79: (39, 4)}
NAMES = {
    0: "walker-stand",
    4: "reacher-easy",
    15: "finger-turn-hard",
    30: "assembly",
    33: "button-press-topdown-wall",
    79: "hand-insert",
}


def episodes_of(
    tasks: list[int], seed: int = 0, rows: int = ROWS, width: int = WIDTH
) -> dict[str, np.ndarray]:
    """Padded episodes: row t holds what led to observation t, and nothing led to the first."""
    generator = np.random.default_rng(seed)
    observations = generator.normal(size=(len(tasks), rows, width)).astype("f4")
    actions = generator.uniform(-1, 1, (len(tasks), rows, ACTIONS)).astype("f4")
    for i, task in enumerate(tasks):
        states, values = DIMENSIONS.get(task, (WIDTH, 4))
        observations[i, :, states:] = 0
        actions[i, :, values:] = 0
    rewards = generator.normal(size=(len(tasks), rows)).astype("f4")
    actions[:, 0], rewards[:, 0] = np.nan, np.nan
    indices = np.repeat(np.array(tasks, "i4")[:, None], rows, axis=1)
    return {"obs": observations, "action": actions, "reward": rewards, "task": indices}


def save(path: Path, columns: dict[str, Any]) -> None:
    """With the installed tensordict."""
    from tensordict import TensorDict

    tensors = {name: torch.as_tensor(values) for name, values in columns.items()}
    torch.save(TensorDict(tensors, batch_size=list(tensors["reward"].shape)), path)


class _StringOnlyDict(dict):
    __module__, __qualname__ = "tensordict.utils", "_StringOnlyDict"


class _OldTensorDict:
    __module__, __qualname__ = "tensordict.tensordict", "TensorDict"
    __slots__ = (
        "_batch_size",
        "_device",
        "_is_locked",
        "_is_memmap",
        "_is_shared",
        "_td_dim_names",
        "_tensordict",
    )

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensordict = _StringOnlyDict(tensors)
        self._batch_size = next(iter(tensors.values())).shape[:2]
        self._device = torch.device("cpu")
        self._is_shared, self._is_memmap, self._is_locked, self._td_dim_names = False, False, False, None

    def __getstate__(self) -> dict[str, Any]:
        return {slot: getattr(self, slot) for slot in self.__slots__}


def save_as_published(path: Path, columns: dict[str, Any]) -> None:
    """With the names in the pickle that the published chunks have (tensordict 0.2 and before)."""
    stand_ins = {
        name: types.ModuleType(name) for name in ("tensordict", "tensordict.tensordict", "tensordict.utils")
    }
    stand_ins["tensordict.tensordict"].TensorDict = _OldTensorDict
    stand_ins["tensordict.utils"]._StringOnlyDict = _StringOnlyDict
    with mock.patch.dict(sys.modules, stand_ins):
        torch.save(_OldTensorDict({name: torch.as_tensor(values) for name, values in columns.items()}), path)
