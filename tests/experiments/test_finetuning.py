"""Fine-tuning: what stays, what learns, what is on disk, and that an interruption changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from small_run import LIVELY, SMALL, weights, write_store

from goskill.data import EpisodeStore, StoreWriter
from goskill.envs import tasks_of
from goskill.errors import CheckpointError, InputError
from goskill.evaluation import Results
from goskill.evaluation.points import add_point, read_points
from goskill.experiments import finetuning, pipeline, presets
from goskill.experiments.runs import evaluate_over_ranks as real_evaluation
from goskill.training import Trainer

NEW = ["push", "window-open"]
QUICK = ("training.checkpoint_every=3", "training.log_every=1", "evaluation.episodes=1")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    data = write_store(folder / "data", ["reach", "door-close"])
    return pipeline.train(data, folder / "run", preset="quickstart", overrides=SMALL).path


@pytest.fixture(scope="module")
def new_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("new") / "data", NEW, seed=1)


@pytest.fixture(autouse=True)
def short_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps an episode, in this process."""

    def evaluate(*arguments: Any, **options: Any) -> Results:
        steps = options.get("max_steps") or 10
        return real_evaluation(*arguments, **{**options, "workers": 0, "max_steps": steps})

    monkeypatch.setattr(finetuning, "evaluate_over_ranks", evaluate)


@pytest.fixture(scope="module")
def tuned(old: Path, new_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "run"
    return finetuning.finetune(old, new_data, out, iterations=8, overrides=QUICK).path


def tensors(run: Path, network: str) -> dict[str, torch.Tensor]:
    checkpoint = next((run / "checkpoints").glob("*-finished"))
    return safetensors.torch.load_file(checkpoint / f"{network}.safetensors")


def unfinish(run: Path) -> Path:
    """Take the last checkpoint away, so that the run stands where it was some iterations before."""
    shutil.rmtree(next((run / "checkpoints").glob("*-finished")))
    return run


def test_skills_and_normalisation_stay_while_policy_and_decoder_learn(old: Path, tuned: Path) -> None:
    for network in ("normalize", "encoder", "codebook"):
        before, after = tensors(old, network), tensors(tuned, network)
        assert all(torch.equal(before[name], after[name]) for name in before), network
    for network in ("decoder", "policy"):
        before, after = tensors(old, network), tensors(tuned, network)
        assert any(not torch.equal(before[name], after[name]) for name in before), network


def test_the_folder_is_a_run_with_the_new_tasks_prompts(old: Path, new_data: Path, tuned: Path) -> None:
    settings = json.loads((tuned / "settings.json").read_text())
    assert settings["finetuning"]["run"] == str(old.resolve())
    assert settings["data"]["tasks"] == NEW
    assert settings["method"]["policy_iterations"] == 8
    assert settings["training"]["warmup_iterations"] == 0  # a tenth of the iterations
    prompts, data = EpisodeStore.open(tuned / "prompts"), EpisodeStore.open(new_data)
    assert prompts.tasks == NEW
    for index in range(len(NEW)):
        best = np.sort(data.episode_return[data.episode_task == index])[::-1][:4]
        np.testing.assert_allclose(prompts.episode_return[prompts.episode_task == index], best, rtol=1e-6)
    lines = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    assert {line["phase"] for line in lines} == {"policy"}
    assert lines[-1]["step"] == 8
    assert {"policy/loss", "skill/loss"} <= lines[-1].keys()
    assert (tuned / "data_skills.json").is_file()


def test_a_fine_tuned_run_is_evaluated_and_drawn_like_any_other(tuned: Path, tmp_path: Path) -> None:
    from goskill.figures import draw_run

    run = shutil.copytree(tuned, tmp_path / "run")
    results = pipeline.evaluate(run, episodes=1, workers=0, tasks=NEW[0])
    assert results.tasks == NEW[:1]
    assert draw_run(run)


@pytest.mark.parametrize("command", ["finetune", "train"])
def test_an_interrupted_run_ends_with_the_same_bits(
    old: Path, tuned: Path, tmp_path: Path, command: str
) -> None:
    run = unfinish(shutil.copytree(tuned, tmp_path / "run"))
    if command == "train":
        pipeline.train(None, run, resume=True)
    else:
        finetuning.resume(run, path=old)
    assert weights(run) == weights(tuned)


def test_a_run_without_a_checkpoint_starts_from_the_old_run_again(tuned: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tuned, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "prompts")
    finetuning.resume(run)
    assert weights(run) == weights(tuned)


def test_points_are_what_evaluation_finds(
    old: Path, new_data: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points at 0, 3, 6 and the end; evaluating changes no bit of training, and a kill repeats no point."""
    found: list[Results] = []
    evaluate = finetuning.evaluate_over_ranks

    def remember(*arguments: Any, **options: Any) -> Results:
        found.append(evaluate(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(finetuning, "evaluate_over_ranks", remember)
    out = tmp_path / "run"
    finetuning.finetune(old, new_data, out, iterations=8, evaluate_every=3, overrides=QUICK)
    points = read_points(out / "evaluations.jsonl")
    assert [point["iteration"] for point in points] == [0, 3, 6, 8]
    for point, results in zip(points, found, strict=True):
        assert point["overall"] == results.overall.to_json()
        assert list(point["tasks"]) == NEW
        assert point["tasks"][NEW[1]] == results.summary(NEW[1]).to_json()
    assert weights(out) == weights(tuned)

    from goskill.figures import draw_run

    assert "evaluations.png" in {path.name for path in draw_run(out)}
    before = (out / "evaluations.jsonl").read_bytes()
    finetuning.resume(unfinish(out))
    assert (out / "evaluations.jsonl").read_bytes() == before
    assert len(found) == 4
    assert weights(out) == weights(tuned)


def test_points_have_the_steps_of_the_settings(old: Path, new_data: Path, tmp_path: Path) -> None:
    changes = (*QUICK, "evaluation.max_steps=7")
    finetuning.finetune(old, new_data, tmp_path / "run", iterations=1, evaluate_every=1, overrides=changes)
    points = read_points(tmp_path / "run" / "evaluations.jsonl")
    assert {point["overall"]["length_mean"] for point in points} == {7.0}


def test_the_old_run_has_to_be_the_one_that_was_there(
    old: Path, new_data: Path, tuned: Path, tmp_path: Path
) -> None:
    moving = shutil.copytree(old, tmp_path / "old")
    out = finetuning.finetune(moving, new_data, tmp_path / "run", iterations=8, overrides=QUICK).path
    for folder in ("checkpoints", "prompts"):
        shutil.rmtree(out / folder)
    shutil.rmtree(moving / "checkpoints")
    shutil.copytree(tuned / "checkpoints", moving / "checkpoints")
    with pytest.raises(CheckpointError, match="another than it came from"):
        finetuning.resume(out)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("killed_at", [0, 3, 6, 8])
def test_killed_within_an_evaluation_the_run_goes_on_with_it(
    killed_at: int,
    old: Path,
    new_data: Path,
    tuned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0
    evaluate = finetuning.evaluate_over_ranks

    def die(*arguments: Any, **options: Any) -> Results:
        nonlocal calls
        calls += 1
        if calls == 1 + [0, 3, 6, 8].index(killed_at):
            raise KilledError
        return evaluate(*arguments, **options)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "evaluate_over_ranks", die)
        with pytest.raises(KilledError):
            finetuning.finetune(old, new_data, out, iterations=8, evaluate_every=3, overrides=QUICK)
    finetuning.resume(out)
    assert [point["iteration"] for point in read_points(out / "evaluations.jsonl")] == [0, 3, 6, 8]
    assert weights(out) == weights(tuned)


PROMPT_DT = (
    *("method.width=16", "method.layers=1", "method.heads=2", "method.iterations=4"),
    *("training.log_every=2", "training.checkpoint_every=4", "training.threads=1"),
    *LIVELY,
)


@pytest.mark.parametrize(
    ("method", "overrides"),
    [("prompt_dt", ()), ("mh_prompt_dt", ("method.task_embedding=3",)), ("mh_mtdt", ())],
)
def test_methods_without_skills_train_the_whole_network(
    method: str, overrides: tuple[str, ...], new_data: Path, tmp_path: Path
) -> None:
    """Multi-head networks get heads for the new tasks; interrupted anywhere, the bits are the same."""
    data = write_store(tmp_path / "data", ["reach", "door-close"])
    changes = (*PROMPT_DT, *overrides)
    old = pipeline.train(data, tmp_path / "old", method=method, preset="quickstart", overrides=changes).path
    out = tmp_path / "run"
    finetuning.finetune(old, new_data, out, iterations=8, evaluate_every=8, overrides=QUICK)
    assert [list(point["tasks"]) for point in read_points(out / "evaluations.jsonl")] == [NEW, NEW]

    before, after = tensors(old, "normalize"), tensors(out, "normalize")
    assert all(torch.equal(before[name], after[name]) for name in before)
    before, after = tensors(old, "policy"), tensors(out, "policy")
    for name, values in before.items():
        assert not torch.equal(after[name][: len(values)], values), name
    heads = 4 if method.startswith("mh_") else 1
    assert [len(before["action_head.weight"]), len(after["action_head.weight"])] == [
        4 * max(1, heads // 2),
        4 * heads,
    ]
    known = json.loads((out / "settings.json").read_text())["method"]["tasks"]
    assert known == (["reach", "door-close", *NEW] if heads > 1 else [])

    expected = weights(out)
    finetuning.resume(unfinish(out))
    assert weights(out) == expected
    shutil.rmtree(out / "checkpoints")
    finetuning.resume(out)
    assert weights(out) == expected
    assert pipeline.evaluate(out, episodes=1, workers=0, tasks=NEW[0]).tasks == NEW[:1]


def test_presets_hold_tasks_that_their_suites_do_not() -> None:
    for name, suite, count in (("ml45", "ml45-train", 5), ("mt10", "mt10", 2)):
        chosen = presets.load_finetuning(name, "go_skill")["finetuning"]
        assert len(chosen["tasks"]) == count
        assert not set(chosen["tasks"]) & set(tasks_of(suite))
        assert chosen["evaluate_every"] > 0
    assert set(presets.load_finetuning("ml45", "go_skill")["finetuning"]["tasks"]) == set(
        tasks_of("ml45-test")
    )
    assert presets.load_finetuning("ml45", "go_skill")["finetuning"]["iterations"] == 3_000


def empty_task(folder: Path) -> Path:
    write_store(folder, ["push"])
    with StoreWriter(folder / "two", observation_dim=39, action_dim=4, tasks=["push", "reach"]) as writer:
        one = EpisodeStore.open(folder).episode(0)
        writer.append(task="push", observations=one.observations, actions=one.actions, rewards=one.rewards)
    return folder / "two"


def narrow(folder: Path) -> Path:
    return write_store(folder, ["push"], observation_dim=7)


@pytest.mark.parametrize(
    ("build", "options", "named"),
    [
        (empty_task, {}, "no episodes of task 'reach'"),
        (narrow, {}, "observation_dim 39"),
        (lambda folder: folder, {}, "store"),
        (lambda folder: write_store(folder, ["push"]), {"preset": "ml45"}, "bin-picking"),
        (lambda folder: write_store(folder, ["push"]), {"preset": "ml46"}, "did you mean 'ml45'"),
        (lambda folder: write_store(folder, ["mine"]), {"evaluate_every": 5}, "'mine'"),
        (lambda folder: write_store(folder, ["push"]), {"iterations": 0}, "iterations"),
        (lambda folder: write_store(folder, ["push"]), {"evaluate_every": -1}, "evaluate_every"),
        (lambda folder: write_store(folder, ["push"]), {"overrides": ["method.horizon=5"]}, "horizon"),
        (lambda folder: write_store(folder, ["push"]), {"overrides": ["data.episodes=5"]}, "data.episodes"),
        (lambda folder: write_store(folder, ["push"]), {"overrides": ["training.device=cuda:7"]}, "cuda:7"),
    ],
)
def test_wrong_input_is_named_and_leaves_nothing(
    build: Any, options: dict[str, Any], named: str, old: Path, tmp_path: Path
) -> None:
    data = build(tmp_path / "store")
    with pytest.raises(InputError, match=named):
        finetuning.finetune(old, data, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_folders_that_do_not_fit_are_refused(old: Path, new_data: Path, tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        finetuning.finetune(old, new_data, tuned)
    with pytest.raises(InputError, match="not a run folder"):
        finetuning.finetune(new_data, new_data, tmp_path / "run")
    with pytest.raises(InputError, match="not a fine-tuned run"):
        finetuning.resume(old)
    with pytest.raises(InputError, match="came from"):
        finetuning.resume(tuned, path=tmp_path)
    unfinished = unfinish(shutil.copytree(old, tmp_path / "unfinished"))
    with pytest.raises(CheckpointError, match="not finished"):
        finetuning.finetune(unfinished, new_data, tmp_path / "run")
    settings = json.loads((unfinished / "settings.json").read_text())
    settings["method"]["name"] = "go_skil"
    (unfinished / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="did you mean 'go_skill'"):
        finetuning.finetune(unfinished, new_data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resuming_with_other_settings_or_data_is_refused(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "train", lambda *_, **__: pytest.fail("must not train"))
    run = unfinish(shutil.copytree(tuned, tmp_path / "run"))
    with pytest.raises(CheckpointError, match=r"training\.seed"):
        finetuning.resume(run, overrides=["training.seed=5"])
    other = write_store(tmp_path / "other", NEW, episodes=2)
    with pytest.raises(InputError, match="its episodes"):
        finetuning.resume(run, other)


def test_a_damaged_file_of_points_is_named(tmp_path: Path) -> None:
    file = tmp_path / "evaluations.jsonl"
    assert read_points(file) == []
    for damage in ("{", "[]", '{"iteration": "3"}', '{"iteration": true, "overall": {}, "tasks": {}}'):
        file.write_text(damage + "\n")
        with pytest.raises(InputError, match="line 1"):
            read_points(file)


def test_points_are_kept_in_order_and_once(tmp_path: Path, tuned: Path) -> None:
    results = pipeline.evaluate(tuned, episodes=1, workers=0, tasks=NEW[0], out=tmp_path / "results.json")
    for iteration in (5, 0, 5, 2):
        add_point(tmp_path / "evaluations.jsonl", iteration, results)
    assert [point["iteration"] for point in read_points(tmp_path / "evaluations.jsonl")] == [0, 2, 5]
