"""MuJoCo's data with names looked up once, and snapshots of it."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np


class _View:
    """A body, geom, site or joint by name: MuJoCo's own view, with the arrays read at every step kept."""

    def __init__(self, view: Any, arrays: tuple[str, ...]) -> None:
        self.__dict__.update({name: getattr(view, name) for name in ("id", *arrays)}, _view=view)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._view, name, value)


class FastData(mujoco.MjData):  # type: ignore[misc]
    """`mujoco.MjData` that looks each name up once, and whose state can be held still."""

    def __init__(self, model: mujoco.MjModel) -> None:
        super().__init__(model)
        self.frozen = False
        self._bodies: dict[str, _View] = {}
        self._geoms: dict[str, _View] = {}
        self._sites: dict[str, _View] = {}
        self._joints: dict[str, _View] = {}

    def body(self, name: str) -> _View:
        view = self._bodies.get(name)
        if view is None:
            view = self._bodies[name] = _View(super().body(name), ("xpos", "xquat", "xmat"))
        return view

    def geom(self, name: str) -> _View:
        view = self._geoms.get(name)
        if view is None:
            view = self._geoms[name] = _View(super().geom(name), ("xpos", "xmat"))
        return view

    def site(self, name: str) -> _View:
        view = self._sites.get(name)
        if view is None:
            view = self._sites[name] = _View(super().site(name), ("xpos", "xmat"))
        return view

    def joint(self, name: str) -> _View:
        view = self._joints.get(name)
        if view is None:
            view = self._joints[name] = _View(super().joint(name), ("qpos", "qvel"))
        return view

    def forget_names(self) -> None:
        """Drop the kept views. They hold on to this object, so it would never be freed otherwise."""
        for views in (self._bodies, self._geoms, self._sites, self._joints):
            views.clear()


class Snapshot:
    """What decides MuJoCo's future, and the poses that MetaWorld reads before the next forward pass."""

    _STATE = mujoco.mjtState.mjSTATE_INTEGRATION
    _POSES = ("xpos", "xquat", "xmat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat")

    def __init__(self, model: mujoco.MjModel, data: FastData) -> None:
        self._state = np.empty(mujoco.mj_stateSize(model, self._STATE))
        mujoco.mj_getState(model, data, self._state, self._STATE)
        self._poses = [getattr(data, name).copy() for name in self._POSES]

    def restore(self, model: mujoco.MjModel, data: FastData) -> None:
        mujoco.mj_setState(model, data, self._state, self._STATE)
        for name, value in zip(self._POSES, self._poses, strict=True):
            getattr(data, name)[:] = value
