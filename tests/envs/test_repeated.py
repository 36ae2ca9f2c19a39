"""Suites that repeat actions: rewards add up, success anywhere counts, episodes keep their length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from point_suite import PointSuite
from small_run import LIVELY

from goskill.data import EpisodeStore, StoreWriter
from goskill.envs.repeated import RepeatAction, RepeatedSuite, repeated
from goskill.envs.suite_registry import register_suite
from goskill.errors import InputError
from goskill.experiments import pipeline
from goskill.experiments.diagnose import diagnose
from goskill.experiments.finetuning import finetune
from goskill.experiments.suites import suite_for


class Counting(gymnasium.Env[Any, Any]):
    """Pays the number of the step; succeeds at the third only; ends at the fifth."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        info = {"success": float(self.steps == 3), "step": self.steps}
        return np.full(2, self.steps, np.float32), float(self.steps), self.steps == 5, False, info


def test_an_action_is_taken_several_times_until_the_episode_ends() -> None:
    env = RepeatAction(Counting(), 2, ("success",))
    env.reset()
    taken = [env.step(np.zeros(1)) for _ in range(3)]
    assert [one[1] for one in taken] == [3.0, 7.0, 5.0]
    assert [one[2] for one in taken] == [False, False, True]
    assert [one[4]["success"] for one in taken] == [0.0, 1.0, 0.0]
    assert [one[4]["step"] for one in taken] == [2, 4, 5]


def test_a_suite_without_repeats_is_itself_and_others_keep_their_length() -> None:
    suite = PointSuite()
    assert repeated(suite, 1) is suite
    found = repeated(suite, 3)
    assert (found.name, found.tasks, found.max_steps) == ("point", ("left", "right"), 7)
    with pytest.raises(InputError, match="action_repeat: expected a positive number, got 0"):
        RepeatedSuite(suite, 0)
    envs = found.make_vec(["left", "right"], workers=0)
    envs.reset(seed=[0, 1])
    _, rewards, *_ = envs.step(np.zeros((2, 1), np.float32))
    envs.close()
    alone = suite.make("left")
    alone.reset(seed=0)
    assert rewards[0] == pytest.approx(sum(alone.step(np.zeros(1))[1] for _ in range(3)), rel=1e-5)


class Repeating(PointSuite):
    name = "repeating-point"


register_suite("repeating-point", Repeating())


def write_points(path: Path, repeat: int) -> Path:
    random = np.random.default_rng(0)
    origin = {"suite": "repeating-point", "action_repeat": repeat}
    with StoreWriter(path, 2, 1, ["left", "right"], provenance=origin) as writer:
        for task in ("left", "right"):
            writer.append(
                task=task,
                observations=random.normal(size=(6, 2)),
                actions=random.uniform(-1, 1, (5, 1)),
                rewards=np.ones(5),
            )
    return path


SMALL = (
    *("method.width=8", "method.layers=1", "method.heads=1", "method.iterations=1", "method.return_scale=5"),
    *("training.threads=1", *LIVELY),
)


def test_a_run_on_repeated_actions_is_evaluated_with_them(tmp_path: Path) -> None:
    store = write_points(tmp_path / "store", 4)
    assert suite_for(EpisodeStore.open(store)).max_steps == 5
    run = pipeline.train(store, tmp_path / "run", method="mtdt", preset="quickstart", overrides=SMALL)
    assert json.loads(run.settings_file.read_text())["data"]["action_repeat"] == 4
    results = pipeline.evaluate(tmp_path / "run", episodes=1, workers=0)
    assert results.protocol.max_steps == 5
    pipeline.export(tmp_path / "run", tmp_path / "exported")
    for path in (tmp_path / "exported", tmp_path / "run"):
        results = pipeline.evaluate(
            path, episodes=1, workers=0, data=write_points(tmp_path / path.name[::-1], 4)
        )
        assert results.protocol.max_steps == 5


def test_data_of_actions_repeated_otherwise_is_refused(tmp_path: Path) -> None:
    """Whatever the run is to do with it: its actions would not mean what they say."""
    store, other = write_points(tmp_path / "store", 4), write_points(tmp_path / "other", 1)
    pipeline.train(store, tmp_path / "run", method="prompt_dt", preset="quickstart", overrides=SMALL)
    for use in (
        lambda: pipeline.evaluate(tmp_path / "run", episodes=1, workers=0, data=other),
        lambda: finetune(tmp_path / "run", other, tmp_path / "tuned"),
        lambda: diagnose(tmp_path / "run", other),
    ):
        with pytest.raises(
            InputError, match=r"data: expected action_repeat 4 as of the data of .*run, got 1 of .*other"
        ):
            use()
    assert not (tmp_path / "tuned").exists()
