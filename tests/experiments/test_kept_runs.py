"""A store and two runs as goskill 0.1.0 wrote them: ``kept-0.1.0.tar.xz``, with the actions that it took."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

import goskill
from goskill.cli import app
from goskill.data import EpisodeStore


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    with tarfile.open(Path(__file__).parent / "kept-0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_store_opens_with_its_labels(kept: Path) -> None:
    store = EpisodeStore.open(kept / "store")
    assert (store.num_episodes, store.num_steps, store.tasks) == (6, 144, ["reach", "push"])
    assert run("verify", kept / "store").exit_code == 0


def test_a_policy_acts_as_it_did(kept: Path) -> None:
    policy = goskill.load_policy(kept / "go_skill", device="cpu")
    policy.reset(["push", "reach"], seed=[3, 4])
    random = np.random.default_rng(1)
    for wanted in np.load(kept / "go_skill_actions.npy"):
        actions = policy.act(random.normal(size=(2, 39)).astype(np.float32))
        policy.observe(np.ones(2, np.float32))
        np.testing.assert_allclose(actions, wanted, atol=1e-5)


def test_an_interrupted_run_goes_on(kept: Path) -> None:
    result = run("train", "--resume", "--data", kept / "store", "--out", kept / "prompt_dt")
    assert result.exit_code == 0, result.output
    assert "step-00000004" in result.stderr
    assert list((kept / "prompt_dt" / "checkpoints").glob("step-00000006-finished"))
