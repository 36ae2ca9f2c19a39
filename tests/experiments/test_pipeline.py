"""The whole way on a small scale: what a user gets from the commands, and what happens when they are misused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from small_run import SMALL, weights, write_store

import goskill.__main__
from goskill import files
from goskill.data import EpisodeStore, StoreWriter
from goskill.errors import CheckpointError, InputError
from goskill.evaluation import Results
from goskill.experiments import pipeline


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data") / "store", ["reach", "door-close"])


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    return pipeline.train(data, out, preset="quickstart", overrides=SMALL).path


def test_a_run_folder_holds_everything_about_the_run(trained: Path) -> None:
    for name in (
        "settings.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "prompts",
        "data_skills.json",
    ):
        assert (trained / name).exists(), name
    settings = json.loads((trained / "settings.json").read_text())
    assert settings["method"]["name"] == "go_skill"
    assert settings["method"]["codebook_size"] == 4
    assert settings["data"]["tasks"] == ["reach", "door-close"]


def test_prompts_are_the_best_episodes(trained: Path, data: Path) -> None:
    store, prompts = EpisodeStore.open(data), EpisodeStore.open(trained / "prompts")
    for index in range(len(store.tasks)):
        best = np.sort(store.episode_return[store.episode_task == index])[::-1][:4]
        np.testing.assert_allclose(prompts.episode_return[prompts.episode_task == index], best, rtol=1e-6)


def test_same_seed_same_weights(trained: Path, data: Path, tmp_path: Path) -> None:
    again = pipeline.train(data, tmp_path / "again", preset="quickstart", overrides=SMALL).path
    other = pipeline.train(
        data, tmp_path / "other", preset="quickstart", overrides=(*SMALL, "training.seed=1")
    ).path
    assert weights(again) == weights(trained)
    assert weights(other) != weights(trained)


def test_evaluation_writes_results_for_each_task_and_overall(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    pipeline.evaluate(run, episodes=1, workers=0, tasks="door-close")
    results = json.loads((run / "results.json").read_text())
    assert list(results["tasks"]) == ["door-close"]
    for entry in (results["tasks"]["door-close"], results["overall"]):
        low, high = entry["return_ci95"] or (entry["return_mean"], entry["return_mean"])
        assert low <= entry["return_mean"] <= high
        assert 0 <= entry["success"] <= 1
        assert entry["episodes"] == 1


def test_results_of_a_checkpoint_are_not_those_of_the_run(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    pipeline.evaluate(run, episodes=1, workers=0, tasks="reach")
    before = (run / "results.json").read_bytes()
    name = min(path.name for path in (run / "checkpoints").iterdir())
    pipeline.evaluate(run, episodes=2, workers=0, tasks="reach", checkpoint=name)
    assert (run / "results.json").read_bytes() == before
    assert Results.load(run / f"results-{name}.json").protocol.episodes == 2
    assert (run / f"results-{name}.csv").exists()


def test_results_are_kept_elsewhere_when_they_cannot_be_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    target, replace = tmp_path / "full" / "results.json", os.replace

    def full(source: str, destination: Path) -> None:
        if destination == target:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, destination)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(InputError, match=f"{target}: No space left on device; the results are in ") as caught:
        pipeline.evaluate(trained, episodes=1, workers=0, tasks="reach", out=target)
    assert not any(target.parent.iterdir())
    assert Results.load(str(caught.value).split()[-1]).tasks == ["reach"]


def test_tasks_without_demonstrations_are_refused(trained: Path) -> None:
    with pytest.raises(InputError, match="demonstrations of push"):
        pipeline.evaluate(trained, tasks="push", episodes=1, workers=0)


def test_demonstrations_may_come_from_elsewhere(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    other = write_store(tmp_path / "other", ["push"], episodes=1)
    results = pipeline.evaluate(run, data=other, episodes=1, workers=0)
    assert results.tasks == ["push"]


def test_labels_agree_with_what_training_counted(trained: Path, data: Path) -> None:
    column = pipeline.label(trained, data)
    counts = np.bincount(EpisodeStore.open(data).labels(column), minlength=4)
    usage = json.loads((trained / "data_skills.json").read_text())["usage"]
    np.testing.assert_array_equal(counts, np.sum(list(usage.values()), axis=0))


def test_no_progress_is_shown_where_nothing_is_left_to_label(
    trained: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.label(trained, data)
    capsys.readouterr()
    pipeline.label(trained, data)
    assert not capsys.readouterr().out


def test_a_store_of_other_dimensions_is_named(trained: Path, tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "other", observation_dim=5, action_dim=4, tasks=["reach"]) as writer:
        writer.append(
            task="reach", observations=np.zeros((3, 5)), actions=np.zeros((2, 4)), rewards=np.zeros(2)
        )
    with pytest.raises(InputError, match=f"{tmp_path / 'other'}: expected observation_dim 39 .*, got 5"):
        pipeline.label(trained, tmp_path / "other")


def test_a_run_that_is_not_finished_is_neither_evaluated_nor_used_for_labels(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(next((run / "checkpoints").glob("*-finished")))
    for use in (lambda: pipeline.evaluate(run, episodes=1, workers=0), lambda: pipeline.label(run, data)):
        with pytest.raises(CheckpointError, match="not finished"):
            use()
    assert not (run / "results.json").exists()


def test_a_damaged_end_of_a_run_is_one_line_that_names_it(
    trained: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    file = next((run / "checkpoints").glob("*-finished")) / "policy.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    for use in (lambda: pipeline.evaluate(run, episodes=1, workers=0), lambda: pipeline.label(run, data)):
        with pytest.raises(
            CheckpointError, match=rf"{file} is damaged: .*; go on with goskill train --resume"
        ):
            use()
    assert not caplog.records
    pipeline.train(None, run, resume=True)
    assert weights(run) == weights(trained)


def test_resuming_needs_nothing_but_the_run(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(next((run / "checkpoints").glob("*-finished")))
    pipeline.train(None, run, resume=True)
    assert weights(run) == weights(trained)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resumed_in_any_phase_and_precision_ends_with_the_same_weights(
    precision: str, data: Path, tmp_path: Path
) -> None:
    """bfloat16 is what ``auto`` chooses on processors that are fast at it; here it is asked for."""
    changes = (*SMALL, f"training.precision={precision}", "training.keep_checkpoints=9")
    whole = pipeline.train(data, tmp_path / "whole", preset="quickstart", overrides=changes).path
    steps = sorted(path.name for path in (whole / "checkpoints").iterdir())
    for last in ("step-00000004-extraction", "step-00000008-policy"):
        run = shutil.copytree(whole, tmp_path / last)
        for later in steps[steps.index(last) + 1 :]:
            shutil.rmtree(run / "checkpoints" / later)
        pipeline.train(None, run, resume=True)
        assert weights(run) == weights(whole)


@pytest.mark.parametrize(
    "change",
    ["training.device=cuda:7", "training.precision=tf32", "method.goal_dimensions=[99]", "data.episodes=3"],
)
def test_settings_that_do_not_fit_leave_nothing_behind(change: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        pipeline.train(data, tmp_path / "run", preset="mt10", overrides=(*SMALL, change))
    assert not any(tmp_path.iterdir())


DAMAGED = '{"data": {"path": "", "returns": {}}, "method": {"name": ["x"]}, "training": {}, "evaluation": {}}'


@pytest.mark.parametrize("damage", ["{}", "[]", '{"method": {"name": "go_skill"}}', DAMAGED, "not JSON"])
def test_damaged_settings_are_named(trained: Path, tmp_path: Path, damage: str) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "settings.json").write_text(damage)
    with pytest.raises(CheckpointError, match=r"settings\.json"):
        pipeline.evaluate(run, episodes=1, workers=0)


def test_settings_of_networks_that_no_memory_holds_are_named(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    settings = json.loads((run / "settings.json").read_text())
    settings["method"]["decoder_width"] = 1 << 40
    (run / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"settings\.json: networks of these sizes cannot be made"):
        pipeline.evaluate(run, episodes=1, workers=0)


def test_a_store_that_is_unfinished_is_not_used(trained: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    store = EpisodeStore.open(data)
    writer = StoreWriter(
        tmp_path / "data", store.observation_dim, store.action_dim, [], append=True, unfinished=True
    )
    episode = store.episode(0)
    with writer:
        writer.append(
            task="reach", observations=episode.observations, actions=episode.actions, rewards=episode.rewards
        )
    for use in (
        lambda: pipeline.train(tmp_path / "data", tmp_path / "run", preset="quickstart", overrides=SMALL),
        lambda: pipeline.label(trained, tmp_path / "data"),
        lambda: pipeline.evaluate(trained, data=tmp_path / "data", out=tmp_path / "results.json", workers=0),
        lambda: pipeline.diagnose(trained, tmp_path / "data"),
    ):
        with pytest.raises(InputError, match=f"{tmp_path / 'data'} is unfinished"):
            use()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_existing_output_folder_is_refused(trained: Path, data: Path) -> None:
    before = sorted(str(path) for path in trained.rglob("*"))
    with pytest.raises(InputError, match="exists already"):
        pipeline.train(data, trained, preset="quickstart", overrides=SMALL)
    assert sorted(str(path) for path in trained.rglob("*")) == before


def test_a_checkpoint_of_another_configuration_is_refused(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    settings = json.loads((run / "settings.json").read_text())
    settings["method"]["decoder_width"] = 32
    (run / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="decoder"):
        pipeline.evaluate(run, episodes=1, workers=0)


def test_resuming_with_other_settings_names_the_setting(trained: Path, data: Path) -> None:
    with pytest.raises(InputError, match=r"method\.horizon"):
        pipeline.train(
            data, trained, preset="quickstart", overrides=(*SMALL, "method.horizon=5"), resume=True
        )


def test_resuming_as_another_method_is_refused(trained: Path, data: Path) -> None:
    with pytest.raises(CheckpointError, match="method 'go_skill', not of 'mh_go_skill'"):
        pipeline.train(None, trained, method="mh_go_skill", resume=True)
    with pytest.raises(CheckpointError, match=r"setting method\.name was \"go_skill\" .* is \"mh_go_skill\""):
        pipeline.train(data, trained, method="mh_go_skill", preset="quickstart", overrides=SMALL, resume=True)


def test_resuming_with_other_data_names_both(trained: Path, data: Path, tmp_path: Path) -> None:
    run, other = (
        shutil.copytree(trained, tmp_path / "run"),
        write_store(tmp_path / "other", ["reach", "push"]),
    )
    message = (
        rf"{run} cannot be resumed with {other}: its tasks .*door-close.* there, .*push.* here.* of {data}"
    )
    with pytest.raises(InputError, match=message):
        pipeline.train(other, run, resume=True)


def test_resuming_with_the_same_returns_of_other_observations_is_refused(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    run, store = shutil.copytree(trained, tmp_path / "run"), EpisodeStore.open(data)
    other = tmp_path / "other"
    with StoreWriter(other, store.observation_dim, store.action_dim, store.tasks) as writer:
        for episode in map(store.episode, range(store.num_episodes)):
            writer.append(
                task=episode.task,
                observations=2 * episode.observations,
                actions=episode.actions,
                rewards=episode.rewards,
                success=episode.success,
            )
    with pytest.raises(InputError, match=f"cannot be resumed with {other}: its fingerprint"):
        pipeline.train(other, run, resume=True)
    moved = shutil.copytree(data, tmp_path / "moved")
    assert weights(pipeline.train(moved, run, resume=True).path) == weights(trained)


def test_ctrl_c_leaves_a_run_that_resumes_to_the_same_weights(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    arguments = ["train", "--preset", "quickstart", "--data", str(data), "--out", str(tmp_path / "run")]
    for change in SMALL:
        arguments += ["--set", change]
    held = [sys.executable, str(Path(__file__).parents[1] / "held_run.py"), "7", goskill.__main__.__file__]
    process = subprocess.Popen(
        [*held, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    checkpoints = tmp_path / "run" / "checkpoints"
    while process.poll() is None and not (checkpoints.exists() and any(checkpoints.iterdir())):
        time.sleep(0.01)  # a poll, not a guess: the process is stopped once its first checkpoint is there
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    command = [sys.executable, "-m", "goskill", *arguments, "--resume"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert weights(tmp_path / "run") == weights(trained)
