"""What all methods share: the step loop, precision, checkpoints, logging."""

from goskill.training.method import Batch, Method, Objective, Phase, Sampler, TrainingSettings

__all__ = ["Batch", "Method", "Objective", "Phase", "Sampler", "TrainingSettings"]
