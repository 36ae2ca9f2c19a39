"""Ranks under torchrun train what one rank with the same global batch trains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_resume import HELD_RUN, metric_lines, wait_for_step
from toy_method import TRAINING, ToySettings, folder, make

from goskill.errors import InputError
from goskill.training import Checkpoints, RunFolder, Trainer, distributed


def start_ranks(path: Path, ranks: int, *arguments: str, held_at: int | None = None) -> subprocess.Popen:
    program = Path(__file__).with_name("toy_method.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    if held_at is not None:
        command += [str(HELD_RUN), str(held_at)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, str(program), str(path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )


def test_two_ranks_give_the_losses_of_one_and_resume_when_terminated(tmp_path):
    toy = ToySettings(dropout=0.0)
    alone = folder(tmp_path / "alone", toy=toy)
    Trainer(make(toy), alone, TRAINING, progress=False).train()

    run = RunFolder(tmp_path / "ranks")
    process = start_ranks(run.path, 2, "--dropout", "0", held_at=18)
    wait_for_step(run, 10, process)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert not any(path.name.endswith("finished") for path in run.checkpoints.iterdir())
    process = start_ranks(run.path, 2, "--dropout", "0", "--resume")
    output, _ = process.communicate()
    assert process.returncode == 0, output.decode()

    assert Checkpoints(run.checkpoints).newest().path.name.endswith("finished")
    expected = {line["step"]: line for line in metric_lines(alone)}
    lines = [line for line in metric_lines(run) if line["step"] in expected and line["step"] > 35]
    assert len(lines) >= 5
    for line in lines:
        for name in ("skill/loss", "skill/gradient_norm", "other/loss"):
            assert line[name] == pytest.approx(expected[line["step"]][name], rel=1e-5, abs=1e-6)


def test_a_batch_that_ranks_cannot_share_is_refused(monkeypatch):
    assert distributed.share(7) == 7
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert distributed.share(8) == 2
    with pytest.raises(InputError, match="a multiple of the 4 ranks, got 10"):
        distributed.share(10)
