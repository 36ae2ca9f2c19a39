"""A scripted policy for the kitchen: sub-tasks in any order, from observations alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.envs.kitchen.arm import JOINTS
from goskill.envs.kitchen.hand import OPEN, Command, Hand, HandStyle, Motion
from goskill.envs.kitchen.motions import MOTIONS
from goskill.envs.kitchen.simulation import ACTION_DIM, MOST_SPEED, START, SUBSTEPS, load_model

_REACH = np.array([0.055] * 4 + [0.09] * 3)
"""How far a joint gets in a step at full action, in radians: less than asked for, as the motors are soft."""
_GAIN = 0.55
_MOST_ACTION = 0.9
_TRIES = 2
_PLAIN = HandStyle()


class ScriptedKitchen:
    """Does sub-tasks, one after the other; one object per episode.

    ``noise`` is the standard deviation of what is added to the actions; ``wander`` the number of steps, at most,
    in which the arm first goes somewhere near. A sub-task that failed is tried a second time. When all is done
    the arm stays where it is, and ``finished`` is true.
    """

    def __init__(
        self,
        subtasks: Iterable[str],
        generator: np.random.Generator | None = None,
        *,
        style: HandStyle = _PLAIN,
        noise: float = 0.0,
        wander: int = 0,
    ) -> None:
        self.subtasks = tuple(subtasks)
        self.subtask: str | None = None
        """What it is at; None before the first and after the last."""
        self.finished = False
        self._generator = np.random.default_rng() if generator is None else generator
        self._noise, self._wander = noise, wander
        self._hand = Hand(style, self._generator)
        self.completed: set[str] = set()
        """What it has seen done."""
        self._script = self._all()
        stiffness = load_model().actuator_gainprm[:JOINTS, 0]
        self._sag = 1.0 / (stiffness * MOST_SPEED * SUBSTEPS * load_model().opt.timestep)

    def __call__(self, observation: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """The action, float32 [9] in [-1, 1], for an observation [59]."""
        self.look(observation)
        command = next(self._script)
        # Joints sag by the torque of gravity over their stiffness, which the target has to lie above.
        against_gravity = self._hand.weight() * self._sag
        wanted = _GAIN * command.firmness * (command.joints - self._hand.joints) / _REACH
        room = np.maximum(_MOST_ACTION - np.sign(wanted) * against_gravity, 0.2)
        # Too large a motion is scaled as a whole, so that its direction stays.
        wanted /= max(1.0, float(np.max(np.abs(wanted) / room)))
        action = np.concatenate([wanted + against_gravity, [command.fingers, command.fingers]])
        action += self._generator.normal(0.0, self._noise, ACTION_DIM)
        return np.asarray(np.clip(action, -1.0, 1.0), np.float32)

    def look(self, observation: npt.NDArray[np.floating[Any]]) -> None:
        """Take notice of an observation [59], without an action: the last one of an episode."""
        self._hand.see(np.asarray(observation, np.float64))
        self.completed.update(name for name in self.subtasks if self._hand.done(name))

    def _all(self) -> Motion:
        near = START[:JOINTS] + self._generator.normal(0.0, 0.1, JOINTS)
        for _ in range(self._generator.integers(0, self._wander, endpoint=True)):
            yield Command(near, OPEN)
        for name in self.subtasks:
            self.subtask = name
            for _ in range(_TRIES):
                yield from MOTIONS[name](self._hand)
                if name in self.completed:
                    break
        self.subtask, self.finished = None, True
        while True:
            yield from self._hand.grasp(OPEN, 1)
