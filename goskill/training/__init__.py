"""What all methods share: the step loop, precision, checkpoints, logging."""

import goskill.training.distributed as distributed
from goskill.training.checkpoint import Checkpoint, Checkpoints, read_checkpoint
from goskill.training.devices import choose_device
from goskill.training.loop import Milestones, Trainer
from goskill.training.metrics import DivergedError
from goskill.training.objectives import (
    Batch,
    Objective,
    OptimizerSettings,
    Phase,
    Sampler,
    Stateful,
    Trainable,
    TrainingSettings,
)
from goskill.training.randomness import seed_everything
from goskill.training.run import RunFolder

__all__ = [
    "Batch",
    "Checkpoint",
    "Checkpoints",
    "DivergedError",
    "Milestones",
    "Objective",
    "OptimizerSettings",
    "Phase",
    "RunFolder",
    "Sampler",
    "Stateful",
    "Trainable",
    "Trainer",
    "TrainingSettings",
    "choose_device",
    "distributed",
    "read_checkpoint",
    "seed_everything",
]
