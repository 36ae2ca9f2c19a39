"""HDF5 and Minari imports: what a killed or interrupted one left goes on, with one process or several."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from store_builders import OBSERVATION_DIM, random_episode, write_store

from goskill.data import EpisodeStore, StoreWriter
from goskill.data.convert import ConversionReport, copying, from_hdf5, from_minari, to_hdf5, to_minari
from goskill.errors import StoreError

pytest.importorskip("h5py")
pytest.importorskip("minari")

Convert = Callable[..., ConversionReport]
SMALL = {"copying._SHARD_STEPS": 15, "hdf5._STEPS_PER_PART": 5, "minari._EPISODES_PER_PART": 2}


@pytest.fixture(params=["hdf5", "minari"])
def convert(request, tmp_path: Path, monkeypatch) -> Convert:
    """Converts twelve uneven episodes of one task in small parts and shards into the folder that it is given."""
    for name, value in SMALL.items():
        monkeypatch.setattr(f"goskill.data.convert.{name}", value)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    store = write_store(tmp_path / "original", [1, 7, 30, 3, 12, 25, 1, 2, 50, 9, 10, 11], [0] * 12)
    if request.param == "hdf5":
        to_hdf5(store, tmp_path / "d4rl")
        return lambda path, **settings: from_hdf5(tmp_path / "d4rl" / "task-0.hdf5", path, **settings)
    about = {"author": "a test", "author_email": "a@b.c", "code_permalink": "https://a.b"}
    to_minari(store, "goskill/test-v0", "task-0", **about)
    return lambda path, **settings: from_minari("goskill/test-v0", path, task="task-0", **settings)


def assert_equals_original(tmp_path: Path, path: Path) -> None:
    original, store = EpisodeStore.open(tmp_path / "original"), EpisodeStore.open(path)
    assert not store.unfinished
    assert store.tasks == ["task-0"]
    assert store.num_episodes == original.num_episodes
    for index in range(original.num_episodes):
        expected, found = original.episode(index), store.episode(index)
        np.testing.assert_array_equal(found.observations, expected.observations)
        np.testing.assert_array_equal(found.actions, expected.actions)
        np.testing.assert_array_equal(found.rewards, expected.rewards)
    store.verify()


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_an_interrupted_import_goes_on(convert: Convert, tmp_path: Path, stop: int) -> None:
    read = []

    def interrupt(done: int, total: int) -> None:
        read.append(done)
        if done == stop and len(read) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "store", progress=interrupt)
    left = EpisodeStore.open(tmp_path / "store")
    assert left.unfinished
    first = convert(tmp_path / "store", progress=interrupt)
    assert read[stop] == left.shard_notes[-1]["done"] + 1 if left.shard_notes else 1
    assert_equals_original(tmp_path, tmp_path / "store")
    assert convert(tmp_path / "store").to_json() == first.to_json()
    assert convert(tmp_path / "other").to_json() == first.to_json()


KILLED = """
import os, signal, sys
from goskill.data import convert
convert.copying._TRIAL = convert.copying._WORTHWHILE = -1.0  # processes at once
convert.copying._SHARD_STEPS, convert.hdf5._STEPS_PER_PART, convert.minari._EPISODES_PER_PART = 15, 5, 2
def die(done, total):
    if done == 4:
        os.kill(os.getpid(), signal.SIGKILL)
source, path = sys.argv[1:]
if source.endswith("hdf5"):
    convert.from_hdf5(source, path, workers=2, progress=die)
else:
    convert.from_minari(source, path, task="task-0", workers=2, progress=die)
"""


def test_a_killed_import_goes_on_with_several_processes(convert: Convert, tmp_path: Path) -> None:
    file = tmp_path / "d4rl" / "task-0.hdf5"
    source = str(file) if file.exists() else "goskill/test-v0"
    command = [sys.executable, "-c", KILLED, source, str(tmp_path / "store")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    left = EpisodeStore.open(tmp_path / "store")
    assert left.unfinished
    assert 0 < left.num_episodes < 12
    left.verify()
    convert(tmp_path / "store", workers=2)
    assert_equals_original(tmp_path, tmp_path / "store")


def test_a_changed_source_is_refused(convert: Convert, tmp_path: Path, monkeypatch) -> None:
    convert(tmp_path / "store")
    for name in ("hdf5._STEPS_PER_PART", "minari._EPISODES_PER_PART"):
        monkeypatch.setattr(f"goskill.data.convert.{name}", 1)
    with pytest.raises(StoreError, match="is not what it was"):
        convert(tmp_path / "store")


def test_imports_report_what_npz_files_report(tmp_path: Path) -> None:
    episode = random_episode(np.random.default_rng(0), 6)
    episode["observations"][:, 2] = 0.25
    with StoreWriter(tmp_path / "original", OBSERVATION_DIM, 2, ["a"]) as writer:
        for _ in range(2):
            writer.append(task="a", **episode)
    to_hdf5(EpisodeStore.open(tmp_path / "original"), tmp_path / "d4rl")
    report = from_hdf5(tmp_path / "d4rl", tmp_path / "store")
    assert report.constant_dimensions == [2]
    assert len(report.duplicates) == 1
    assert (report.episodes, report.steps) == (2, 12)


def test_numbers_that_no_store_holds_are_refused_by_name(tmp_path: Path) -> None:
    import h5py

    episode = random_episode(np.random.default_rng(0), 6)
    episode["rewards"][4] = np.nan
    with h5py.File(tmp_path / "reach.hdf5", "w") as file:
        for name, values in episode.items():
            file[name] = values[:6]
        file["timeouts"] = np.arange(6) == 5
    with pytest.raises(StoreError, match=r"reach\.hdf5: steps 0 to 6: rewards: expected finite values"):
        from_hdf5(tmp_path / "reach.hdf5", tmp_path / "store", workers=2)


@pytest.mark.parametrize(
    "note",
    [
        {"done": "1"},
        {"done": -1},
        {"taken": [1]},
        {"taken": {"reach-v3": "many"}},
        {"report": 5},
        {"report": {"source": "x", "unknown": 1}},
        {"report": {"source": "x", "split": 3}},
    ],
)
def test_a_note_of_how_far_it_was_is_not_trusted(note: dict[str, object]) -> None:
    state = {"done": 1, "parts": 1, "taken": {}, "report": ConversionReport("x").to_json()}
    store = SimpleNamespace(path="store")
    assert copying._checked_state(store, state) == state
    with pytest.raises(StoreError, match="how far the conversion was"):
        copying._checked_state(store, state | note)
