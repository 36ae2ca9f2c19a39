"""Commands under torchrun do what one process does: their files are the same, byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import SMALL, write_store

from goskill.experiments import pipeline

TASKS = ["reach", "door-close", "push"]
ALONE = [sys.executable, "-m", "goskill"]
RANKS = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node=2",
    "-m",
    "goskill.cli",
]


def files(*commands: list[str], folder: Path) -> dict[str, bytes]:
    """What commands leave in a folder, each run in it."""
    folder.mkdir()
    for command in commands:
        # torchrun gives its ranks a thread each, and rounding depends on the number of threads.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
    written = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in written.items() if path.name != ".lock"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few iterations."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_store(folder / "data", TASKS)
    return pipeline.train(data, folder / "run", preset="quickstart", overrides=SMALL).path


def test_evaluation(run: Path, tmp_path: Path) -> None:
    """Also of fewer tasks than there are ranks. A rank's task is what a half is alone, so that rounding is the same."""
    written = []
    for start in (ALONE, RANKS):
        evaluate = [*start, "eval", str(run), "--episodes", "16", "--workers", "1", "--out"]
        commands = (
            [*evaluate, "two.json", "--tasks", "reach,push"],
            [*evaluate, "one.json", "--tasks", "push"],
        )
        written.append(files(*commands, folder=tmp_path / start[-1]))
    assert written[0].keys() == {"two.json", "two.csv", "one.json", "one.csv"}
    assert written[0] == written[1]


def test_collection_and_labels(run: Path, tmp_path: Path) -> None:
    written = []
    for start in (ALONE, RANKS):
        collect = [*start, "collect", "--tasks", ",".join(TASKS), "--episodes", "3", "--out", "data"]
        written.append(files(collect, [*start, "label", str(run), "data"], folder=tmp_path / start[-1]))
    assert any("labels" in name for name in written[0])
    assert written[0] == written[1]
