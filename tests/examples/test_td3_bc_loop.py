"""TD3+BC in one's own loop takes the steps of a run; data of D4RL's layout and of Minari trains it on a single task."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from goskill.data import EpisodeStore, StoreWriter
from goskill.data.convert import convert, to_minari
from goskill.errors import InputError
from goskill.experiments import pipeline

SMALL = [
    *(f"method.{change}" for change in ("width=8", "layers=1", "iterations=4", "batch_size=8")),
    *("training.device=cpu", "training.precision=float32", "training.threads=1"),
]


def write_store(path: Path, tasks: tuple[str, ...]) -> EpisodeStore:
    random = np.random.default_rng(0)
    with StoreWriter(path, 3, 2, list(tasks), columns={"terminated": bool, "truncated": bool}) as writer:
        for index in range(6):
            writer.append(
                task=tasks[index % len(tasks)],
                observations=random.normal(size=(9, 3)),
                actions=random.uniform(-1, 1, (8, 2)),
                rewards=random.normal(size=8),
                columns={"terminated": index < 3, "truncated": index >= 3},
            )
    return EpisodeStore.open(path)


def trained(store: Path, run: Path) -> np.ndarray:
    pipeline.train(store, run, method="td3_bc", overrides=SMALL)
    policy = pipeline.load_policy(run)
    policy.reset(list(EpisodeStore.open(store).tasks))
    actions: np.ndarray = policy.act(np.zeros((1, 3), np.float32))
    return actions


def test_the_example_learns_values_that_are_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    import td3_bc_loop

    store = write_store(tmp_path / "s", ("left", "right"))
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = td3_bc_loop.main(str(store.path), 1).critic.state_dict()
    torch.random.set_rng_state(before)
    networks = td3_bc_loop.main(str(store.path), 6)
    assert any(not torch.equal(value, first[name]) for name, value in networks.critic.state_dict().items())
    assert all(value.isfinite().all() for value in networks.critic.state_dict().values())
    assert all(value.grad is not None for value in networks.critic.parameters())
    assert capsys.readouterr().out.count("critic") == 2
    del sys.modules["td3_bc_loop"]


def test_hdf5_files_of_d4rls_layout_train_it(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    random = np.random.default_rng(0)
    observations = random.normal(size=(40, 3)).astype(np.float32)
    ends = np.arange(40) % 10 == 9
    columns: dict[str, Any] = {
        "observations": observations,
        "next_observations": np.concatenate([observations[1:], observations[:1]]),
        "actions": random.uniform(-1, 1, (40, 2)).astype(np.float32),
        "rewards": random.normal(size=40).astype(np.float32),
        "terminals": ends & (np.arange(40) < 20),
        "timeouts": ends & (np.arange(40) >= 20),
    }
    with h5py.File(tmp_path / "data.hdf5", "w") as file:
        for name, values in columns.items():
            file[name] = values
    convert("hdf5", tmp_path / "data.hdf5", tmp_path / "s", task="hopper")
    store = EpisodeStore.open(tmp_path / "s")
    assert [store.episode(i).columns["terminated"][-1] for i in range(4)] == [True, True, False, False]
    assert np.isfinite(trained(store.path, tmp_path / "run")).all()
    with h5py.File(tmp_path / "bare.hdf5", "w") as file:
        for name in set(columns) - {"rewards"}:
            file[name] = columns[name]
    with pytest.raises(InputError, match="rewards"):
        convert("hdf5", tmp_path / "bare.hdf5", tmp_path / "bare", task="hopper")


def test_minari_datasets_train_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    source = write_store(tmp_path / "s", ("hopper",))
    to_minari(
        source,
        "goskill/test-v0",
        "hopper",
        author="a test",
        author_email="a@b.c",
        code_permalink="https://a.b",
    )
    convert("minari", "goskill/test-v0", tmp_path / "back", task="hopper")
    back = EpisodeStore.open(tmp_path / "back")
    for index in range(6):
        assert back.episode(index).columns["terminated"][-1] == (index < 3)
    assert np.isfinite(trained(back.path, tmp_path / "run")).all()
