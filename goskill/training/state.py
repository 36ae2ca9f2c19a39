"""What a method keeps besides networks, split into JSON and arrays for a checkpoint, and put together again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from goskill.errors import CheckpointError, InputError
from goskill.training.objectives import Stateful

_ARRAY = "array"  # key of the only entry of a mapping that stands for an array
Arrays = dict[str, dict[str, Tensor]]


def read_states(states: Mapping[str, Stateful]) -> tuple[dict[str, Any], Arrays]:
    """Every state as JSON, in which ``{"array": KEY}`` stands for an array, and the arrays by name and key."""
    plain: dict[str, Any] = {}
    arrays: Arrays = {}
    for name, keeper in states.items():
        found: dict[str, Tensor] = {}
        plain[name] = _split(keeper.state_dict(), name, found)
        if found:
            arrays[name] = found
    return plain, arrays


def load_states(states: Mapping[str, Stateful], plain: Mapping[str, Any], arrays: Arrays) -> None:
    """Load what :func:`read_states` gave. Raises CheckpointError that names a state that is missing or left over."""
    for name in [*states, *(name for name in plain if name not in states)]:
        if name not in plain or name not in states:
            which = "is missing" if name not in plain else "is none of the method's"
            raise CheckpointError(f"checkpoint: state {name!r} {which}")
    for name, keeper in states.items():
        keeper.load_state_dict(_join(plain[name], arrays.get(name, {}), name))


def _split(value: Any, path: str, arrays: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor | np.ndarray):
        arrays[path] = torch.as_tensor(value)
        return {_ARRAY: path}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value) or set(value) == {_ARRAY}:
            raise InputError(
                f"state {path}: expected names other than {_ARRAY!r} alone, got {list(value)!r:.80}"
            )
        return {key: _split(entry, f"{path}.{key}", arrays) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_split(entry, f"{path}.{index}", arrays) for index, entry in enumerate(value)]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise InputError(f"state {path}: expected arrays, texts, numbers and None, got {type(value).__name__}")


def _join(value: Any, arrays: Mapping[str, Tensor], name: str) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {_ARRAY}:
            if value[_ARRAY] not in arrays:
                raise CheckpointError(f"checkpoint: array {value[_ARRAY]!r} of state {name!r} is missing")
            return arrays[value[_ARRAY]]
        return {key: _join(entry, arrays, name) for key, entry in value.items()}
    if isinstance(value, list):
        return [_join(entry, arrays, name) for entry in value]
    return value
