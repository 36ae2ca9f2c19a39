"""What MetaWorld's environments lack and Gymnasium's have: seeds, copies, and episodes that may end by success."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.envs.pictures import Pictures
from goskill.errors import InputError

_POSITIONS = ("body_pos", "site_pos")
"""What MetaWorld changes in the model at a reset."""
_LIVE = (
    *("qpos", "qvel", "ctrl", "mocap_pos", "mocap_quat", "xpos", "xquat", "xmat"),
    *("geom_xpos", "geom_xmat", "site_xpos", "site_xmat"),
)
"""Arrays of MuJoCo's data that attributes of an environment may be views of."""
_REBUILT = frozenset(("model", "data", "mujoco_renderer", "_models", "_shared", "_token", "_bounds"))
"""Attributes that a copy has of its own."""


def check_action(action: Any) -> None:
    """InputError for what is not finite, at which MuJoCo begins its simulation anew and goes on."""
    if not np.isfinite(action).all():
        raise InputError(f"action: expected 4 finite numbers, got {np.asarray(action).tolist()}")


@dataclass(frozen=True)
class _View:
    """An array that lies in one of MuJoCo's."""

    field: str
    start: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: npt.NDArray[Any], data: Any) -> _View | None:
        address = array.__array_interface__["data"][0]
        for field in _LIVE:
            whole = getattr(data, field)
            offset = address - whole.__array_interface__["data"][0]
            if whole.size and 0 <= offset < whole.nbytes:
                return cls(field, offset // whole.itemsize, array.shape)
        return None

    def into(self, data: Any) -> npt.NDArray[Any]:
        size = int(np.prod(self.shape, dtype=np.int64))
        found: npt.NDArray[Any] = getattr(data, self.field).reshape(-1)[self.start : self.start + size]
        return found.reshape(self.shape)


class Episodes(Pictures):
    """Mixed in before a MetaWorld class."""

    terminate_on_success = False
    """Whether an episode terminates at its first success; its last info has ``episode`` then, as the info of
    `gymnasium.wrappers.RecordEpisodeStatistics`, which `metaworld.evaluation` reads."""
    _made_with: tuple[str, dict[str, Any]]
    _earned = 0.0

    def toggle_terminate_on_success(self, on: bool) -> None:
        """As the method of `metaworld.wrappers.AutoTerminateOnSuccessWrapper`."""
        self.terminate_on_success = bool(on)

    def seed(self, seed: int) -> list[int]:
        seeds: list[int] = super().seed(seed)  # type: ignore[misc]
        self._np_random_seed = int(seed)
        return seeds

    def _solved(self: Any, reward: float, truncated: bool, info: dict[str, Any]) -> bool:
        """Whether this step terminates the episode, with ``terminate_on_success``."""
        self._earned += float(reward)
        terminated = bool(info["success"] == 1.0)
        if terminated or truncated:
            info["episode"] = {"r": self._earned, "l": self.curr_path_length}
        return terminated

    # Pickles and deep copies: an environment made alike, in the same state

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _make_again, self._made_with, self.__getstate__()

    def __getstate__(self: Any) -> dict[str, Any]:
        from goskill.envs.metaworld.fast_data import Snapshot

        self._take_turn()
        attributes = {name: value for name, value in vars(self).items() if name not in _REBUILT}
        for name, value in attributes.items():
            if isinstance(value, np.ndarray) and not value.flags.owndata:
                attributes[name] = _View.of(value, self.data) or value.copy()
        positions = {name: getattr(self.model, name).copy() for name in _POSITIONS}
        snapshot = Snapshot(self.model, self.data)
        return {"attributes": attributes, "positions": positions, "physics": snapshot}

    def __setstate__(self: Any, state: dict[str, Any]) -> None:
        for name, value in state["attributes"].items():
            setattr(self, name, value.into(self.data) if isinstance(value, _View) else value)
        self._take_turn()
        for name, value in state["positions"].items():
            getattr(self.model, name)[:] = value
        state["physics"].restore(self.model, self.data)

    def _take_turn(self) -> None:
        """Put this environment's positions into a model that it shares with others."""


def _make_again(task: str, options: dict[str, Any]) -> Any:
    from goskill.envs.metaworld.environment import make

    return make(task, 0, **options)
