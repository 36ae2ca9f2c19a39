"""Runs of the Prompt-DT family: trained, resumed, evaluated and refused through the same commands as GO-Skill's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_run import LIVELY, weights, write_store

from goskill.errors import CheckpointError, InputError
from goskill.experiments import pipeline
from goskill.methods.go_skill import GoSkill

SMALL = (
    *("method.width=16", "method.layers=1", "method.heads=2", "method.iterations=8"),
    *("training.log_every=2", "training.checkpoint_every=4", "training.threads=1"),
    *LIVELY,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data") / "store", ["reach", "door-close"])


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    overrides = (*SMALL, "method.task_embedding=3")
    return pipeline.train(data, out, method="mh_prompt_dt", preset="quickstart", overrides=overrides).path


def test_settings_say_which_method_and_tasks(trained: Path) -> None:
    method = json.loads((trained / "settings.json").read_text())["method"]
    assert (method["name"], method["multi_head"]) == ("mh_prompt_dt", True)
    assert method["tasks"] == ["reach", "door-close"]
    assert (trained / "prompts").exists()
    assert not (trained / "data_skills.json").exists()


def test_it_is_evaluated_like_any_method(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    results = pipeline.evaluate(run, episodes=1, workers=0, tasks="door-close")
    assert results.policy == "MH-Prompt-DT"
    assert results.tasks == ["door-close"]
    other = write_store(tmp_path / "other", ["push"], episodes=1)
    with pytest.raises(InputError, match="none for 'push': fine-tune"):
        pipeline.evaluate(run, data=other, episodes=1, workers=0)


def test_it_is_resumed_to_the_same_weights(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(next((run / "checkpoints").glob("*-finished")))
    pipeline.train(None, run, resume=True)
    assert weights(run) == weights(trained)


def test_it_is_neither_another_method_nor_has_it_skills(trained: Path, data: Path) -> None:
    with pytest.raises(CheckpointError, match="method 'mh_prompt_dt', not of 'go_skill'"):
        pipeline.train(None, trained, method="go_skill", resume=True)
    with pytest.raises(CheckpointError, match=r"setting method\.name was .*mh_prompt_dt.* and is .*go_skill"):
        pipeline.train(data, trained, preset="quickstart", overrides=LIVELY, resume=True)
    with pytest.raises(InputError, match="mh_prompt_dt has no codebook of skills"):
        pipeline.label(trained, data)
    with pytest.raises(CheckpointError, match="of method 'mh_prompt_dt', not of 'go_skill'"):
        pipeline.evaluate(trained, episodes=1, method=GoSkill.with_goal_features(lambda rows: rows))


def test_another_methods_setting_leaves_nothing_behind(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"method\.horizon is a setting of go_skill"):
        pipeline.train(data, tmp_path / "run", method="mtdt", overrides=(*SMALL, "method.horizon=5"))
    assert not (tmp_path / "run").exists()
