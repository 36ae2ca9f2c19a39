"""D4RL's point mass in a maze, in MuJoCo: many at a time, each described by position and velocity alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt
from mujoco.rollout import Rollout

from goskill.envs.maze.layouts import MazeLayout

MOST_SPEED = 5.0
"""Velocities are clipped to this, in both directions, before each step."""
OFF_CENTRE = 0.2
"""Position (i, j) is this far, in both directions, from the middle of cell (i, j), which is at (i, j) - 0.2."""

_WALL = '<geom type="box" pos="{} {} 0" size="0.5 0.5 0.2" conaffinity="1"/>'
_MODEL = """
<mujoco model="maze">
  <compiler inertiafromgeom="true" angle="radian"/>
  <option timestep="0.01" gravity="0 0 0" iterations="20" integrator="Euler"><flag warmstart="disable"/></option>
  <default>
    <joint damping="1" limited="false"/>
    <geom friction=".5 .1 .1" density="1000" margin="0.002" condim="1" contype="2" conaffinity="1"/>
  </default>
  <worldbody>
    <body name="particle" pos="1.2 1.2 0">
      <geom type="sphere" size="0.1" contype="1"/>
      <joint name="row" type="slide" axis="1 0 0"/>
      <joint name="column" type="slide" axis="0 1 0"/>
    </body>
    {walls}
  </worldbody>
  <actuator>
    <motor joint="row" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
    <motor joint="column" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
  </actuator>
</mujoco>
"""


@cache
def _model(layout: MazeLayout) -> mujoco.MjModel:
    walls = "".join(_WALL.format(row + 1.0, column + 1.0) for row, column in np.argwhere(layout.walls))
    return mujoco.MjModel.from_xml_string(_MODEL.format(walls=walls))


class PointMasses:
    """Steps point masses in one layout.

    A state is position and velocity, (row, column, row velocity, column velocity); the solver starts from nothing at
    each step, so the next state is a function of state and action alone.
    """

    def __init__(self, layout: MazeLayout, threads: int = 0) -> None:
        self._model: Any = _model(layout)
        self._data = [mujoco.MjData(self._model) for _ in range(max(threads, 1))]
        self._rollout: Any = Rollout(nthread=threads)

    def step(
        self, states: npt.NDArray[np.float64], actions: npt.NDArray[np.floating[Any]]
    ) -> npt.NDArray[np.float64]:
        """The states [N, 4] 0.01 seconds later, under the forces 100 x ``actions`` [N, 2]."""
        count = len(states)
        before, after = np.zeros((count, 5)), np.empty((count, 1, 5))
        before[:, 1:3] = states[:, :2]
        before[:, 3:] = np.clip(states[:, 2:], -MOST_SPEED, MOST_SPEED)
        controls = np.asarray(actions, np.float64)[:, None]
        models: Sequence[Any] = [self._model] * count
        self._rollout.rollout(models, self._data, before, controls, skip_checks=True, nstep=1, state=after)
        return after[:, 0, 1:]

    def close(self) -> None:
        """End the threads."""
        self._rollout.close()
