"""Trains a small GO-Skill without dropout on a store: ``python train_small.py STORE RUN``, also under torchrun."""

from __future__ import annotations

import sys

from small_store import small_settings

from goskill.data import EpisodeStore
from goskill.methods.go_skill import GoSkill
from goskill.training import RunFolder, Trainer, TrainingSettings

if __name__ == "__main__":
    training = TrainingSettings(
        device="cpu", precision="float32", log_every=1, warmup_iterations=2, threads=1
    )
    method = GoSkill(small_settings(dropout=0.0), EpisodeStore.open(sys.argv[1]), training)
    run = RunFolder.create(sys.argv[2], {"training": training})
    Trainer(method, run, training, progress=False).train()
