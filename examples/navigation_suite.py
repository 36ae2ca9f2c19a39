"""Environments of your own as a suite: a point that walks in the plane to one of several goals.

Run: python navigation_suite.py OUT
or each step by itself in this folder, where the suite is found by its import path:

    goskill collect --suite navigation_suite:suite --out data
    goskill train --data data --out run
    goskill eval run --suite navigation_suite:suite
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from goskill.envs import GymnasiumSuite
from goskill.evaluation import Results
from goskill.experiments import pipeline

GOALS = {"east": (0.9, 0.0), "north": (0.0, 0.9), "west": (-0.9, 0.0), "south": (0.0, -0.9)}


class Walk(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observes its position, moves by up to 0.1 per step, pays the distance to the goal and ends near it."""

    observation_space = Box(-1.0, 1.0, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, task: str) -> None:
        self.goal = np.array(GOALS[task])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-0.3, 0.3, 2)
        return self.position.astype(np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self.position = np.clip(self.position + 0.1 * action, -1.0, 1.0)
        distance = np.linalg.norm(self.position - self.goal)
        reached = bool(distance < 0.25)
        return self.position.astype(np.float32), -distance, reached, False, {"success": reached}


def expert(task: str) -> Any:
    """Straight to the goal."""
    return lambda position: np.clip((GOALS[task] - position) / 0.1, -1.0, 1.0).astype(np.float32)


suite = GymnasiumSuite(
    "navigation", make=Walk, tasks=list(GOALS), max_steps=30, expert=expert, prefer_workers=False
)


SMALL = [
    *("method.horizon=4", "method.context=4", "method.codebook_size=8", "method.embedding_size=16"),
    *("method.encoder_width=64", "method.decoder=mlp", "method.decoder_width=64", "method.decoder_layers=1"),
    *("method.policy_width=32", "method.policy_layers=1", "method.policy_heads=2"),
    *("method.best_share=0.6", "method.return_scale=auto", "method.skill_batch_per_task=32"),
    *("method.extraction_iterations=250", "method.policy_iterations=500"),
    *("training.learning_rate=3e-3", "training.warmup_iterations=20", "training.decay_iterations=80"),
]
"""Settings of GO-Skill for so small a world: seconds on a core."""


def main(out: str | Path) -> Results:
    """Collect episodes, train GO-Skill on them, and evaluate it."""
    data, run = Path(out) / "data", Path(out) / "run"
    pipeline.collect(data, suite=suite, episodes=30)
    pipeline.train(data, run, preset="quickstart", overrides=SMALL)
    return pipeline.evaluate(run, suite=suite, episodes=25)


if __name__ == "__main__":
    main(sys.argv[1])
