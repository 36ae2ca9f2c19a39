"""The kitchen's physics and what is measured of it: FrankaKitchen-v1's numbers with little Python around them."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ElementTree
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from goskill.errors import InputError

OBSERVATION_DIM = 59
ACTION_DIM = 9
VERIFIED = {"gymnasium-robotics": "1.4.2", "mujoco": "3.3.0"}
"""Versions for which every number was compared with FrankaKitchen-v1's."""

SUBSTEPS = 40
ROBOT_JOINTS = 9
"""Seven joints of the arm, two fingers; the joints of the objects follow."""
MOST_SPEED = 2.0
"""The joint speed that an action of 1 asks for, in radians per second (fingers: metres per second)."""

START = np.array(
    [
        *(0.148388023, -1.76848573, 1.84390296, -2.4768576, 0.260252026, 0.712533105, 1.59515394),
        *(0.0479267505, 0.0371350919),
        *(-0.00026627985, -5.18043486e-05, 3.1287722e-05, -4.51199853e-05, -3.90842156e-06, -4.22629655e-05),
        *(6.28065475e-05, 4.04984708e-05, 0.000462730939, -0.000226906415),
        *(-0.000465501369, -0.00644129196, -0.00177048263, 0.00108009684),
        *(-0.26939744, 0.350383255, 1.61944683, 1.00618764, 0.0040639512, -0.00662095997, -0.000268278933),
    ]
)
"""Joint positions at the beginning of an episode: doors shut, burners and light off."""
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


def assets() -> Path:
    """The folder of the kitchen's files in the installed gymnasium-robotics.

    Raises `InputError` without the package, or with versions for which the numbers were not compared.
    """
    for package, verified in VERIFIED.items():
        try:
            installed = version(package)
        except PackageNotFoundError:
            installed = "none"
        if installed != verified:
            raise InputError(
                f"kitchen: expected {package} {verified}, got {installed}: pip install 'goskill[robotics]'"
            )
    # Importing the package would load all its environments, and print a warning about some of them.
    found = importlib.util.find_spec("gymnasium_robotics")
    if found is None or not found.submodule_search_locations:
        raise InputError("kitchen: gymnasium-robotics is installed without its files")
    return Path(found.submodule_search_locations[0]) / "envs" / "assets" / "kitchen_franka"


@cache
def load_model() -> mujoco.MjModel:
    """The compiled model, shared by all kitchens of a process: nothing changes it after this."""
    return mujoco.MjModel.from_xml_path(str(assets() / "kitchen_assets" / "kitchen_env_model.xml"))


@cache
def _joints(attribute: str) -> npt.NDArray[np.float64]:
    """Per joint, what the robot's description says of it, float64 [29, numbers]."""
    root = ElementTree.parse(assets() / "franka_assets" / "franka_config.xml").getroot()
    rows = [str(joint.get(attribute)).split() for joint in root]
    return np.array(rows[: load_model().nv], np.float64)


def joint_bounds() -> npt.NDArray[np.float64]:
    """The lowest and highest target of each joint, float64 [29, 2]."""
    return _joints("pos_bound")


def positions_in(observation: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """The positions of all joints [30] in an observation [59]."""
    objects = slice(2 * ROBOT_JOINTS, 2 * ROBOT_JOINTS + len(START) - ROBOT_JOINTS)
    return np.concatenate([observation[:ROBOT_JOINTS], observation[objects]])


class KitchenSimulation:
    """A Franka arm in a kitchen: joint-speed actions in, noisy joint positions and speeds out.

    An observation, float64 [59], is the positions and speeds of the robot's 9 joints, then the positions [21]
    and speeds [20] of the objects' joints, each with uniform noise. The arm is position-controlled: an action
    moves the target from the *measured* position, so the noise reaches the physics too.

    ``robot_noise`` and ``object_noise`` scale the noise. With 0.1 the robot's positions are within 0.01 rad
    and its speeds within 0.01 rad/s of the truth.
    """

    def __init__(self, robot_noise: float, object_noise: float) -> None:
        self.model = load_model()
        self.data = mujoco.MjData(self.model)
        self._low, self._high = joint_bounds()[:ROBOT_JOINTS].T.copy()
        self._step_length = self.model.opt.timestep * SUBSTEPS
        position, speed = _joints("pos_noise_amp").ravel(), _joints("vel_noise_amp").ravel()
        self._noise = np.concatenate(
            [
                robot_noise * position[:ROBOT_JOINTS],
                robot_noise * speed[:ROBOT_JOINTS],
                # FrankaKitchen-v1 is one off here: the second finger's amplitude comes first.
                object_noise * position[ROBOT_JOINTS - 1 :],
                object_noise * speed[ROBOT_JOINTS:],
            ]
        )
        self._measured = np.zeros(ROBOT_JOINTS)
        self._ctrl, self._qpos, self._qvel = self.data.ctrl, self.data.qpos, self.data.qvel

    def reset(self, generator: np.random.Generator) -> npt.NDArray[np.float64]:
        """Everything back to its start; the first observation."""
        mujoco.mj_resetData(self.model, self.data)
        self._qpos[:] = START
        mujoco.mj_forward(self.model, self.data)
        return self._observe(generator)

    def step(
        self, action: npt.NDArray[np.floating[Any]], generator: np.random.Generator
    ) -> npt.NDArray[np.float64]:
        """0.08 seconds with joint speeds ``action`` [9] in [-1, 1]; the observation after them."""
        speeds = np.minimum(np.maximum(action.astype(np.float64), -1.0), 1.0) * MOST_SPEED
        target = self._measured + speeds * self._step_length
        self._ctrl[:] = np.minimum(np.maximum(target, self._low), self._high)
        mujoco.mj_step(self.model, self.data, SUBSTEPS)
        return self._observe(generator)

    def _observe(self, generator: np.random.Generator) -> npt.NDArray[np.float64]:
        observation = self._noise * generator.uniform(-1.0, 1.0, OBSERVATION_DIM)
        robot, split = ROBOT_JOINTS, len(self._qpos) + ROBOT_JOINTS
        observation[:robot] += self._qpos[:robot]
        observation[robot : 2 * robot] += self._qvel[:robot]
        observation[2 * robot : split] += self._qpos[robot:]
        observation[split:] += self._qvel[robot:]
        self._measured = observation[:robot].copy()
        return observation

    def state(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """All that the next step depends on besides its arguments."""
        values = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, values, _STATE)
        return values, self._measured.copy()

    def restore(self, state: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]) -> None:
        """Go on from a `state`."""
        values, measured = state
        mujoco.mj_setState(self.model, self.data, values, _STATE)
        # Poses for pictures; it also overwrites what the solver starts from, which belongs to the state.
        mujoco.mj_forward(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, values, _STATE)
        self._measured = measured.copy()
