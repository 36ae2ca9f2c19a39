"""MetaWorld's own environment classes, made fast: the package's rewards and resets run on quicker parts.

Nothing of the package is changed, and nothing of it is copied. Each task's class gets a subclass whose
methods are the package's own, run with faster names in scope (`goskill.envs.metaworld.fast_numbers`), on top of
`FastSawyer`, which replaces what all tasks share: the lookup of bodies by name, the search through
contacts, the observation, the step and the reset. Every number stays equal to the stock environment's, bit
for bit.
"""

from __future__ import annotations

import contextlib
import importlib
import types
from functools import cache
from typing import Any, cast

import mujoco
import numpy as np
import numpy.typing as npt
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from goskill.envs.metaworld.episodes import Episodes, check_action
from goskill.envs.metaworld.fast_data import FastData, Snapshot
from goskill.envs.metaworld.fast_numbers import FastRotation, fast_numpy, fast_reward_utils
from goskill.envs.metaworld.models import Models


def _plain_clip() -> Any:
    """The ufunc inside `numpy.clip`, wherever this NumPy keeps it; `numpy.clip` itself if nowhere."""
    for name in ("numpy._core.umath", "numpy.core.umath"):
        with contextlib.suppress(ImportError):
            found = getattr(importlib.import_module(name), "clip", None)
            if found is not None:
                return found
    return np.clip


_clip = _plain_clip()
_MOCAP_QUATERNION = np.array([1.0, 0.0, 1.0, 0.0])
_OBSERVATION_DIM = 39
_FRAME_DIM = 18


class FastSawyer(Episodes):
    """What all tasks share. Mixed in before a stock class, which supplies everything that is not here."""

    _models: Models
    _textures: bool
    data: FastData
    model: Any
    curr_path_length: int

    def _initialize_simulation(self: Any) -> tuple[Any, FastData]:
        shared = self._models.get(self.fullpath, textures=self._textures)
        self._shared = shared
        self._token = shared.user = object()
        shared.body_pos[:], shared.site_pos[:] = shared.compiled
        self._positions = shared.compiled
        model, data = shared.model, FastData(shared.model)
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
        self._hand = data.body("hand").xpos
        self._right_claw = data.body("rightclaw").xpos
        self._left_claw = data.body("leftclaw").xpos
        self._right_finger = data.site("rightEndEffector").xpos
        self._left_finger = data.site("leftEndEffector").xpos
        self._pads = data.geom("leftpad_geom").id, data.geom("rightpad_geom").id
        self._mocap_pos, self._mocap_quat, self._ctrl = data.mocap_pos[0], data.mocap_quat[0], data.ctrl
        self._bounds: tuple[Any, Any, Any] = (None, None, None)
        self._hand_is_fresh = False
        return model, data

    def __del__(self) -> None:
        data = self.__dict__.get("data")
        if data is not None:
            data.forget_names()

    def _take_turn(self) -> None:
        """Put this environment's positions into the model, unless they are there."""
        shared = self._shared
        if shared.user is not self._token:
            shared.user = self._token
            shared.body_pos[:], shared.site_pos[:] = self._positions

    # Stepping

    def step(self: Any, action: Any) -> tuple[npt.NDArray[np.float64], Any, bool, bool, dict[str, Any]]:
        """As the stock environment's."""
        assert len(action) == 4, f"Actions should be size 4, got {len(action)}"
        if self.curr_path_length >= self.max_path_length:
            raise ValueError("You must reset the env manually once truncate==True")
        check_action(action)
        self._take_turn()
        moved = _clip(action[:3], -1, 1) if type(action) is np.ndarray else np.clip(action[:3], -1, 1)
        mocap = self._mocap_pos
        np.add(mocap, moved * self.action_scale, mocap)
        _clip(mocap, self.mocap_low, self.mocap_high, mocap)
        self._mocap_quat[:] = _MOCAP_QUATERNION
        self._ctrl[0], self._ctrl[1] = action[-1], -action[-1]
        mujoco.mj_step(self.model, self.data, self.frame_skip)
        mujoco.mj_forward(self.model, self.data)
        self.curr_path_length += 1
        observation = self._get_obs()
        space, low, high = self._bounds
        if space is not self.sawyer_observation_space:
            space = self.sawyer_observation_space
            low, high = space.low, space.high
            self._bounds = space, low, high
        self._last_stable_obs = observation = _clip(observation, low, high, observation)
        reward, info = self.evaluate_state(observation, action)
        truncated = self.curr_path_length == self.max_path_length
        terminated = self._solved(reward, truncated, info) if self.terminate_on_success else False
        return observation.copy(), reward, terminated, truncated, info

    def _get_obs(self: Any) -> npt.NDArray[np.float64]:
        observation = np.empty(_OBSERVATION_DIM)
        observation[:_FRAME_DIM] = current = self._get_curr_obs_combined_no_goal()
        observation[_FRAME_DIM : 2 * _FRAME_DIM] = self._prev_obs
        observation[2 * _FRAME_DIM :] = 0.0 if self._partially_observable else self._get_pos_goal()
        self._prev_obs = current
        return observation

    def _get_curr_obs_combined_no_goal(self: Any) -> npt.NDArray[np.float64]:
        positions, quaternions = self._get_pos_objects(), self._get_quat_objects()
        frame = np.zeros(_FRAME_DIM)
        if len(positions) == 3 and len(quaternions) == 4:
            frame[4:7], frame[7:11] = positions, quaternions
        elif len(positions) == 6 and len(quaternions) == 8:
            frame[4:7], frame[7:11] = positions[:3], quaternions[:4]
            frame[11:14], frame[14:18] = positions[3:], quaternions[4:]
        else:
            return super()._get_curr_obs_combined_no_goal()  # type: ignore[no-any-return, misc]
        frame[:3] = self._hand
        opening = float(fast_numpy.linalg.norm(self._right_claw - self._left_claw)) / 0.1
        frame[3] = 1.0 if opening > 1.0 else opening
        return frame

    @property
    def tcp_center(self: Any) -> Any:
        return (self._right_finger + self._left_finger) / 2.0

    def get_endeff_pos(self: Any) -> Any:
        return self._hand

    def get_body_com(self, body_name: str) -> Any:
        return self.data.body(body_name).xpos

    def touching_object(self, object_geom_id: int) -> bool:
        contacts = self.data.contact
        left_pad, right_pad = self._pads
        left = right = 0.0
        force = None
        for row, (first, second) in enumerate(contacts.geom.tolist()):
            if object_geom_id not in (first, second):
                continue
            other = second if first == object_geom_id else first
            if other in (left_pad, right_pad):
                if force is None:
                    force, addresses = self.data.efc_force, contacts.efc_address
                if other == left_pad:
                    left += force[addresses[row]]
                else:
                    right += force[addresses[row]]
        return left > 0 and right > 0

    # Resetting

    def reset(
        self: Any, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        """As the stock environment's, but ``seed`` is heeded."""
        if seed is not None:
            self.seed(int(seed))
        self._take_turn()
        self._earned = 0.0
        self.curr_path_length = 0
        # The stock reset runs twice. Of the first run only the random numbers it draws and the positions it
        # writes into the model reach the second, so its physics is left out.
        self.data.frozen = True
        try:
            self.reset_model()
        finally:
            self.data.frozen = False
        mujoco.mj_resetData(self.model, self.data)
        self._hand_is_fresh = True
        observation = self.reset_model()
        self._hand_is_fresh = False
        self._positions = self._shared.body_pos.copy(), self._shared.site_pos.copy()
        self._prev_obs = observation[:_FRAME_DIM].copy()
        observation[_FRAME_DIM : 2 * _FRAME_DIM] = self._prev_obs
        return observation, {}

    def _reset_hand(self: Any, steps: int = 50) -> None:
        data = self.data
        if not data.frozen:
            state = (steps, self._shared.body_pos.tobytes(), np.asarray(self.hand_init_pos).tobytes())
            kept = self._shared.hand_reset
            if self._hand_is_fresh and kept is not None and kept[0] == state:
                kept[1].restore(self.model, data)
            else:
                self._mocap_pos[:] = self.hand_init_pos
                self._mocap_quat[:] = _MOCAP_QUATERNION
                self._ctrl[:] = -1.0, 1.0
                mujoco.mj_step(self.model, data, steps * self.frame_skip)
                if self._hand_is_fresh:
                    self._shared.hand_reset = state, Snapshot(self.model, data)
            self._hand_is_fresh = False
        self.init_tcp = self.tcp_center

    def set_state(self, qpos: npt.NDArray[np.float64], qvel: npt.NDArray[np.float64]) -> None:
        if not self.data.frozen:
            self.data.qpos[:] = qpos
            self.data.qvel[:] = qvel
            mujoco.mj_forward(self.model, self.data)

    def render(self) -> Any:
        self._take_turn()
        return super().render()


def _unless_frozen(function: Any) -> Any:
    def call(model: Any, data: FastData, *arguments: Any) -> None:
        if not data.frozen:
            function(model, data, *arguments)

    return call


_fast_mujoco = types.ModuleType("mujoco")
_fast_mujoco.__dict__.update(mujoco.__dict__)
_fast_mujoco.__dict__.update(
    mj_forward=_unless_frozen(mujoco.mj_forward), mj_step=_unless_frozen(mujoco.mj_step)
)

_REPLACED = {
    "np": fast_numpy,
    "mujoco": _fast_mujoco,
    "reward_utils": fast_reward_utils,
    "Rotation": FastRotation,
}
_KEPT = ("__init__", "_get_obs_dict")
"""Methods that call the stock class's own ``super()`` and are not worth their time."""


class _Rebinder:
    """Copies functions with other names in their scope; ``super()`` in them means the new class."""

    def __init__(self) -> None:
        self._scopes: dict[int, dict[str, Any]] = {}
        self._class_cells: list[types.CellType] = []

    def __call__(self, function: types.FunctionType) -> types.FunctionType:
        names = function.__globals__
        scope = self._scopes.get(id(names))
        if scope is None:
            scope = {**names, **{name: value for name, value in _REPLACED.items() if name in names}}
            self._scopes[id(names)] = scope
        closure = None
        if function.__closure__ is not None:
            closure = tuple(
                self._cell(name, cell)
                for name, cell in zip(function.__code__.co_freevars, function.__closure__, strict=True)
            )
        copied = types.FunctionType(
            function.__code__, scope, function.__name__, function.__defaults__, closure
        )
        copied.__kwdefaults__ = function.__kwdefaults__
        copied.__dict__.update(function.__dict__)
        return copied

    def _cell(self, name: str, cell: types.CellType) -> types.CellType:
        if name == "__class__":
            ours = types.CellType()
            self._class_cells.append(ours)
            return ours
        if isinstance(cell.cell_contents, types.FunctionType):
            return types.CellType(self(cell.cell_contents))
        return cell

    def finish(self, stock: type, made: type) -> None:
        for cell in self._class_cells:
            cell.cell_contents = made
        # Some classes call their own static methods by the class's name.
        for scope in self._scopes.values():
            if scope.get(stock.__name__) is stock:
                scope[stock.__name__] = made


@cache
def fast_class(stock: type[Any]) -> type[Any]:
    """A subclass of a stock environment class with the same numbers, faster."""
    rebind = _Rebinder()
    namespace: dict[str, Any] = {"__module__": __name__, "__doc__": stock.__doc__}
    inherited: dict[str, Any] = {"_gripper_caging_reward": SawyerXYZEnv._gripper_caging_reward}
    for name, value in {**inherited, **vars(stock)}.items():
        if isinstance(value, types.FunctionType) and name not in _KEPT:
            namespace[name] = rebind(value)
        elif isinstance(value, staticmethod):
            namespace[name] = staticmethod(rebind(cast("types.FunctionType", value.__func__)))
    made = type(stock.__name__, (FastSawyer, stock), namespace)
    rebind.finish(stock, made)
    return made
