"""Stores go to D4RL's layout and to Minari and come back the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from store_builders import transitions

from goskill.data import EpisodeStore
from goskill.data.convert import from_hdf5, from_minari, to_hdf5, to_minari
from goskill.errors import StoreError


def test_d4rl_files_go_both_ways(uneven: EpisodeStore, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    files = to_hdf5(uneven, tmp_path / "d4rl")
    assert [file.stem for file in files] == uneven.tasks
    with h5py.File(files[0]) as file:
        assert file["timeouts"][:].sum() == (uneven.episode_task == 0).sum()
    report = from_hdf5(tmp_path / "d4rl", tmp_path / "store")
    back = EpisodeStore.open(tmp_path / "store")
    assert report.episodes == uneven.num_episodes
    order = np.argsort(uneven.episode_task, kind="stable")
    for number, index in enumerate(order):
        np.testing.assert_array_equal(
            back.episode(number).observations, uneven.episode(int(index)).observations
        )
        np.testing.assert_array_equal(back.episode(number).rewards, uneven.episode(int(index)).rewards)


def test_d4rl_files_without_next_observations_lose_the_last_step(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    episode = transitions(np.random.default_rng(0), 10)
    with h5py.File(tmp_path / "reach.hdf5", "w") as file:
        for name in ("observations", "actions", "rewards"):
            file[name] = episode[name]
        file["timeouts"] = np.arange(10) == 3
    report = from_hdf5(tmp_path / "reach.hdf5", tmp_path / "store")
    assert EpisodeStore.open(tmp_path / "store").episode_length.tolist() == [3, 5]
    assert len(report.shortened) == 2
    (tmp_path / "broken.hdf5").write_bytes(b"no")
    with pytest.raises(StoreError, match="D4RL"):
        from_hdf5(tmp_path / "broken.hdf5", tmp_path / "other")


def test_minari_datasets_go_both_ways(uneven: EpisodeStore, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    to_minari(
        uneven,
        "goskill/test-v0",
        "task-1",
        author="a test",
        author_email="a@b.c",
        code_permalink="https://a.b",
    )
    from_minari("goskill/test-v0", tmp_path / "store", task="task-1")
    back = EpisodeStore.open(tmp_path / "store")
    chosen = np.flatnonzero(uneven.episode_task == 1)
    assert back.num_episodes == len(chosen)
    for number, index in enumerate(chosen):
        np.testing.assert_array_equal(
            back.episode(number).observations, uneven.episode(int(index)).observations
        )
        np.testing.assert_array_equal(back.episode(number).actions, uneven.episode(int(index)).actions)
