"""The scripted hand: what it sees, and small motions.

A motion is a generator: it looks at the kitchen, yields where the joints should be going for one step, and looks
again. Positions are in metres in the world's frame: x to the right, y towards the kitchen's front, z up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import mujoco
import numpy as np

from goskill.envs.kitchen.arm import JOINTS, Arm, Array, hand_rotation, rotation_between
from goskill.envs.kitchen.simulation import START, load_model, positions_in
from goskill.envs.kitchen.tasks import SUBTASKS

OPEN, SHUT = 1.0, -1.0
_KETTLE_UPRIGHT = 237
_PATIENCE = 8
_NOTICEABLE = 0.005

_STATIONS = (
    START[:JOINTS],
    np.array([-0.5, -1.75, 0.65, -2.25, -0.45, 1.95, 1.05]),
    np.array([-0.55, -0.97, 1.15, -2.3, -0.7, 2.1, 1.25]),
    np.array([0.2, -1.2, 0.4, -2.95, -0.75, 1.75, 0.3]),
    np.array([1.0, -1.4, -0.5, -2.4, -0.5, 1.5, 0.2]),
)
"""Postures to swing through, from the left to the right, where the straight way is barred."""


@dataclass(frozen=True)
class HandStyle:
    """How one demonstrator moves.

    ``pace`` scales speeds; ``sway`` and ``slip`` are the standard deviations of way-points in free space and of
    grasps, in metres; ``yaw`` and ``pitch`` turn the hand away from how it is best held, in radians; ``grip`` is
    how hard the fingers are driven, up to 1.
    """

    pace: float = 1.0
    sway: float = 0.0
    slip: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    grip: float = 0.7

    @classmethod
    def drawn(cls, generator: np.random.Generator) -> HandStyle:
        """A demonstrator at random."""
        return cls(
            pace=generator.uniform(0.85, 1.15),
            sway=generator.uniform(0.0, 0.02),
            slip=generator.uniform(0.0, 0.003),
            yaw=generator.normal(0.0, 0.05),
            pitch=generator.normal(0.0, 0.05),
            grip=generator.uniform(0.5, 1.0),
        )


@dataclass(frozen=True)
class Command:
    """Where the joints should be going, float64 [7], how firmly, and what the fingers do, in [-1, 1]."""

    joints: Array
    fingers: float
    firmness: float = 1.0


Motion = Iterator[Command]


class Hand:
    """The robot's hand in a kitchen: what it sees in an observation, and motions made of small ones."""

    def __init__(self, style: HandStyle, generator: np.random.Generator) -> None:
        self._style, self._generator = style, generator
        self._arm = Arm()
        self._model: Any = load_model()
        self._data: Any = mujoco.MjData(self._model)
        self._fingers = OPEN
        self._rest = START[:JOINTS]

    # What it sees

    def see(self, observation: Array) -> None:
        """Take the kitchen to be as an observation [59] says."""
        self._data.qpos[:] = positions_in(observation)
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)

    def weight(self) -> Array:
        """The torques of gravity on the joints [7]."""
        torques = np.zeros(self._model.nv)
        mujoco.mj_comVel(self._model, self._data)
        mujoco.mj_rne(self._model, self._data, 0, torques)
        return torques[:JOINTS]

    @property
    def joints(self) -> Array:
        joints: Array = self._data.qpos[:JOINTS].copy()
        return joints

    @property
    def position(self) -> Array:
        position: Array = self._data.site("end_effector").xpos.copy()
        return position

    @property
    def rotation(self) -> Array:
        rotation: Array = self._data.site("end_effector").xmat.reshape(3, 3).copy()
        return rotation

    def site(self, name: str) -> Array:
        position: Array = self._data.site(name).xpos.copy()
        return position

    def hinge(self, joint: str) -> tuple[Array, float]:
        """Where a joint is, and how far it is moved."""
        found = self._data.joint(joint)
        return found.xanchor.copy(), float(found.qpos[0])

    def kettle_handle(self) -> Array:
        """The middle of the left end of the kettle's handle, which is upright."""
        position: Array = self._data.geom_xpos[_KETTLE_UPRIGHT].copy()
        return position

    def kettle_depth(self) -> float:
        """How far back the kettle is: its y."""
        return float(self._data.qpos[24])

    def done(self, subtask: str) -> bool:
        return SUBTASKS[subtask].is_done(self._data.qpos)

    def about(self, position: Array) -> Array:
        """A way-point near ``position``: as far from it as this demonstrator's hand sways."""
        return np.asarray(position + self._generator.normal(0.0, self._style.sway, 3))

    def grip_on(self, position: Array) -> Array:
        """Where to grasp what is at ``position``: as far from it as this demonstrator is inexact."""
        return np.asarray(position + self._generator.normal(0.0, self._style.slip, 3))

    def pointing(self, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> Array:
        """`hand_rotation` as this demonstrator holds the hand."""
        return hand_rotation(yaw + self._style.yaw, pitch + self._style.pitch, roll)

    # What it does

    def grasp(self, fingers: float, steps: int) -> Motion:
        """Open or shut the fingers, the arm still."""
        self._fingers, joints = fingers, self.joints
        for _ in range(steps):
            yield self._command(joints)

    def ready(self, position: Array, rotation: Array, rest: Array, fingers: float) -> Motion:
        """Swing the arm, joints only, to a posture near ``rest`` with the hand at ``position``."""
        self._fingers, self._rest = fingers, rest
        posture = self._arm.solve(rest, self.about(position), rotation, rest)
        *between, last = self._route(posture)
        for station in between:
            yield from self._swing(station, 0.3)
        yield from self._swing(last, 0.12)

    def _route(self, posture: Array) -> list[Array]:
        """Postures that lead to ``posture``: itself, after another one where something is in the way."""
        here = self.joints
        routes = [[posture], *([station, posture] for station in _STATIONS)]
        routes.sort(key=lambda route: sum(float(np.abs(a - b).max()) for a, b in pairwise([here, *route])))
        for route in routes:
            if all(self._arm.is_clear(a, b, self._data.qpos) for a, b in pairwise([here, *route])):
                return route
        return [posture]

    def _swing(self, posture: Array, within: float) -> Motion:
        progress = Progress()
        while True:
            missing = posture - self.joints
            if progress.ends(float(np.abs(missing).max()), within):
                return
            yield self._command(self.joints + _at_most(missing, 0.1 * self._style.pace))

    def move(
        self,
        position: Array,
        rotation: Array,
        *,
        speed: float = 0.04,
        within: float = 0.02,
        until: Callable[[], bool] = lambda: False,
    ) -> Motion:
        """Along a straight line to ``position``, ``speed`` metres a step, until there, told to stop, or stuck."""
        progress = Progress()
        while not until():
            missing = position - self.position
            if progress.ends(float(np.sqrt(missing @ missing)), within):
                return
            yield self.towards(position, rotation, 2.0 * speed * self._style.pace)

    def towards(
        self, position: Array, rotation: Array, reach: float = 0.08, firmness: float = 1.0
    ) -> Command:
        """One step of the way to a pose: of what is missing, at most ``reach`` metres and 0.4 radians."""
        here, now = self.position, self.rotation
        missing = position - here
        ahead = here + missing * min(1.0, reach / max(float(np.sqrt(missing @ missing)), 1e-9))
        turn = _turned(now, rotation, 0.4)
        return self._command(self._arm.solve(self.joints, ahead, turn, self._rest, 12), firmness)

    def _command(self, joints: Array, firmness: float = 1.0) -> Command:
        return Command(joints, self._fingers * (self._style.grip if self._fingers < 0.0 else 1.0), firmness)


class Progress:
    """Watches a distance shrink."""

    def __init__(self) -> None:
        self._least, self._since = np.inf, 0

    def ends(self, distance: float, within: float) -> bool:
        """Whether it is small enough, or has not shrunk for some steps: something is in the way."""
        closer = distance < self._least - _NOTICEABLE
        self._least, self._since = (distance, 0) if closer else (self._least, self._since + 1)
        return distance < within or self._since >= _PATIENCE


def _at_most(change: Array, most: float) -> Array:
    return change * min(1.0, most / max(float(np.abs(change).max()), 1e-9))


def _turned(one: Array, other: Array, most: float) -> Array:
    """``one`` turned towards ``other``, by ``most`` radians at most."""
    axis = rotation_between(one, other)
    angle = float(np.sqrt(axis @ axis))
    if angle <= most:
        return other
    x, y, z = axis / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turn = np.eye(3) + np.sin(most) * cross + (1.0 - np.cos(most)) * cross @ cross
    return np.asarray(turn @ one)
