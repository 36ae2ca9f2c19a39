"""Prompts by a rule: what a run keeps, what its methods are shown, and what evaluation takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from point_suite import PointSuite
from small_store import SMALL, SMALL_PROMPT_DT

from goskill.data import EpisodeStore, StoreWriter
from goskill.errors import InputError
from goskill.experiments import finetuning, pipeline
from goskill.experiments.runs import settings_of
from goskill.methods import find

LENGTHS = (20, 11, 17, 9, 14)
SIZES = ("training.threads=1", "method.prompt_episodes=2", "method.table_std=1.0")


def changes(name: str, prompts: str) -> list[str]:
    small = SMALL_PROMPT_DT if name == "prompt_dt" else SMALL
    sizes = [f"method.{key}={value}" for key, value in small.items()]
    return [*sizes, *SIZES, "training.warmup_iterations=0", f"method.prompts={prompts}"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes whose returns rise; the second and the fourth of each task succeed."""
    path = tmp_path_factory.mktemp("data") / "store"
    random = np.random.default_rng(0)
    with StoreWriter(path, 2, 1, ["left", "right"], episode_columns={"clean": bool}) as writer:
        for number, length in enumerate(LENGTHS):
            for task in ("left", "right"):
                writer.append(
                    task=task,
                    observations=random.normal(size=(length + 1, 2)),
                    actions=random.uniform(-1, 1, (length, 1)),
                    rewards=np.full(length, (number + 1) / length),
                    success=np.arange(length) == length - 1 if number in (1, 3) else np.zeros(length),
                    episode_columns={"clean": number in (0, 2)},
                )
    return path


def kept_lengths(run: Path) -> list[list[int]]:
    prompts = EpisodeStore.open(run / "prompts")
    return [prompts.episode_length[prompts.episode_task == task].tolist() for task in (0, 1)]


@pytest.mark.parametrize(
    ("name", "rule", "kept"),
    [
        ("prompt_dt", "best", [14, 9]),
        ("prompt_dt", "successful", [9, 11]),
        ("go_skill", "shortest", [9, 11]),
        ("prompt_dt", "clean", [17, 20]),
    ],
)
def test_a_run_keeps_and_shows_the_episodes_of_its_rule(
    name: str, rule: str, kept: list[int], data: Path, tmp_path: Path
) -> None:
    run = pipeline.train(data, tmp_path / "run", method=name, overrides=changes(name, rule))
    assert kept_lengths(run.path) == [kept, kept]
    store = EpisodeStore.open(data)
    settings = settings_of(run)
    method: Any = find(name).method.create(settings.method, _sources(store), settings.training)
    contexts = method._contexts(*([method.label(store), {}] if name == "go_skill" else []))
    shown = {int(i) for _, batch in zip(range(5), contexts, strict=False) for i in batch["prompt_episode"]}
    assert sorted({int(store.episode_length[i]) for i in shown}) == sorted(kept)


def _sources(store: EpisodeStore) -> Any:
    from goskill.methods import Sources

    return Sources(store)


def test_a_file_of_indices_is_read_once(data: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen.json"
    chosen.write_text(json.dumps({"left": [4, 0], "right": [7]}))
    run = pipeline.train(
        data, tmp_path / "run", method="prompt_dt", overrides=changes("prompt_dt", str(chosen))
    )
    assert kept_lengths(run.path) == [[17, 20], [9]]
    chosen.unlink()
    longer = pipeline.train(None, run.path, resume=True, overrides=["method.iterations=8"])
    assert json.loads(settings_of(longer).method.prompts) == {"left": [4, 0], "right": [7]}
    # Indices are those of the data: another store's prompts are its best episodes again.
    tuned = finetuning.finetune(run.path, data, tmp_path / "tuned", iterations=2)
    assert kept_lengths(tuned.path) == [[14, 9], [14, 9]]


def test_evaluation_takes_demonstrations_by_a_rule(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pipeline.train(
        data, tmp_path / "run", method="prompt_dt", overrides=changes("prompt_dt", "successful")
    )
    seen: list[dict[str, list[int]]] = []

    def evaluate(*_: Any, prompts: Any, **__: Any) -> Any:
        seen.append({task: [len(one.actions) for one in shown] for task, shown in prompts.items()})
        raise InputError("seen")

    monkeypatch.setattr(pipeline, "evaluate_over_ranks", evaluate)
    for options in ({}, {"data": data}, {"data": data, "prompts": "shortest"}, {"prompts": "shortest"}):
        with pytest.raises(InputError, match="seen"):
            pipeline.evaluate(run.path, suite=PointSuite(), workers=0, **options)
    assert [one["left"] for one in seen] == [[9, 11], [9, 11], [9, 11], [9, 11]]
    with pytest.raises(InputError, match="seen"):
        pipeline.evaluate(run.path, suite=PointSuite(), workers=0, data=data, prompts="best")
    assert seen[-1]["right"] == [14, 9]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            "worst",
            "prompts: expected a rule, a column of the episodes, indices or a .json file of them, got 'worst'",
        ),
        ("missing.json", "prompts: missing.json: No such file"),
        ("[99]", "prompts"),
    ],
)
def test_a_rule_that_does_not_fit_is_named_before_anything_is_written(
    rule: str, message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        pipeline.train(data, tmp_path / "run", method="prompt_dt", overrides=changes("prompt_dt", rule))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["{", '"best"', "[true]", '{"left": [0.5]}', "3"])
def test_a_file_of_anything_else_is_refused(text: str, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"prompts: .*prompts\.json: expected"):
        pipeline.train(data, tmp_path / "run", method="prompt_dt", overrides=changes("prompt_dt", str(file)))


def test_a_file_that_leaves_a_task_out_is_refused(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text('{"left": [0, 2]}')
    with pytest.raises(InputError, match="prompts: expected episodes of each task, got none of 'right'"):
        pipeline.train(data, tmp_path / "run", method="prompt_dt", overrides=changes("prompt_dt", str(file)))
    assert not (tmp_path / "run").exists()
    run = pipeline.train(data, tmp_path / "run", method="prompt_dt", overrides=changes("prompt_dt", "best"))
    options = {"suite": PointSuite(), "workers": 0, "data": data, "prompts": str(file), "episodes": 1}
    with pytest.raises(InputError, match=f"has no demonstrations of right among {file}"):
        pipeline.evaluate(run.path, **options)
    assert pipeline.evaluate(run.path, tasks="left", **options).tasks == ["left"]


def test_methods_without_prompts_are_evaluated_on_all_tasks(data: Path, tmp_path: Path) -> None:
    overrides = [
        "method.ends=never",
        "method.width=8",
        "method.layers=1",
        "method.iterations=2",
        "training.threads=1",
    ]
    run = pipeline.train(data, tmp_path / "run", method="td3_bc", overrides=overrides)
    results = pipeline.evaluate(run.path, suite=PointSuite(), episodes=1, workers=0)
    assert list(results.tasks) == ["left", "right"]
