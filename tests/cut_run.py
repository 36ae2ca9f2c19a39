"""A run in environments that is cut and resumed, held against one that was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from goskill.training import RunFolder, Trainer, TrainingSettings


def train(path: Path, method: Any, training: TrainingSettings, *, resume: bool = False) -> Any:
    run = RunFolder.create(path, {}, resume=resume)
    Trainer(method, run, training, progress=False).train(resume=resume)
    return method


def check_cut_and_resumed(
    make: Callable[[], Any], training: TrainingSettings, kill: int, tmp_path: Path
) -> None:
    """A run that is cut before interaction ``kill`` ends with the networks, buffers and episodes of one that is not."""
    whole, cut = train(tmp_path / "whole", make(), training), make()
    interact = cut._interact

    def stopping(iteration: int) -> Any:
        if iteration == kill:
            raise RuntimeError("cut")
        return interact(iteration)

    cut._interact = stopping
    with pytest.raises(RuntimeError, match="cut"):
        train(tmp_path / "cut", cut, training)
    resumed = train(tmp_path / "cut", make(), training, resume=True)
    for part, module in whole.modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, resumed.modules[part].state_dict()[key]), (part, key)
    for buffer in ("replay", "contexts"):
        if hasattr(whole, buffer):
            for name, value in getattr(whole, buffer).state_dict().items():
                assert torch.equal(value, getattr(resumed, buffer).state_dict()[name]), (buffer, name)
    if hasattr(whole, "embeddings"):
        assert torch.equal(whole.embeddings.values, resumed.embeddings.values)
    assert whole.collector.log.episodes("left") == resumed.collector.log.episodes("left")
    ways, again = whole.collector.log.ways("left"), resumed.collector.log.ways("left")
    assert list(ways) == list(again)
    assert all(np.array_equal(way, again[episode]) for episode, way in ways.items())
