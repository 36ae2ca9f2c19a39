"""Collections of agents that learn: everything in order, the same after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from goskill.data import EpisodeStore
from goskill.errors import InputError
from goskill.experiments.learned_collection import collect_learning
from goskill.training import RunFolder

SUITE = "point_suite:PointSuite"
OVERRIDES = [
    "method.width=8",
    "method.warmup_steps=20",
    "method.batch_size=4",
    "method.updates_per_step=0.5",
    "training.device=cpu",
    "training.precision=float32",
    "training.threads=1",
    "training.checkpoint_every=9",
    "training.log_every=9",
]
KILLED = """
import os, signal, sys
from goskill.methods.sac.method import SAC
interact = SAC._interact
def killing(self, iteration):
    if iteration == 31:
        os.kill(os.getpid(), signal.SIGKILL)
    return interact(self, iteration)
SAC._interact = killing
from goskill.experiments.learned_collection import collect_learning
collect_learning(sys.argv[1], suite=sys.argv[2], episodes=6, overrides=sys.argv[3:], workers=0)
"""


def collect(path: Path) -> EpisodeStore:
    return collect_learning(path, suite=SUITE, episodes=6, overrides=OVERRIDES, workers=0)


def test_a_collection_that_was_killed_ends_with_the_same_episodes(tmp_path: Path) -> None:
    whole = collect(tmp_path / "whole")
    steps = 20 + 2 * 49  # those before the last of 50 updates, of which there is one for two steps
    assert whole.num_steps == 2 * steps
    rows = [np.flatnonzero(whole.episode_task == task) for task in range(2)]
    for own in rows:
        assert whole.episode_length[own].sum() == steps  # nothing of an agent's life is missing
    for index in range(whole.num_episodes):
        episode = whole.episode(index)
        moved = episode.observations[:-1, 0] + np.float32(0.1) * episode.actions[:, 0]
        np.testing.assert_allclose(episode.observations[1:, 0], moved, rtol=1e-5, atol=1e-6)
        ended = abs(episode.observations[-1, 0] - episode.observations[-1, 1]) < 0.1
        assert episode.columns["terminated"][-1] == ended
        assert episode.success is not None
        assert episode.success[-1] == ended
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "cut"), SUITE, *OVERRIDES],
        env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "cut").exists()
    again = collect(tmp_path / "cut")
    assert again.num_episodes == whole.num_episodes
    for index in range(whole.num_episodes):
        for name in ("observations", "actions", "rewards", "success"):
            np.testing.assert_array_equal(
                getattr(again.episode(index), name), getattr(whole.episode(index), name)
            )
    assert whole.provenance[0]["source"] == "sac"
    lines = RunFolder.open(tmp_path / "whole-run").metrics_file.read_text()
    for name in ("return/left", "success/right", "temperature_of_task", "value_of_task"):
        assert name in lines
    assert collect(tmp_path / "whole").num_episodes == whole.num_episodes


def test_too_few_episodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="episodes: expected more than 20 steps"):
        collect_learning(tmp_path / "few", suite=SUITE, episodes=1, overrides=OVERRIDES, workers=0)
