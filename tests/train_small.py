"""Trains a small method without dropout: ``python train_small.py METHOD STORE RUN``, also under torchrun."""

from __future__ import annotations

import sys

from small_store import SMALL, SMALL_PROMPT_DT

from goskill.data import EpisodeStore, label_blocks
from goskill.methods import Sources, find
from goskill.methods.prompt_dt import PromptDT
from goskill.training import RunFolder, Trainer, TrainingSettings

if __name__ == "__main__":
    training = TrainingSettings(
        device="cpu", precision="float32", log_every=1, warmup_iterations=2, threads=1
    )
    entry = find(sys.argv[1])
    small = SMALL_PROMPT_DT if entry.method is PromptDT else SMALL
    settings = entry.settings({**small, "dropout": 0.0})
    label_blocks.BLOCK_STEPS = 32  # so that every rank has some to label
    method = entry.method.create(settings, Sources(EpisodeStore.open(sys.argv[2])), training)
    run = RunFolder.create(sys.argv[3], {"training": training})
    Trainer(method, run, training, progress=False).train()
