"""Run folders: made whole or not at all, and read with errors that name the file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from goskill import files
from goskill.errors import CheckpointError
from goskill.files import write_atomically
from goskill.training import RunFolder


def full(*_) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("there", [True, False])
def test_a_run_that_cannot_be_begun_leaves_nothing_and_can_be_begun_again(there, tmp_path, monkeypatch):
    path = tmp_path / "runs" / "one"
    if there:
        path.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as caught:
            RunFolder.create(path, {"training": {}})
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path / "settings.json")
    assert list(tmp_path.rglob("*")) == ([path.parent, path] if there else [])
    assert RunFolder.create(path, {"training": {}}).checkpoints.is_dir()


def test_a_folder_with_checkpoints_has_settings(tmp_path, monkeypatch):
    mkdir = Path.mkdir

    def fails(self, *arguments, **options):
        if self.name == "checkpoints":
            assert (tmp_path / "run" / "settings.json").exists()
            full()
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", fails)
    with pytest.raises(OSError, match="No space left"):
        RunFolder.create(tmp_path / "run", {})
    assert not (tmp_path / "run").exists()


def test_a_missing_section_of_the_settings_is_named_with_the_file(tmp_path):
    run = RunFolder.create(tmp_path / "run", {"data": {"tasks": []}, "method": 3, "training": {}})
    assert run.sections("data", "training") == run.settings
    for missing in ("method", "evaluation"):
        with pytest.raises(CheckpointError, match=rf"settings\.json: section '{missing}' is missing"):
            run.sections("data", missing)


def test_a_file_that_cannot_be_written_is_named_and_the_old_one_stays(tmp_path, monkeypatch):
    target = write_atomically(tmp_path / "a" / "file.json", "old")
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as caught:
            write_atomically(target, "new")
    assert caught.value.filename == str(target)
    assert [path.read_text() for path in target.parent.iterdir()] == ["old"]


@pytest.mark.parametrize("kind", ["named pipe", "device"])
def test_a_lock_that_is_no_regular_file_is_refused(kind, tmp_path):
    run = RunFolder.create(tmp_path / "run", {})
    if kind == "device":
        (run.path / ".lock").symlink_to("/dev/zero")
    else:
        os.mkfifo(run.path / ".lock")
    with pytest.raises(OSError, match="not a regular file"), run.lock():
        pass


def test_a_run_that_becomes_longer_has_no_results_yet(tmp_path):
    run = RunFolder.create(tmp_path / "run", {"method": {"iterations": 5}})
    (run.checkpoints / "step-00000005-finished").mkdir()
    for suffix in (".json", ".csv"):
        run.results_file.with_suffix(suffix).write_text("of 5 iterations")
    again = {"resume": True, "may_grow": ["method.iterations"]}
    RunFolder.create(run.path, {"method": {"iterations": 5}}, **again)
    assert run.results_file.exists()
    RunFolder.create(run.path, {"method": {"iterations": 6}}, **again)
    assert not run.results_file.exists()
    assert not run.results_file.with_suffix(".csv").exists()
    assert run.results_of("step-00000005-finished").read_text() == "of 5 iterations"
