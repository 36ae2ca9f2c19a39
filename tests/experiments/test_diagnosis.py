"""Diagnosis: every number against one worked out independently."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from small_run import SMALL, write_store

from goskill.data import ContextSampler, EpisodeStore, SegmentSampler, StoreWriter
from goskill.errors import CheckpointError, InputError
from goskill.experiments import diagnose as diagnosis
from goskill.experiments import pipeline
from goskill.experiments.diagnosis_tables import tables
from goskill.experiments.runs import load_method
from goskill.methods.go_skill import (
    GoSkillNetworks,
    OraclePolicy,
    label_store,
    predict_actions,
    predict_skills,
)
from goskill.methods.go_skill.losses import PolicyLoss, SkillLoss
from goskill.methods.prompt_dt.method import PromptedActionLoss
from goskill.methods.sequence.predictions import ActionPredictions, SkillPredictions
from goskill.rollouts import Demonstration
from goskill.rollouts.collection import collect, episode_seeds
from goskill.training import RunFolder

TASKS = ["reach", "door-close"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data") / "store", TASKS, episodes=5, steps=33)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    return pipeline.train(data, out, preset="quickstart", overrides=SMALL).path


@pytest.fixture
def networks(run: Path) -> GoSkillNetworks:
    loaded = load_method(RunFolder.open(run)).networks
    assert isinstance(loaded, GoSkillNetworks)
    return loaded.eval()


@pytest.fixture
def store(data: Path) -> EpisodeStore:
    return EpisodeStore.open(data)


def test_action_errors_are_plain_means() -> None:
    random = np.random.default_rng(0)
    predicted = random.normal(size=(50, 3)).astype(np.float32)
    taken = random.normal(size=(50, 3)).astype(np.float32)
    task, step, skill = random.integers([[2], [4], [6]], size=(3, 50))
    skill[skill == 2] = 3  # a skill that does not occur
    found = diagnosis.action_errors(ActionPredictions(predicted, taken, task, step, skill), ["a", "b"])
    rows = [
        sum((float(p) - float(t)) ** 2 for p, t in zip(ps, ts, strict=True)) / 3
        for ps, ts in zip(predicted, taken, strict=True)
    ]

    def mean(chosen: np.ndarray) -> float:
        picked = [row for row, is_in in zip(rows, chosen, strict=True) if is_in]
        return sum(picked) / len(picked)

    assert found["steps"] == 50
    assert found["error"] == pytest.approx(sum(rows) / 50)
    assert found["by_task"] == pytest.approx({"a": mean(task == 0), "b": mean(task == 1)})
    assert found["by_step"] == pytest.approx([mean(step == one) for one in range(4)])
    assert [one["skill"] for one in found["by_skill"]] == [0, 1, 3, 4, 5]
    for one in found["by_skill"]:
        assert one["error"] == pytest.approx(mean(skill == one["skill"]))
        assert one["steps"] == (skill == one["skill"]).sum()
    assert np.mean(found["by_dimension"]) == pytest.approx(found["error"])
    assert found["variance"] == pytest.approx(np.mean([np.var(taken[:, d].astype(float)) for d in range(3)]))


def test_accuracies_are_counts() -> None:
    random = np.random.default_rng(1)
    true, predicted, task = random.integers([[4], [5], [2]], size=(3, 80))
    found = diagnosis.policy_accuracy(SkillPredictions(predicted, true, task), ["a", "b"], 5)
    pairs = list(zip(true.tolist(), predicted.tolist(), strict=True))
    assert found["accuracy"] == sum(t == p for t, p in pairs) / 80
    for row in range(5):
        assert found["confusion"][row] == [pairs.count((row, column)) for column in range(5)]
    assert found["majority"] == max(true.tolist().count(skill) for skill in range(5)) / 80
    commonest = [max(true[task == one].tolist().count(skill) for skill in range(5)) for one in range(2)]
    assert found["majority_of_task"] == sum(commonest) / 80
    assert [one["skill"] for one in found["by_skill"]] == [0, 1, 2, 3]
    for one in found["by_skill"]:
        own = [t == p for t, p in pairs if t == one["skill"]]
        assert (one["decisions"], one["accuracy"]) == (len(own), pytest.approx(sum(own) / len(own)))
    assert found["by_task"]["b"] == pytest.approx(np.mean((true == predicted)[task == 1]))


def test_perplexity_is_exp_of_entropy() -> None:
    assert diagnosis.perplexity(np.full(8, 1 / 8)) == pytest.approx(8)
    assert diagnosis.perplexity(np.array([0.0, 1.0, 0.0])) == 1
    shares = np.random.default_rng(2).dirichlet(np.ones(6))
    assert diagnosis.perplexity(shares) == pytest.approx(np.exp(stats.entropy(shares)))


def test_codebook_usage_counts_every_step(store: EpisodeStore, networks: GoSkillNetworks) -> None:
    column = label_store(networks, store)
    found = diagnosis.codebook_usage(store, column, 4)
    labels = np.asarray(store.labels(column), dtype=int)
    task_of_step = np.repeat(store.episode_task, store.episode_length)
    counts = np.bincount(labels, minlength=4)
    assert found["perplexity"] == pytest.approx(np.exp(stats.entropy(counts)))
    assert found["unused"] == [skill for skill in range(4) if skill not in labels]
    assert sum(one["share"] for one in found["skills"]) == pytest.approx(1)
    for one in found["skills"]:
        own = task_of_step[labels == one["skill"]]
        assert one["tasks"] == {
            task: pytest.approx((own == index).mean())
            for index, task in enumerate(TASKS)
            if (own == index).any()
        }
        assert one["effective_tasks"] == pytest.approx(np.exp(stats.entropy(np.bincount(own))))


def test_decoder_errors_are_the_training_loss_without_dropout(
    store: EpisodeStore, networks: GoSkillNetworks
) -> None:
    predictions = predict_actions(networks, store, samples=64, seed=3)
    batch = next(iter(SegmentSampler(store, horizon=10, batch_size=64, seed=3)))
    with torch.no_grad():
        _, metrics = SkillLoss(networks, frozen=True)(batch)
    assert len(predictions.taken) == int(batch["mask"].sum()) < 640  # windows past the end are cut
    assert diagnosis.action_errors(predictions, TASKS)["error"] == pytest.approx(
        float(metrics["action_error"]), rel=1e-5
    )
    assert np.array_equal(predictions.taken, batch["actions"][batch["mask"]].numpy())
    labels = store.labels(label_store(networks, store))
    first = np.flatnonzero(predictions.step == 0)
    at = store.episode_start[batch["episode"].numpy()] + batch["start"].numpy()
    assert predictions.skill is not None
    assert np.array_equal(predictions.skill[first], labels[at])


def test_policy_accuracy_is_that_of_training_without_dropout(
    store: EpisodeStore, networks: GoSkillNetworks
) -> None:
    column, settings = label_store(networks, store), networks.settings
    predictions = predict_skills(networks, store, column, samples=48, seed=4)
    contexts = ContextSampler(
        store,
        horizon=10,
        context=settings.context,
        prompt=settings.prompt_length,
        batch_size=48,
        labels=column,
        seed=4,
    )
    batch = next(iter(contexts))
    with torch.no_grad():
        _, metrics = PolicyLoss(networks)(batch)
    found = diagnosis.policy_accuracy(predictions, TASKS, 4)
    assert found["decisions"] == int(batch["mask"].sum())
    assert found["accuracy"] == pytest.approx(float(metrics["accuracy"]))


def test_samples_beyond_one_batch_come_from_the_same_stream(
    store: EpisodeStore, networks: GoSkillNetworks
) -> None:
    predictions = predict_actions(networks, store, samples=300)
    stream = iter(SegmentSampler(store, horizon=10, batch_size=256, seed=0))
    first, second = next(stream), next(stream)
    rows = [first["actions"][first["mask"]], second["actions"][:44][second["mask"][:44]]]
    assert np.array_equal(predictions.taken, torch.cat(rows).numpy())


def demonstration(store: EpisodeStore, index: int) -> Demonstration:
    one = store.episode(index)
    return Demonstration(one.observations, one.actions, one.rewards)


def test_the_oracle_carries_out_the_nearest_demonstrations_skills(
    store: EpisodeStore, networks: GoSkillNetworks
) -> None:
    """Against the decoder over whole windows, which keeps nothing from step to step."""
    labels = store.labels(label_store(networks, store))
    prompts = {
        task: [demonstration(store, index) for index in (5 * t, 5 * t + 1)] for t, task in enumerate(TASKS)
    }
    oracle = OraclePolicy(networks)
    tasks = ["door-close", "reach", "reach"]
    oracle.reset(tasks, prompts, [7, 8, 9])
    followed = [6, 0, 1]
    starts = np.stack([store.episode(index).observations[0] for index in followed])
    starts[2] += 1e-3  # near, but not the same
    random = np.random.default_rng(5)
    seen = np.concatenate([starts[None], random.normal(size=(45, 3, 39)).astype(np.float32)])
    acted = np.stack([oracle.act(observations) for observations in seen])
    assert oracle.exact == 2
    for row, episode in enumerate(followed):
        first = store.episode_start[episode]
        for begin in range(0, 46, 10):
            skill = torch.tensor(
                [int(labels[first + min(begin, 30)])]
            )  # 33 steps: the last decision is at 30
            window = torch.from_numpy(seen[begin : begin + 10, row])[None]
            actions = torch.from_numpy(acted[begin : begin + 10, row])[None]
            with torch.no_grad():
                goals = networks.goals(window)
                reached = networks.encoder(goals - goals[:, :1])
                expected = networks.decoder(
                    networks.vectors(skill), skill, reached, networks.normalize(window), actions
                )
            np.testing.assert_allclose(actions.numpy(), expected.numpy(), atol=1e-5)


def test_a_task_without_demonstrations_is_refused(networks: GoSkillNetworks) -> None:
    with pytest.raises(InputError, match="'reach'"):
        OraclePolicy(networks).reset(["reach"], {}, 0)


def test_a_collected_store_knows_how_its_environments_were_reset(run: Path, tmp_path: Path) -> None:
    """Rollouts begin bit for bit where the demonstrations began."""
    store = collect(TASKS, tmp_path / "store", episodes=2, workers=0, seed=5)
    document = diagnosis.diagnose(run, tmp_path / "store", episodes=3, samples=8, workers=0)
    rollouts = document["rollouts"]
    assert rollouts["episodes"] == 2  # all that each task has
    assert rollouts["seeds"] == "the demonstrations'"
    assert rollouts["exact_starts"] == 1
    for index, task in enumerate(TASKS):
        own = store.episode_return[store.episode_task == index]
        assert rollouts["demonstrations"]["tasks"][task]["return_mean"] == pytest.approx(own.mean())
        assert rollouts["oracle"]["tasks"][task]["episodes"] == 2
    assert 0 <= rollouts["policy"]["overall"]["success"] <= 1


def test_other_stores_do_not(store: EpisodeStore, tmp_path: Path) -> None:
    assert episode_seeds(store) is None
    collected = collect(["reach"], tmp_path / "store", episodes=1, workers=0)
    assert len(episode_seeds(collected) or []) == 1
    one = collected.episode(0)
    with StoreWriter(
        tmp_path / "store", 39, 4, ["reach"], provenance={"source": "elsewhere"}, append=True
    ) as writer:
        writer.append(
            task="reach",
            observations=one.observations,
            actions=one.actions,
            rewards=one.rewards,
            columns=one.columns,
        )
    assert episode_seeds(EpisodeStore.open(tmp_path / "store")) is None


def test_a_diagnosis_is_in_the_run_and_on_the_screen(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(run, tmp_path / "run")
    document = pipeline.diagnose(run, data, episodes=1, samples=16, workers=0, as_json=True)
    written = json.loads((run / "diagnosis.json").read_text())
    assert json.loads(capsys.readouterr().out) == written == json.loads(json.dumps(document))
    assert written["rollouts"]["seeds"] == "evaluation's"
    assert written["rollouts"]["exact_starts"] == 0
    assert written["rollouts"]["demonstrations"]["overall"]["success"] is None
    assert written["left_out"] == {}
    pipeline.diagnose(run, data, episodes=0, samples=16)
    printed = capsys.readouterr().out
    assert "door-close" in printed
    assert "rollouts left out: episodes = 0" in printed


def test_parts_that_are_not_there_are_left_out_by_name(tmp_path: Path) -> None:
    data = write_store(tmp_path / "data", ["mine"], episodes=3)
    run = pipeline.train(
        data, tmp_path / "run", preset="quickstart", ablations=["no-vq"], overrides=SMALL
    ).path
    document = diagnosis.diagnose(run, data, samples=8)
    assert set(document["left_out"]) == {"policy", "codebook", "rollouts"}
    assert "continuous" in document["left_out"]["policy"]
    assert "'mine'" in document["left_out"]["rollouts"]
    assert "policy" not in document
    assert document["actions"]["error"] > 0
    assert tables(document)


def test_methods_without_skills_have_action_errors_and_rollouts(
    data: Path, store: EpisodeStore, tmp_path: Path
) -> None:
    small = (
        "method.width=16",
        "method.layers=1",
        "method.heads=2",
        "method.iterations=3",
        "training.threads=1",
    )
    changes = (*small, "method.task_embedding=3")
    run = pipeline.train(
        data, tmp_path / "run", method="mh_prompt_dt", preset="quickstart", overrides=changes
    ).path
    document = diagnosis.diagnose(run, data, episodes=1, samples=40, workers=0)
    assert document["left_out"] == dict.fromkeys(
        ("policy", "codebook", "oracle"), "mh_prompt_dt has no skills"
    )
    assert {"demonstrations", "policy"} < document["rollouts"].keys()
    assert "oracle" not in document["rollouts"]
    assert tables(document)

    networks: Any = load_method(RunFolder.open(run)).networks.eval()
    settings = networks.settings
    contexts = ContextSampler(
        store,
        horizon=1,
        context=settings.context,
        prompt=settings.prompt_length,
        batch_size=40,
        actions=True,
    )
    batch = next(iter(contexts))
    with torch.no_grad():
        error, _ = PromptedActionLoss(networks, networks.task_index(TASKS))(batch)
    assert document["actions"]["error"] == pytest.approx(float(error), rel=1e-5)
    assert document["actions"]["steps"] == int(batch["mask"].sum())
    other = write_store(tmp_path / "other", ["push"])
    with pytest.raises(InputError, match="none for 'push'"):
        diagnosis.diagnose(run, other, samples=4)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"episodes": -1}, "episodes"), ({"samples": 0}, "samples"), ({"device": "tpu"}, "tpu")],
)
def test_wrong_numbers_are_named(run: Path, data: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        diagnosis.diagnose(run, data, **options)


def test_runs_and_stores_that_do_not_fit_are_refused(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        diagnosis.diagnose(data, data)
    with pytest.raises(InputError, match="observation_dim 39"):
        diagnosis.diagnose(run, write_store(tmp_path / "narrow", ["reach"], observation_dim=7))
    unfinished = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(next((unfinished / "checkpoints").glob("*-finished")))
    with pytest.raises(CheckpointError, match="not finished"):
        diagnosis.diagnose(unfinished, data)
