"""Methods under torchrun: sharded samplers, one codebook, the losses of a single rank."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_store import small_store

from goskill.data import EpisodeStore

PROGRAM = Path(__file__).parents[1] / "train_small.py"


def losses(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if "loss" in name or "norm" in name} for line in lines
    ]


@pytest.mark.parametrize(("method", "lines"), [("go_skill", 12), ("mh_prompt_dt", 6)])
def test_two_ranks_have_the_losses_of_one(method: str, lines: int, tmp_path: Path) -> None:
    small_store(tmp_path / "one-store")
    shutil.copytree(tmp_path / "one-store", tmp_path / "two-store")
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, launcher in (("one", []), ("two", ranks)):
        command = [
            sys.executable,
            *launcher,
            str(PROGRAM),
            method,
            str(tmp_path / f"{name}-store"),
            str(tmp_path / name),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    alone, together = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(alone) == len(together) == lines
    for expected, found in zip(alone, together, strict=True):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    labels = [EpisodeStore.open(tmp_path / f"{name}-store").label_names for name in ("one", "two")]
    assert [len(names) for names in labels] == [method == "go_skill"] * 2
    assert not list((tmp_path / "two-store").glob("labels/.unfinished-*"))
