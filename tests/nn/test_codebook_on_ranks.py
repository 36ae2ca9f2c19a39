"""A codebook on several ranks is one codebook: statistics are summed over ranks before it moves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from codebook_on_ranks import quantizer, train


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks hold after training."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(Path(__file__).with_name("codebook_on_ranks.py")), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    return folder


def test_two_ranks_move_the_codebook_as_one_rank_with_all_rows(ranks: Path) -> None:
    alone = quantizer(0)
    train(alone, 0, 1)
    together = torch.load(ranks / "0-0.pt", weights_only=True)
    for name, buffer in alone.state_dict().items():
        torch.testing.assert_close(together[name], buffer, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threshold", [0, 9])
def test_ranks_hold_the_same_codebook_bit_for_bit(ranks: Path, threshold: int) -> None:
    first, second = (torch.load(ranks / f"{threshold}-{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, buffer in first.items():
        assert torch.equal(second[name], buffer), name
