"""Scripted episodes of mazes: task-agnostic ones, and demonstrations of a task."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from goskill.envs.maze.batch import ACTION_DIM, EPISODE_STEPS, OBSERVATION_DIM, REACHED_WITHIN, START_SPREAD
from goskill.envs.maze.layouts import Cell, MazeLayout
from goskill.envs.maze.scripted import PathStyle, ScriptedMaze
from goskill.envs.maze.simulation import PointMasses
from goskill.envs.maze.tasks import maze_task
from goskill.envs.metaworld.tasks import episode_seed
from goskill.envs.suite import CollectedEpisode

MOST_NOISE = 0.3
_LEAST_WAY = 5.0
_ARRIVED_WITHIN = 0.3


class MazeCollector:
    """Rolls out single episodes, by another demonstrator each time.

    Episodes of ``maze-play`` go from a random cell to a random one, at least 5 steps of a cell apart, and end when
    they are there; those of another task go from the layout's start to its goal and end where its episodes end.
    Actions have noise of a standard deviation between 0 and 0.3. Rewards and ``success`` are those of the episode's own
    goal, which the columns ``start`` and ``goal`` tell, as (row, column).
    """

    def __call__(self, task: str, episode: int, episodes: int, seed: int) -> CollectedEpisode:
        """Episode ``episode`` of a task's ``episodes``: a pure function of the arguments."""
        chosen = maze_task(task)
        generator = np.random.default_rng([episode_seed(seed, chosen.name, episode, "collection"), 1])
        plays = chosen.goal is None
        start, goal = (
            _ends(chosen.layout, generator) if chosen.goal is None else (chosen.layout.start, chosen.goal)
        )
        style, noise = PathStyle.drawn(generator), generator.uniform(0.0, MOST_NOISE)
        policy = ScriptedMaze(chosen.layout, goal, generator, style=style, noise=noise)
        state = np.empty(OBSERVATION_DIM)
        state[:2] = start + generator.uniform(-START_SPREAD, START_SPREAD, 2)
        state[2:] = 0.1 * generator.standard_normal(2)
        return _roll_out(PointMasses(chosen.layout), state, policy, start, goal, plays)


def _ends(layout: MazeLayout, generator: np.random.Generator) -> tuple[Cell, Cell]:
    """Two cells between which a way leads that is not too short."""
    cells = np.argwhere(np.isfinite(layout.distances(layout.start)))
    while True:
        start, goal = (tuple(cell) for cell in generator.choice(cells, 2).tolist())
        if layout.distances(goal)[start] >= min(_LEAST_WAY, len(cells) / 4):
            return start, goal


def _roll_out(
    physics: PointMasses,
    state: npt.NDArray[np.float64],
    policy: ScriptedMaze,
    start: Cell,
    goal: Cell,
    plays: bool,
) -> CollectedEpisode:
    observations = np.empty((EPISODE_STEPS + 1, OBSERVATION_DIM), np.float32)
    actions = np.empty((EPISODE_STEPS, ACTION_DIM), np.float32)
    away = np.empty(EPISODE_STEPS)
    observations[0] = state
    length, terminated, arrived = 0, False, False
    while length < EPISODE_STEPS and not (terminated or arrived):
        actions[length] = policy(state)
        (state,) = physics.step(state[None], actions[length, None])
        away[length] = np.hypot(*(state[:2] - goal))
        terminated = not plays and away[length] <= REACHED_WITHIN
        arrived = away[length] <= _ARRIVED_WITHIN
        length += 1
        observations[length] = state
    reached = away[:length] <= REACHED_WITHIN
    ends: npt.NDArray[np.bool_] = np.zeros((2, length), np.bool_)
    ends[:, -1] = terminated, not terminated
    return CollectedEpisode(
        observations[: length + 1],
        actions[:length],
        reached.astype(np.float32),
        ends[0],
        ends[1],
        reached,
        episode_columns={"start": np.array(start, np.int16), "goal": np.array(goal, np.int16)},
    )
