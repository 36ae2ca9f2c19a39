"""Pauses of training at milestones: when they come, what is on disk by then, and that they change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_method import TRAINING, ToySettings, folder, make

from goskill.errors import InputError
from goskill.training import Checkpoints, Milestones, Trainer

# 3 + 8 iterations in two phases (the toy method's defaults are longer).
SETTINGS = ToySettings(iterations=(3, 8))


def train(path: Path, milestones: Milestones | None) -> dict[str, torch.Tensor]:
    method = make(SETTINGS)
    Trainer(method, folder(path, toy=SETTINGS), TRAINING, progress=False, milestones=milestones).train()
    return {
        f"{network}.{name}": tensor
        for network, module in method.modules.items()
        for name, tensor in module.state_dict().items()
    }


def test_they_come_first_every_so_often_and_last_behind_a_checkpoint(tmp_path: Path) -> None:
    reached = []

    def reach(iteration: int) -> str:
        newest = Checkpoints(tmp_path / "run" / "checkpoints").newest()
        assert newest is not None
        assert newest.state["step"] == iteration
        reached.append(iteration)
        return ""

    train(tmp_path / "run", Milestones(4, reach))
    assert list(dict.fromkeys(reached)) == [0, 4, 8, 11]


@pytest.mark.parametrize("every", [1, 4])
def test_what_is_done_there_changes_nothing(tmp_path: Path, every: int) -> None:
    expected = train(tmp_path / "without", None)

    def reach(iteration: int) -> str:
        torch.rand(7)
        np.random.rand(3)  # noqa: NPY002 (what third-party code may do)
        return ""

    found = train(tmp_path / "with", Milestones(every, reach))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_modes_of_networks_are_put_back(tmp_path: Path) -> None:
    method = make(SETTINGS)
    seen = []

    def reach(iteration: int) -> str:
        for module in method.modules.values():
            seen.append(module.training)
            module.eval()
        return ""

    Trainer(
        method,
        folder(tmp_path / "run", toy=SETTINGS),
        TRAINING,
        progress=False,
        milestones=Milestones(2, reach),
    ).train()
    assert all(seen)


def test_a_step_of_less_than_one_is_refused() -> None:
    with pytest.raises(InputError, match="every: expected at least 1, got 0"):
        Milestones(0, lambda iteration: "")
