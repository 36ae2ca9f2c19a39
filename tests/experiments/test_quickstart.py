"""The quickstart on a small scale: all the way, again, after a stop, and into a folder that is not its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_run import SMALL, weights

from goskill.errors import InputError
from goskill.experiments.quickstart import run_quickstart


def test_quickstart_goes_the_whole_way(tmp_path: Path) -> None:
    few = ('data.tasks=["reach", "window-close"]', "data.episodes=2", "evaluation.episodes=1")
    out = tmp_path / "quick"
    run_quickstart(out, workers=0, overrides=(*SMALL, *few))
    assert {path.name for path in (out / "figures").glob("*.png")} >= {
        "learning_curves.png",
        "skill_usage.png",
        "skill_strips.png",
    }
    assert set(json.loads((out / "results.json").read_text())["tasks"]) == {"reach", "window-close"}
    with pytest.raises(InputError, match="finished run"):
        run_quickstart(out, workers=0, overrides=(*SMALL, *few))

    # Stopped while drawing, before evaluation or within training, it goes on and ends the same.
    results, before = (out / "results.json").read_bytes(), weights(out)
    for lost in (["figures"], ["figures", "results.json"], ["figures", "results.json", *unfinished(out)]):
        for name in lost:
            path = out / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        run_quickstart(out, workers=0, overrides=(*SMALL, *few))
        assert (out / "results.json").read_bytes() == results
        assert weights(out) == before


def test_quickstart_gives_the_same_numbers_twice(tmp_path: Path) -> None:
    few = ('data.tasks=["reach", "window-close"]', "data.episodes=1", "evaluation.episodes=1")
    first, second = (
        (tmp_path / name, run_quickstart(tmp_path / name, workers=0, overrides=(*SMALL, *few), seed=3))[0]
        for name in ("first", "second")
    )
    assert weights(first) == weights(second)
    assert (first / "results.json").read_bytes() == (second / "results.json").read_bytes()


def unfinished(run: Path) -> list[str]:
    return [f"checkpoints/{path.name}" for path in (run / "checkpoints").glob("*-finished")]


def test_quickstart_refuses_a_foreign_folder_before_it_collects(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("not a run")
    with pytest.raises(InputError, match="holds no run"):
        run_quickstart(tmp_path / "mine", workers=0, overrides=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
