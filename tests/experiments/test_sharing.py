"""Exported runs: what they hold, how they act, and their way to huggingface.co and back (a folder stands for it)."""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_run import LIVELY, write_store

from goskill.data.convert import from_npz, merge
from goskill.errors import CheckpointError, InputError
from goskill.experiments import pipeline, sharing
from goskill.experiments.export import card, export, read_origin
from goskill.experiments.load import load_policy

SMALL = (
    *("method.width=16", "method.layers=1", "method.heads=2", "method.iterations=3"),
    *("training.log_every=2", "training.checkpoint_every=4", "training.threads=1"),
    *LIVELY,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = write_store(tmp_path_factory.mktemp("data") / "store", ["reach", "door-close"], episodes=3)
    out = tmp_path_factory.mktemp("runs") / "run"
    pipeline.train(data, out, method="prompt_dt", preset="quickstart", overrides=SMALL)
    pipeline.evaluate(out, episodes=1, tasks="reach", workers=0)
    return out


def actions(path: Path | str) -> np.ndarray[Any, Any]:
    policy = load_policy(path, device="cpu")
    policy.reset(["reach", "door-close"])
    return policy.act(np.ones((2, 39), dtype=np.float32))


def test_an_exported_run_is_small_acts_alike_and_tells_no_paths(run: Path, tmp_path: Path) -> None:
    full, half = export(run, tmp_path / "full", half=False), export(run, tmp_path / "half")
    np.testing.assert_array_equal(actions(full), actions(run))
    np.testing.assert_allclose(actions(half), actions(run), atol=5e-3)
    assert not list(half.rglob("optimizers*"))
    for file in half.rglob("*"):
        if file.is_file():
            assert str(run.parent).encode() not in file.read_bytes(), file
    origin = read_origin(half)
    assert (origin["method"], origin["iterations"], origin["weights"]) == ("prompt_dt", 3, "float16")
    assert origin["data"]["tasks"] == ["reach", "door-close"]
    assert origin["data"]["fingerprint"]
    results = pipeline.evaluate(half, episodes=1, tasks="reach", workers=0)
    assert results.policy == "Prompt-DT"


def test_no_path_of_converted_or_merged_data_is_handed_on(tmp_path: Path, monkeypatch) -> None:
    """Provenance tells where a store was made of files; whoever gets the model is told their names."""
    random, secret = np.random.default_rng(0), tmp_path / "home" / "of, somebody"
    monkeypatch.chdir(tmp_path)
    for name, task in (("one", "reach"), ("two", "door-close")):
        (secret / name / task).mkdir(parents=True)
        episode = {"observations": random.normal(size=(61, 39)), "actions": random.uniform(-1, 1, (61, 4))}
        np.savez(secret / name / task / "0.npz", **episode, rewards=random.uniform(size=61))
        from_npz("harmodt", secret / name, secret / f"{name}-store")
    merge([secret / "one-store", secret / "two-store"], secret / "both")
    data = os.path.relpath(secret / "both")
    pipeline.train(data, tmp_path / "run", method="prompt_dt", preset="quickstart", overrides=SMALL)
    file = tmp_path / "run" / "settings.json"
    before = {"finetuning": {"run": str(secret / "before"), "checkpoint": "step-00000003-finished"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | before))
    folder = export(tmp_path / "run", tmp_path / "out")
    assert json.loads((folder / "settings.json").read_text())["finetuning"]["run"] == "before"
    for file in folder.rglob("*"):
        if file.is_file():
            assert b"somebody" not in file.read_bytes(), file
            assert str(tmp_path).encode() not in file.read_bytes(), file
    (told,) = read_origin(folder)["data"]["provenance"]
    assert told["source"] == "one-store, two-store"
    assert [one["provenance"][0]["source"] for one in told["stores"]] == ["one", "two"]
    assert told["reward_version"] == "v2"


def test_the_model_card_has_the_results(run: Path, tmp_path: Path) -> None:
    folder = export(run, tmp_path / "out")
    card = (folder / "README.md").read_text()
    found = json.loads((folder / "origin.json").read_text())["results"]
    assert card.startswith("---\nlibrary_name: goskill\n")
    assert f"| reach | {found['tasks']['reach']['return']:.0f} |" in card
    assert "6 episodes, 360 steps" in card


def test_the_results_are_those_of_the_checkpoint(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "run")
    *_, before = sorted(path for path in (other / "checkpoints").iterdir() if "finished" not in path.name)
    folder = export(other, tmp_path / "without", checkpoint=before.name)
    assert json.loads((folder / "origin.json").read_text())["results"] is None
    assert not (folder / "results.json").exists()
    pipeline.evaluate(other, episodes=2, tasks="reach", workers=0, checkpoint=before.name)
    folder = export(other, tmp_path / "with", checkpoint=before.name)
    assert json.loads((folder / "origin.json").read_text())["results"]["episodes"] == 2
    folder = export(other, tmp_path / "last", checkpoint="newest")
    assert (folder / "results.json").read_bytes() == (run / "results.json").read_bytes()
    (other / "results.json").unlink()
    pipeline.evaluate(other, episodes=3, tasks="reach", workers=0, checkpoint="newest")
    folder = export(other, tmp_path / "by-name", checkpoint="newest")
    assert json.loads((folder / "origin.json").read_text())["results"]["episodes"] == 3


def test_small_returns_are_readable_in_the_card() -> None:
    results = {"episodes": 1, "seed": 0, "tasks": {}, "mean": {"return": 0.0414, "success": None}}
    data = {"tasks": ["a"], "episodes": 1, "steps": 2, "provenance": []}
    known = {"method": "bc", "versions": {}, "commit": "", "iterations": 1, "seed": 0}
    assert "| mean | 0.0414 | unknown |" in card({**known, "data": data, "results": results})


def test_a_damaged_record_of_the_data_is_named(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "run")
    settings = json.loads((other / "settings.json").read_text())
    settings["data"]["tasks"] = None
    (other / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"settings.json: setting data\.tasks is missing or damaged"):
        export(other, tmp_path / "out")


def test_what_cannot_be_exported_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(InputError, match="full exists already"):
        export(run, tmp_path / "full")
    with pytest.raises(InputError, match="is not a run folder"):
        export(tmp_path / "none", tmp_path / "out")
    with pytest.raises(CheckpointError, match="expected newest or one of"):
        export(run, tmp_path / "out", checkpoint="step-1")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["full"]
    exported = export(run, tmp_path / "out")
    with pytest.raises(InputError, match="exported run"):
        pipeline.train(None, exported, resume=True)


class FakeHub:
    """A folder in place of the Hub."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, []

    def create_repo(self, name: str, **options: Any) -> None:
        self.made.append((name, options["private"]))

    def upload_folder(self, repo_id: str, folder_path: str, repo_type: str) -> None:
        """Kept as the Hub's cache keeps it: links into a folder of contents, which nobody may write to."""
        assert repo_type == "model"
        for number, file in enumerate(sorted(Path(folder_path).rglob("*"))):
            if file.is_file():
                there = self.folder / repo_id / file.relative_to(folder_path)
                there.parent.mkdir(parents=True, exist_ok=True)
                content = self.folder / "blobs" / str(number)
                content.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, content)
                content.chmod(0o444)
                there.symlink_to(os.path.relpath(content, there.parent))

    def snapshot_download(self, name: str, revision: str | None, allow_patterns: list[str]) -> str:
        if revision == "gone":
            raise ConnectionError("no such revision\nat all")
        assert "settings.json" in allow_patterns
        return str(self.folder / name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake, module = FakeHub(tmp_path / "hub"), types.ModuleType("huggingface_hub")
    module.HfApi, module.snapshot_download = lambda: fake, fake.snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return fake


def test_a_pushed_run_is_loaded_by_its_address(run: Path, hub: FakeHub) -> None:
    assert sharing.push(run, "me/small", private=True) == "hf://me/small"
    assert hub.made == [("me/small", True)]
    np.testing.assert_allclose(actions("hf://me/small@main"), actions(run), atol=5e-3)
    card = (hub.folder / "me" / "small" / "README.md").read_text()
    assert 'goskill.load_policy("hf://me/small")' in card
    assert "# small on reach, door-close" in card


def test_a_module_that_a_repository_names_is_not_imported(run: Path, hub: FakeHub) -> None:
    sharing.push(run, "me/small")
    file = hub.folder / "me" / "small" / "settings.json"
    settings = json.loads(file.read_text())
    settings["method"]["name"] = "this:Method"  # whose import prints
    file.unlink()
    file.write_text(json.dumps(settings))
    sys.modules.pop("this", None)
    with pytest.raises(
        InputError, match=r"^hf://me/small: names a module to import, 'this:Method': give method="
    ):
        load_policy("hf://me/small")
    assert "this" not in sys.modules
    with pytest.raises(CheckpointError, match="this"):
        load_policy("hf://me/small", method="this:Method")


def test_failures_are_one_line(run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^repository: expected USER/NAME, got 'small'"):
        sharing.push(run, "small")
    with pytest.raises(
        InputError, match=r"^hf://me/x@gone: cannot be fetched from huggingface.co: no such revision at all$"
    ):
        load_policy("hf://me/x@gone")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"huggingface_hub: pip install 'goskill\[hub\]'"):
        sharing.push(run, "me/small")
