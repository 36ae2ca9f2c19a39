"""Where the robot's hand is, and which joint positions bring it somewhere: damped inverse kinematics."""

from __future__ import annotations

import copy
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from goskill.envs.kitchen.simulation import joint_bounds, load_model

JOINTS = 7

Array = npt.NDArray[np.float64]

_DAMPING = 0.03
_METRES_PER_RADIAN = 0.3
"""How an error of rotation weighs against one of position."""
_MARGIN = 0.01
"""Distance that is kept to the joints' limits, in radians."""
_MOST_STEP = 0.2
_CLEARANCE = 0.025
"""How far from everything the arm swings, in metres."""
_WORLD_FROM_HAND = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
"""A hand that points at the kitchen's front (world +y) with its fingers side by side (along x)."""


def hand_rotation(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> Array:
    """The rotation [3, 3] of a hand that points at the front, turned: yaw to the left, pitch upwards, roll about
    its own axis, clockwise as the robot sees it; in radians."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(angle), np.sin(angle)) for angle in (yaw, pitch, roll))
    about_z = np.array([[cy, -sy, 0.0], [sy, cy, 0.0], [0.0, 0.0, 1.0]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cp, -sp], [0.0, sp, cp]])
    about_y = np.array([[cr, 0.0, sr], [0.0, 1.0, 0.0], [-sr, 0.0, cr]])
    rotation: Array = about_z @ about_x @ about_y @ _WORLD_FROM_HAND
    return rotation


def rotation_between(one: Array, other: Array) -> Array:
    """The axis, as long as the angle in radians, about which ``one`` turns into ``other``; both [3, 3]."""
    turn = other @ one.T
    axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    sine, cosine = float(np.sqrt(axis @ axis)) / 2.0, (float(np.trace(turn)) - 1.0) / 2.0
    result: Array = axis / 2.0 if sine < 1e-9 else axis / (2.0 * sine) * np.arctan2(sine, cosine)
    return result


class Arm:
    """The kinematics of the arm in a kitchen, computed on a copy of the kitchen, which itself is not touched."""

    def __init__(self) -> None:
        self._model: Any = copy.copy(load_model())
        self._data = mujoco.MjData(self._model)
        self._hand = self._model.site("end_effector").id
        bounds, ranges = joint_bounds()[:JOINTS].T, self._model.jnt_range[:JOINTS].T
        self.low: Array = np.maximum(bounds[0], ranges[0]) + _MARGIN
        self.high: Array = np.minimum(bounds[1], ranges[1]) - _MARGIN
        bodies = self._model.geom_bodyid
        self._robot = np.array([self._model.body(body).name.startswith("panda0") for body in bodies])
        self._model.geom_margin[self._robot] = _CLEARANCE
        self._jacobian = np.zeros((6, self._model.nv))
        self._weights = np.repeat([1.0, _METRES_PER_RADIAN], 3)

    def solve(
        self, joints: Array, position: Array, rotation: Array, rest: Array, iterations: int = 100
    ) -> Array:
        """Joint positions [7], near ``joints``, with the hand at ``position`` [3] and ``rotation`` [3, 3].

        What the hand leaves free is drawn towards ``rest`` [7]. A pose that cannot be reached is approached
        as far as the joints' limits allow.
        """
        joints = joints.copy()
        for _ in range(iterations):
            error, jacobian = self._error(joints, position, rotation)
            step = self._step(joints, error, jacobian, 0.1 * (rest - joints))
            joints = np.clip(joints + np.clip(step, -_MOST_STEP, _MOST_STEP), self.low, self.high)
            if np.abs(step).max() < 1e-3:
                break
        return joints

    def is_clear(self, start: Array, end: Array, qpos: Array) -> bool:
        """Whether the arm can swing from ``start`` to ``end`` [7] in the kitchen ``qpos`` [30] and stay clear of it.

        The first 0.3 radians do not count: it may have just let go of something.
        """
        model, data = self._model, self._data
        data.qpos[:] = qpos
        way = float(np.abs(end - start).max())
        for share in np.arange(min(0.3 / max(way, 1e-9), 1.0), 1.0, 0.1 / max(way, 1e-9)):
            data.qpos[:JOINTS] = start + share * (end - start)
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_collision(model, data)
            touching = self._robot[data.contact.geom]
            if (touching[:, 0] != touching[:, 1]).any():
                return False
        return True

    def _error(self, joints: Array, position: Array, rotation: Array) -> tuple[Array, Array]:
        """What is missing to the pose [6], weighted, and its derivative [6, 7] by the joints."""
        model, data = self._model, self._data
        data.qpos[:JOINTS] = joints
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacSite(model, data, self._jacobian[:3], self._jacobian[3:], self._hand)
        turn = rotation_between(data.site_xmat[self._hand].reshape(3, 3), rotation)
        error = np.concatenate([position - data.site_xpos[self._hand], turn])
        return self._weights * error, self._weights[:, None] * self._jacobian[:, :JOINTS]

    def _step(self, joints: Array, error: Array, jacobian: Array, towards_rest: Array) -> Array:
        """A damped step. Joints at a limit that would go beyond it stay, and the others make up for them."""
        free = np.ones(JOINTS, bool)
        step = np.zeros(JOINTS)
        while free.any():
            reduced = jacobian * free
            normal = reduced.T @ reduced + _DAMPING**2 * np.eye(JOINTS)
            inverse = np.linalg.solve(normal, reduced.T)
            step = free * (inverse @ error + towards_rest - inverse @ (reduced @ towards_rest))
            beyond = ((joints <= self.low) & (step < 0.0)) | ((joints >= self.high) & (step > 0.0))
            if not beyond.any():
                break
            free &= ~beyond
        return step * free
