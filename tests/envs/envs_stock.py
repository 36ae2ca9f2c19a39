"""The stock MetaWorld environments, set up as `goskill.envs.make` promises to equal them."""

from typing import Any

import gymnasium
import numpy as np


def stock(task: str, seed: int, goal_visible: bool = True) -> Any:
    """A stock environment of a task: random objects and goals from the stream of ``seed``."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    env = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
    env._partially_observable = not goal_visible
    del env.sawyer_observation_space
    env.observation_space = env.sawyer_observation_space
    env._set_task_called = True
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    env.seed(seed)
    return env


class Reseeding(gymnasium.Wrapper):
    """Reseeds a stock environment where Gymnasium says so; stock environments ignore ``reset(seed=…)``."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            self.unwrapped.seed(seed)
        return self.env.reset()


def actions(kind: str, steps: int, seed: int) -> np.ndarray:
    """Actions float32 [steps, 4]: ``random`` ones, or ``extreme`` ones at the space's corners and beyond."""
    generator = np.random.default_rng(seed)
    if kind == "random":
        return generator.uniform(-1, 1, (steps, 4)).astype(np.float32)
    corners = generator.choice([-1.0, 0.0, 1.0, -50.0, 50.0], (steps // 10 + 1, 4))
    return np.repeat(corners, 10, axis=0)[:steps].astype(np.float32)


def difference(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> str:
    """What differs between two answers of ``step``, bit for bit; empty when nothing does."""
    if not np.array_equal(ours[0], theirs[0], equal_nan=True) or ours[0].dtype != theirs[0].dtype:
        return f"observation: {np.flatnonzero(ours[0] != theirs[0])}"
    if not same_bits(ours[1], theirs[1]):
        return f"reward: {ours[1]!r} {theirs[1]!r}"
    if ours[2:4] != theirs[2:4]:
        return f"ends: {ours[2:4]} {theirs[2:4]}"
    if ours[4].keys() != theirs[4].keys():
        return f"info keys: {ours[4].keys()} {theirs[4].keys()}"
    return "; ".join(
        f"info {key}: {ours[4][key]!r} {theirs[4][key]!r}"
        for key in ours[4]
        if not same_bits(ours[4][key], theirs[4][key])
    )


def same_bits(ours: Any, theirs: Any) -> bool:
    """Whether two numbers are the same float64, NaN included."""
    return np.float64(ours).tobytes() == np.float64(theirs).tobytes()


def first_difference(task: str, seed: int, episodes: list[str], steps: int) -> str:
    """Where `goskill.envs.make` and the stock environment part, over several episodes; empty when they don't.

    ``episodes`` names the actions of each: ``"scripted"``, ``"random"`` or ``"extreme"``.
    """
    from goskill.envs import make
    from goskill.envs.metaworld.scripted import ScriptedExpert

    ours, theirs, policy = make(task, seed, impl="fast"), stock(task, seed), ScriptedExpert(task)
    for episode, kind in enumerate(episodes):
        observation = ours.reset()[0]
        if not np.array_equal(observation, theirs.reset()[0]):
            return f"{task}, reset {episode}"
        chosen = None if kind == "scripted" else actions(kind, steps, seed + episode)
        for step in range(steps):
            action = policy(observation) if chosen is None else chosen[step]
            mine, other = ours.step(action), theirs.step(action)
            found = difference(mine, other)
            if found:
                return f"{task}, {kind} episode {episode}, step {step}: {found}"
            observation = mine[0]
        if ours.np_random.bit_generator.state != theirs.np_random.bit_generator.state:
            return f"{task}, {kind} episode {episode}: the random stream"
    return ""
