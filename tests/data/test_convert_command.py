"""The commands that make stores of other data give what the functions give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from store_builders import write_store
from test_convert import build
from typer.testing import CliRunner

from goskill.cli import app
from goskill.data import EpisodeStore
from goskill.data.convert import LAYOUTS, convert, to_hdf5, to_minari
from goskill.errors import InputError

ABOUT = {
    "author": "a test",
    "author_email": "a@b.c",
    "code_permalink": "https://a.b",
    "description": "a test",
}


def run(*arguments: object) -> dict:
    """What a command prints as JSON."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output[result.output.index("{") :])


def test_minari_datasets_become_tasks_of_one_store(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    store = write_store(tmp_path / "store", [3, 4, 5], [0, 1, 0])
    for number in range(2):
        to_minari(store, f"mine/{number}-v0", f"task-{number}", **ABOUT)
        run("convert", "minari", f"mine/{number}-v0", tmp_path / f"{number}", "--task", f"named-{number}")
    report = run("merge", tmp_path / "0", tmp_path / "1", "--out", tmp_path / "both")
    both = EpisodeStore.open(tmp_path / "both")
    assert both.tasks == ["named-0", "named-1"]
    assert both.episode_length.tolist() == [3, 5, 4]
    assert (report["episodes"], report["steps"]) == (3, 12)


def test_options_of_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (file,) = to_hdf5(write_store(tmp_path / "store", [6, 6], [0, 0]), tmp_path / "d4rl")
    with h5py.File(file, "a") as opened:
        del opened["timeouts"], opened["terminals"]
        opened["infos/qpos"] = np.arange(24.0).reshape(12, 2)
    report = run(
        "convert", "hdf5", file, tmp_path / "back", "--ends", 4, "--columns", "infos/qpos", "--task", "reach"
    )
    back = EpisodeStore.open(tmp_path / "back")
    assert back.tasks == ["reach"]
    assert back.episode_length.tolist() == [4, 2, 2, 4]  # cut where the next observation jumps, too
    assert back.episode(0).columns["infos_qpos"].tolist() == np.arange(8.0).reshape(4, 2).tolist()
    assert len(report["split"]) == 1


def test_a_suite_and_names_with_versions_choose_tasks(tmp_path: Path) -> None:
    build(tmp_path / "source", "harmodt", ["reach-v2", "push-v2", "bin-picking-v2"], 2)
    run("convert", "harmodt", tmp_path / "source", tmp_path / "store", "--tasks", "reach-v2, push")
    assert EpisodeStore.open(tmp_path / "store").tasks == ["push", "reach"]


def test_every_layout_is_converted_by_name_and_options_are_checked(tmp_path: Path) -> None:
    data = build(tmp_path / "source", "mtdiff", ["reach"], 4)
    report = convert("mtdiff", tmp_path / "source", tmp_path / "store", quality=None, tasks=["reach"])
    assert report.episodes == len(data["reach"])
    for layout in LAYOUTS:
        with pytest.raises(InputError, match=rf"flavour: expected none for the layout {layout}, got 'sweet'"):
            convert(layout, tmp_path / "source", tmp_path / "store", flavour="sweet")
    with pytest.raises(InputError, match=r"layout: expected one of goskill, .*, got 'mtdif'"):
        convert("mtdif", tmp_path / "source", tmp_path / "store")
    with pytest.raises(InputError, match=r"task: .*; hdf5, minari, robomimic, ogbench have it"):
        convert("tdmpc2", tmp_path / "source", tmp_path / "store", task="reach")
