"""Data that cannot be written to: its labels go into the run, or where the user says."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import SMALL
from small_store import small_store

from goskill.data import EpisodeStore
from goskill.experiments import finetuning, pipeline


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return small_store(tmp_path / "data").path


def labels_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("skills-*"))


def test_labels_of_data_that_cannot_be_written_to_are_in_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere, so that permissions would not show it.
    monkeypatch.setattr(EpisodeStore, "takes_labels", property(lambda store: False))
    run = pipeline.train(data, tmp_path / "run", overrides=SMALL).path
    names = labels_in(run / "labels")
    assert len(names) == 1
    assert not (data / "labels").exists()
    assert EpisodeStore.open(data, labels=run / "labels").label_names == names
    assert pipeline.label(run, data) == names[0]
    pipeline.train(None, run, overrides=["method.policy_iterations=8"], resume=True)
    assert pipeline.diagnose(run, data, episodes=0)["policy"]["decisions"] > 0
    tuned = finetuning.finetune(run, data, tmp_path / "tuned", iterations=2).path
    assert labels_in(tuned / "labels") == names
    assert not (data / "labels").exists()


def test_labels_go_where_they_are_told_to(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    run = pipeline.train(data, tmp_path / "run", overrides=SMALL, labels=folder).path
    (name,) = labels_in(folder)
    assert not (data / "labels").exists()
    assert not (run / "labels").exists()
    assert pipeline.label(run, data, labels=folder) == name
    assert EpisodeStore.open(data, labels=folder).labels(name).shape == (EpisodeStore.open(data).num_steps,)


@pytest.mark.parametrize("made", [False, True])
def test_whether_labels_can_be_written_is_asked_of_the_system(
    made: bool, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EpisodeStore.open(data)
    assert store.takes_labels
    folder = data / "labels" if made else data
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr("os.access", lambda path, mode, **_: Path(path) != folder)
    assert not store.takes_labels
