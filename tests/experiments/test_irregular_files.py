"""Every file of a run and of a store, in turn a named pipe or a device: refused or not needed, never waited for."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from goskill import cli

KEPT = Path(__file__).parent / "kept-0.1.0.tar.xz"
PATIENCE = 300  # seconds: no limit on how fast goskill is, but the end of a test that would never end
COMMANDS = {
    "prompt_dt": ["train", "--resume", "--data", "store", "--out", "prompt_dt"],
    "go_skill": ["export", "go_skill", "exported"],
    "store": ["verify", "store"],
}
NEEDED = {
    "prompt_dt": {"settings.json", "metrics.jsonl"},
    "go_skill": {"settings.json", "state.json", "policy.safetensors", "prompts/manifest.json"},
    "store": {"manifest.json", "observations.npy", "labels.npy", "offsets.npy"},
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    with tarfile.open(KEPT) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def guard() -> Iterator[None]:
    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def files_of(folder: Path) -> list[Path]:
    return sorted(file.relative_to(folder.parent) for file in folder.rglob("*") if file.is_file())


def replace(file: Path, kind: str) -> None:
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")


def status_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["goskill", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("part", COMMANDS)
def test_no_command_waits_for_a_file(
    part: str,
    kind: str,
    kept: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    guard: None,
) -> None:
    refused = []
    names = [str(file) for file in files_of(kept / part)]
    if (
        COMMANDS[part][0] == "train"
    ):  # from the start where a checkpoint cannot be read: of those one file is enough
        names = [one for one in names if one.endswith(("settings.json", "metrics.jsonl", "state.json"))]
    # What is refused does not depend on the kind: of devices the files that are needed are enough.
    for name in names if kind == "pipe" else [one for one in names if one.endswith(tuple(NEEDED[part]))]:
        work = shutil.copytree(kept, tmp_path / "work")
        replace(work / name, kind)
        monkeypatch.chdir(work)
        status = status_of(COMMANDS[part], monkeypatch)
        said = capsys.readouterr().err
        assert status in (0, 2), said
        assert "Traceback" not in said
        if status:
            assert name in said.splitlines()[-1]
            assert "not a regular file" in said.splitlines()[-1]
            refused.append(name)
        shutil.rmtree(work)
    assert all(any(name.endswith(one) for name in refused) for one in NEEDED[part]), refused
