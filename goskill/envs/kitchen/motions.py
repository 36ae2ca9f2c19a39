"""How a scripted hand does each of the kitchen's sub-tasks.

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

_REST = {
    "bottom burner": np.array([-1.02, -1.42, 1.37, -2.62, -0.27, 2.05, 1.5]),
    "top burner": np.array([-1.02, -1.29, 1.15, -2.56, -0.27, 2.05, 1.36]),
    "light switch": np.array([-0.84, -1.21, 1.26, -2.61, 0.0, 1.94, 1.11]),
    "slide cabinet": np.array([-0.85, -0.98, 0.76, -2.19, 0.0, 1.48, 0.6]),
    "hinge cabinet": np.array([-1.07, -1.21, 1.17, -1.67, -0.91, 1.32, 1.97]),
    "microwave": np.array([-0.93, -1.62, 1.95, -1.75, -0.98, 1.17, 2.71]),
    "kettle": np.array([-0.73, -1.15, 2.37, -2.15, -0.63, 0.58, 2.61]),
}
"""Postures that keep the joints off their limits on the way through a sub-task; found by search."""
_REST_RIGHT = np.array([1.54, -1.0, -1.17, -2.05, -0.62, 1.85, -0.25])
"""For the slide cabinet when the hinge cabinet's open door is in the way: from the right."""
_STATIONS = (
    START[:JOINTS],
    np.array([-0.5, -1.75, 0.65, -2.25, -0.45, 1.95, 1.05]),
    np.array([-0.55, -0.97, 1.15, -2.3, -0.7, 2.1, 1.25]),
    np.array([0.2, -1.2, 0.4, -2.95, -0.75, 1.75, 0.3]),
    np.array([1.0, -1.4, -0.5, -2.4, -0.5, 1.5, 0.2]),
)
"""Postures to swing through, from the left to the right, where the straight way is barred."""


@dataclass(frozen=True)
class Style:
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
    def drawn(cls, generator: np.random.Generator) -> Style:
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

    def __init__(self, style: Style, generator: np.random.Generator) -> None:
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
        progress = _Progress()
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
        progress = _Progress()
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


class _Progress:
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


def _reach(
    hand: Hand,
    grip: Array,
    rotation: Array,
    rest: Array,
    *,
    distance: float,
    within: float,
    fingers: float = OPEN,
) -> Motion:
    """Take position ``distance`` metres before ``grip``, then go straight in."""
    begin = grip - distance * rotation[:, 2]
    yield from hand.ready(begin, rotation, rest, fingers)
    yield from hand.move(begin, rotation, within=0.03)
    yield from hand.move(grip, rotation, speed=0.03, within=within)


def _back(hand: Hand, distance: float, rotation: Array, aside: tuple[float, float] = (0.0, 0.0)) -> Motion:
    """Let go and draw back along the hand's own direction."""
    yield from hand.grasp(OPEN, 3)
    end = hand.position - distance * rotation[:, 2] + np.array([aside[0], 0.0, aside[1]])
    yield from hand.move(end, rotation, within=0.04)


def _lead(
    hand: Hand, joint: str, until: float, ahead: float, pose: Callable[[float], tuple[Array, Array]]
) -> Motion:
    """Lead a grasped handle about its hinge, the hand ``ahead`` radians before the door, while that follows."""
    progress = _Progress()
    while True:
        _, angle = hand.hinge(joint)
        if progress.ends(abs(until) - abs(angle), 0.0):
            return
        position, rotation = pose(angle + np.sign(until) * ahead)
        yield hand.towards(position, rotation, firmness=1.25)


def _about_z(angle: float) -> Array:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def microwave(hand: Hand) -> Motion:
    """Grasp the handle above its middle and swing the door open."""
    handle, (hinge, _) = hand.site("microhandle_site"), hand.hinge("microwave")
    grip = hand.grip_on(handle + np.array([0.0, 0.0, 0.07]))
    rotation = hand.pointing(yaw=0.25)
    yield from _reach(hand, grip, rotation, _REST["microwave"], distance=0.14, within=0.015)
    yield from hand.grasp(SHUT, 3)

    def pose(angle: float) -> tuple[Array, Array]:
        turned = hand.pointing(yaw=0.25 - 0.5 * angle)
        return hinge + _about_z(angle) @ (grip - hinge), turned

    yield from _lead(hand, "microwave", -0.62, 0.14, pose)
    yield from _back(hand, 0.12, hand.rotation)


def hinge_cabinet(hand: Hand) -> Motion:
    """Grasp the right door's handle below its middle, from below, and swing the door open."""
    handle, (hinge, _) = hand.site("hinge_site2"), hand.hinge("right_hinge_cabinet")
    grip = hand.grip_on(handle - np.array([0.0, 0.0, 0.045]))
    rotation = hand.pointing(pitch=0.45)
    yield from _reach(hand, grip, rotation, _REST["hinge cabinet"], distance=0.14, within=0.015)
    yield from hand.grasp(SHUT, 3)

    def pose(angle: float) -> tuple[Array, Array]:
        turned = hand.pointing(yaw=-0.35 * angle, pitch=0.45)
        return hinge + _about_z(angle) @ (grip - hinge), turned

    yield from _lead(hand, "right_hinge_cabinet", 1.17, 0.16, pose)
    yield from _back(hand, 0.16, hand.rotation, (0.04, 0.0))


def slide_cabinet(hand: Hand) -> Motion:
    """Put the open fingers astride the handle's lower end and push the door to the right."""
    _, opened = hand.hinge("right_hinge_cabinet")
    handle = hand.grip_on(hand.site("slide_site") - np.array([0.0, 0.0, 0.05]))
    if opened > 0.4:
        rotation, rest = hand.pointing(yaw=0.5, pitch=0.3), _REST_RIGHT
    else:
        rotation, rest = hand.pointing(yaw=-0.3, pitch=0.1), _REST["slide cabinet"]
    astride = handle - 0.02 * rotation[:, 2]
    yield from _reach(hand, astride, rotation, rest, distance=0.13, within=0.02)
    end = astride + np.array([0.25, 0.0, 0.0])
    yield from hand.move(end, rotation, until=lambda: hand.hinge("slide_cabinet")[1] > 0.2)
    yield from _back(hand, 0.12, hand.rotation)


def light_switch(hand: Hand) -> Motion:
    """Push the switch to the left with shut fingers."""
    switch = hand.grip_on(hand.site("light_site"))
    rotation = hand.pointing()
    yield from hand.ready(switch + np.array([0.08, -0.15, 0.0]), rotation, _REST["light switch"], SHUT)
    yield from hand.move(switch + np.array([0.07, -0.045, 0.0]), rotation, within=0.015)
    end = switch + np.array([-0.12, -0.045, 0.0])
    yield from hand.move(end, rotation, speed=0.03, until=lambda: hand.hinge("light_switch")[1] < -0.6)
    yield from hand.move(hand.position - np.array([0.0, 0.12, 0.0]), rotation, within=0.04)


def _burner(hand: Hand, rest: Array, site: str, joint: str) -> Motion:
    """Grasp a knob and turn it to the right."""
    knob = hand.grip_on(hand.site(site))
    rotation = hand.pointing(pitch=0.1)
    around = knob - 0.045 * rotation[:, 2]
    yield from _reach(hand, around, rotation, rest, distance=0.105, within=0.01)
    yield from hand.grasp(SHUT, 3)
    progress = _Progress()
    while not progress.ends(hand.hinge(joint)[1] + 0.8, 0.0):
        _, angle = hand.hinge(joint)
        # The fingers slip, so the wrist leads by much.
        turned = hand.pointing(pitch=0.1, roll=min(0.9 - angle, 1.35))
        yield hand.towards(around, turned, firmness=1.25)
    yield from _back(hand, 0.12, rotation)


def bottom_burner(hand: Hand) -> Motion:
    """Turn the lower left knob."""
    return _burner(hand, _REST["bottom burner"], "knob2_site", "knob_Joint_2")


def top_burner(hand: Hand) -> Motion:
    """Turn the upper left knob."""
    return _burner(hand, _REST["top burner"], "knob4_site", "knob_Joint_4")


def kettle(hand: Hand) -> Motion:
    """Take the kettle by the left end of its handle, lift it, carry it to the back burner, put it down."""
    handle = hand.grip_on(hand.kettle_handle())
    rotation = hand.pointing(yaw=-0.3, pitch=-0.1)
    yield from _reach(hand, handle, rotation, _REST["kettle"], distance=0.16, within=0.015)
    yield from hand.grasp(SHUT, 3)
    level = hand.pointing(yaw=-0.3)
    start = hand.position
    yield from hand.move(start + np.array([0.02, 0.06, 0.07]), level, within=0.03)
    over = start + np.array([0.03, 0.36, 0.08])
    yield from hand.move(over, level, within=0.03, until=lambda: hand.kettle_depth() > 0.62)
    yield from hand.move(hand.position + np.array([0.0, 0.02, -0.07]), level, within=0.03)
    yield from _back(hand, 0.12, level, (-0.03, 0.03))


MOTIONS: dict[str, Callable[[Hand], Motion]] = {
    "bottom burner": bottom_burner,
    "top burner": top_burner,
    "light switch": light_switch,
    "slide cabinet": slide_cabinet,
    "hinge cabinet": hinge_cabinet,
    "microwave": microwave,
    "kettle": kettle,
}
"""By sub-task."""
