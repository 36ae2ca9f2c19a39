"""How a scripted hand does each of the kitchen's sub-tasks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from goskill.envs.kitchen.arm import Array
from goskill.envs.kitchen.hand import OPEN, SHUT, Hand, Motion, Progress

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


def _reach(
    hand: Hand, grip: Array, rotation: Array, rest: Array, *, distance: float, within: float
) -> Motion:
    """Take position ``distance`` metres before ``grip``, then go straight in."""
    begin = grip - distance * rotation[:, 2]
    yield from hand.ready(begin, rotation, rest, OPEN)
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
    progress = Progress()
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
    progress = Progress()
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
