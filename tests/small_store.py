"""A tiny store of two tasks whose actions can be learnt from the observations, for tests of methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from goskill.data import EpisodeStore, StoreWriter
from goskill.methods.go_skill import GoSkillSettings
from goskill.methods.prompt_dt import PromptDTSettings
from goskill.rollouts.policy import Demonstration
from goskill.training import Objective, Trainable

OBSERVATION, ACTION, TASKS = 6, 2, ("left", "right")

SMALL: dict[str, Any] = {
    "horizon": 4,
    "codebook_size": 5,
    "embedding_size": 8,
    "encoder_width": 16,
    "decoder_width": 16,
    "decoder_layers": 2,
    "decoder_heads": 2,
    "policy_width": 16,
    "policy_layers": 2,
    "policy_heads": 2,
    "context": 5,
    "prompt_length": 3,
    "prompt_episodes": 2,
    "max_decisions": 40,
    "return_scale": 10.0,
    "extraction_iterations": 6,
    "policy_iterations": 6,
    "skill_batch_per_task": 8,
    "policy_batch_per_task": 4,
}


def small_settings(**changes: Any) -> GoSkillSettings:
    return GoSkillSettings(**{**SMALL, **changes})


SMALL_PROMPT_DT: dict[str, Any] = {
    "width": 16,
    "layers": 2,
    "heads": 2,
    "context": 5,
    "prompt_length": 3,
    "prompt_episodes": 2,
    "max_decisions": 40,
    "return_scale": 10.0,
    "iterations": 6,
    "batch_per_task": 4,
}


def small_prompt_dt(**changes: Any) -> PromptDTSettings:
    return PromptDTSettings(**{**SMALL_PROMPT_DT, **changes})


def episode(seed: int, steps: int, direction: float) -> Demonstration:
    """Walks that drift by their actions; dimension 5 is constant."""
    random = np.random.default_rng(seed)
    actions = np.tanh(random.normal(direction, 0.5, (steps, ACTION)))
    observations = np.zeros((steps + 1, OBSERVATION))
    observations[0, :4] = random.normal(size=4)
    observations[:, 5] = 0.6
    for step in range(steps):
        observations[step + 1] = observations[step]
        observations[step + 1, :ACTION] += actions[step]
        observations[step + 1, 4] = np.sin(step / 3)
    rewards = random.uniform(0, 1, steps)
    return Demonstration(
        observations.astype(np.float32), actions.astype(np.float32), rewards.astype(np.float32)
    )


def small_store(path: Path, lengths: tuple[int, ...] = (30, 23, 3, 17)) -> EpisodeStore:
    with StoreWriter(path, observation_dim=OBSERVATION, action_dim=ACTION, tasks=list(TASKS)) as writer:
        for index, length in enumerate(lengths):
            for task, direction in zip(TASKS, (-0.5, 0.5), strict=True):
                one = episode(100 * index + len(task), length, direction)
                writer.append(
                    task=task, observations=one.observations, actions=one.actions, rewards=one.rewards
                )
    return EpisodeStore.open(path)


def begin(method: Trainable, phase: str) -> dict[str, Objective]:
    """Objectives of a phase by name."""
    found = next(one for one in method.phases() if one.name == phase)
    return {objective.name: objective for objective in found.begin()}
