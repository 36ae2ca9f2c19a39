"""Checkpoints are whole or absent, checked before use, and never executed."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_method import TRAINING, folder, make

from goskill.errors import CheckpointError, InputError
from goskill.training import Checkpoints, RunFolder, Trainer, checkpoint, read_checkpoint


def save(checkpoints: Checkpoints, step: int, value: float, keep: int = 2, phase: int = 0) -> Path:
    network = nn.Linear(2, 2)
    nn.init.constant_(network.weight, value)
    state = {"phase": phase, "iteration": step}
    return checkpoints.save(step, f"phase{phase}", {"network": network}, {}, state, keep)


def weight(found: checkpoint.Checkpoint) -> float:
    network = nn.Linear(2, 2)
    found.load_modules({"network": network})
    return network.weight[0, 0].item()


def test_the_newest_is_found_and_the_last_ones_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest() is None
    for step in (5, 100_000_000, 20):
        save(checkpoints, step, step, keep=3)
    # What was newer than the one just written belongs to a past that was given up.
    assert weight(checkpoints.newest()) == 20.0
    save(checkpoints, 20, 21.0, keep=3, phase=1)
    assert weight(checkpoints.newest()) == 21.0
    save(checkpoints, 30, 30.0, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["step-00000020-phase1", "step-00000030-phase0"]


@pytest.mark.parametrize(
    "damage", ["flip", "truncate", "missing", "state flip", "state missing", "no folder"]
)
def test_a_damaged_checkpoint_is_named_and_skipped(damage, tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, 1.0)
    newest = save(checkpoints, 2, 2.0)
    victim = newest / ("state.json" if damage.startswith("state") else "network.safetensors")
    contents = victim.read_bytes()
    if damage == "flip":
        victim.write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))
    elif damage == "truncate":
        victim.write_bytes(contents[: len(contents) // 2])
    elif damage == "state flip":
        victim.write_bytes(contents.replace(b'"iteration": 2', b'"iteration": 3'))
    elif damage == "no folder":
        for path in newest.iterdir():
            path.unlink()
    else:
        victim.unlink()
    with caplog.at_level(logging.WARNING):
        assert weight(checkpoints.newest()) == 1.0
    assert newest.name in caplog.text
    with pytest.raises(CheckpointError, match=newest.name):
        read_checkpoint(newest)


@pytest.mark.parametrize(
    "files", [None, [], {"../step-00000001-phase0/network.safetensors": "0" * 64}, {"\0": ""}]
)
def test_a_state_whose_files_are_not_names_is_refused(files, tmp_path):
    newest = save(Checkpoints(tmp_path), 2, 2.0)
    state = json.loads((newest / "state.json").read_text()) | {"files": files}
    state["checksum"] = checkpoint.state_checksum(state)
    (newest / "state.json").write_text(json.dumps(state))
    with pytest.raises(
        CheckpointError, match=r"state\.json: expected 'files' to be checksums by plain names"
    ):
        read_checkpoint(newest)


@pytest.mark.parametrize("name", ["phase", "iteration", "step"])
@pytest.mark.parametrize("value", [None, "zz", True])
def test_a_state_whose_position_is_no_number_is_refused(name, value, tmp_path):
    newest = save(Checkpoints(tmp_path), 2, 2.0)
    state = json.loads((newest / "state.json").read_text()) | {name: value}
    state["checksum"] = checkpoint.state_checksum(state)
    (newest / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=rf"state\.json: expected '{name}' to be a whole number"):
        read_checkpoint(newest)


def test_json_that_is_nested_too_deeply_counts_as_damaged(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save(checkpoints, 1, 1.0)
    state = save(checkpoints, 2, 2.0) / "state.json"
    state.write_text("[" * 100_000)
    assert weight(checkpoints.newest()) == 1.0
    (tmp_path / "settings.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"settings\.json cannot be read"):
        assert RunFolder.open(tmp_path).settings


def test_an_unfinished_checkpoint_is_never_taken_for_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, 1.0)

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    for step, function in ((2, "_write"), (3, "sync_folder")):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, function, killed)
            patch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(Killed):
                save(checkpoints, step, 2.0)
        assert weight(checkpoints.newest()) == 1.0
        assert len(os.listdir(tmp_path)) > 1
    save(checkpoints, 4, 4.0)
    assert sorted(os.listdir(tmp_path)) == ["step-00000001-phase0", "step-00000004-phase0"]


def test_shared_and_strided_tensors_come_back(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.register_buffer("columns", torch.arange(12.0).reshape(3, 4).t())

    tied = Tied()
    path = Checkpoints(tmp_path).save(1, "a", {"tied": tied}, {}, {"phase": 0, "iteration": 0}, 1)
    other = Tied()
    read_checkpoint(path).load_modules({"tied": other})
    assert torch.equal(other.second.weight, tied.first.weight)
    assert torch.equal(other.columns, tied.columns)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    import pickle

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    run = folder(tmp_path / "run")
    Trainer(make(), run, TRAINING, progress=False).train()
    Trainer(make(), run, TRAINING, progress=False).train(resume=True)


@pytest.mark.parametrize("checkpoints_before", [0, 1, 3])
def test_a_full_disk_ends_the_run_with_one_error_and_the_last_checkpoint_intact(
    checkpoints_before, tmp_path, monkeypatch
):
    run = folder(tmp_path / "run")
    write, written = checkpoint._write, []

    def full(path: Path, contents: bytes) -> str:
        if path.name == "optimizers.safetensors":
            written.append(path)
        if len(written) > checkpoints_before:
            path.write_bytes(contents[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, contents)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", full)
        with pytest.raises(InputError, match=f"no space left to write to {run.path}") as caught:
            Trainer(make(), run, TRAINING, progress=False).train()
    names = os.listdir(run.checkpoints)
    there = f"up to {max(names)} are whole" if names else "there is no checkpoint yet"
    assert there in str(caught.value)
    assert all(name.startswith("step-") for name in names)
    for name in names:
        read_checkpoint(run.checkpoints / name)
    resumed, whole = make(), make()
    Trainer(resumed, run, TRAINING, progress=False).train(resume=True)
    Trainer(whole, folder(tmp_path / "whole"), TRAINING, progress=False).train()
    for name, module in whole.modules.items():
        for key, tensor in module.state_dict().items():
            assert torch.equal(resumed.modules[name].state_dict()[key], tensor)


def test_a_file_size_limit_is_a_full_disk_too(tmp_path):
    run = folder(tmp_path / "run")
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # More than the networks need, less than state.json with its random states.
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old_limit[1]))
        with pytest.raises(InputError, match="no space left"):
            Trainer(make(), run, TRAINING, progress=False).train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert os.listdir(run.checkpoints) == []


def test_state_is_plain_json_with_versions_and_position(tmp_path):
    run = folder(tmp_path / "run")
    Trainer(make(), run, TRAINING, progress=False).train()
    newest = Checkpoints(run.checkpoints).newest()
    state = json.loads((newest.path / "state.json").read_text())
    assert (state["step"], state["phase"], state["iteration"]) == (54, 3, 0)
    assert state["versions"]["torch"] == torch.__version__
    assert newest.path.name == "step-00000054-finished"
