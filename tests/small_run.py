"""The smallest run that goes the whole way, for tests of commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from goskill.data import StoreWriter

# Dropout, and rates that rise and fall within a few iterations, so that the bits depend on every state of a run.
LIVELY = ("method.dropout=0.1", "training.warmup_iterations=2", "training.decay_iterations=3")
SMALL = (
    *(
        "method.encoder_width=16",
        "method.decoder_width=16",
        "method.decoder_layers=1",
        "method.decoder_heads=2",
    ),
    *("method.policy_width=16", "method.policy_layers=1", "method.policy_heads=2", "method.codebook_size=4"),
    *("method.decoder=transformer", "method.reached_goal=true", "method.policy_every=1"),
    *("method.extraction_iterations=6", "method.policy_iterations=6", "method.skill_batch_per_task=8"),
    *("training.log_every=2", "training.checkpoint_every=4", "training.threads=1"),
    *LIVELY,
)


def write_store(
    path: Path,
    tasks: list[str],
    episodes: int = 6,
    steps: int = 60,
    *,
    seed: int = 0,
    observation_dim: int = 39,
) -> Path:
    """Random walks with MetaWorld's sizes."""
    random = np.random.default_rng(seed)
    with StoreWriter(path, observation_dim=observation_dim, action_dim=4, tasks=tasks) as writer:
        for task in tasks:
            for _ in range(episodes):
                writer.append(
                    task=task,
                    observations=random.normal(size=(steps + 1, observation_dim)).cumsum(0),
                    actions=random.uniform(-1, 1, (steps, 4)),
                    rewards=random.uniform(0, 10, steps),
                )
    return path


def weights(run: Path) -> dict[str, bytes]:
    checkpoint = next((run / "checkpoints").glob("*-finished"))
    return {file.name: file.read_bytes() for file in sorted(checkpoint.glob("*.safetensors"))}
