"""HarmoDT: masks against NumPy, one batched pass against masked copies, training, acting and checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_store import SMALL_PROMPT_DT, TASKS, episode, small_store

from goskill.data import EpisodeStore
from goskill.errors import InputError
from goskill.methods.harmodt import HarmoDT, HarmoDTPolicy, HarmoDTSettings
from goskill.methods.harmodt.masks import changes_at, erdos_renyi_densities, exchanged
from goskill.methods.harmodt.method import task_gradients
from goskill.methods.prompt_dt import PromptDTPolicy
from goskill.methods.prompt_dt.method import PromptedActionLoss
from goskill.training import RunFolder, Trainer, TrainingSettings


def small(**changes: Any) -> HarmoDTSettings:
    own = {"mask_every": 2, "mask_changes": 30}
    return HarmoDTSettings(**{**SMALL_PROMPT_DT, **own, **changes})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("data") / "store")


@pytest.mark.parametrize("importance", ["fisher", "magnitude"])
def test_masks_exchange_what_numpy_says(importance: str) -> None:
    random = np.random.default_rng(1)
    masks, gradients = random.random((3, 200)) < 0.7, random.normal(size=(3, 200))
    weights, k, gamma = random.normal(size=200), 9, 10.0
    kept_mean, mean = (gradients * masks).mean(0), gradients.mean(0)
    expected = masks.copy()
    for task in range(3):
        g = gradients[task]
        score = gamma * kept_mean * g + (g**2 if importance == "fisher" else abs(weights))
        active, resting = np.flatnonzero(masks[task]), np.flatnonzero(~masks[task])
        expected[task, active[np.argsort(score[active])[:k]]] = False
        expected[task, resting[np.argsort(-(mean * g)[resting])[:k]]] = True
    found = exchanged(
        torch.from_numpy(masks),
        torch.from_numpy(gradients),
        torch.from_numpy(weights),
        k,
        agreement_weight=gamma,
        importance=importance,
    )
    np.testing.assert_array_equal(found.numpy(), expected)
    assert (found.numpy() != masks).sum(1).tolist() == [2 * k] * 3


def test_no_more_is_exchanged_than_there_is() -> None:
    masks = torch.ones(2, 10, dtype=torch.bool)
    masks[0, 3] = False
    options: dict[str, Any] = {"agreement_weight": 1.0, "importance": "fisher"}
    found = exchanged(masks, torch.randn(2, 10), torch.randn(10), 5, **options)
    assert found.sum(1).tolist() == [9, 10]
    assert found[0, 3]


def test_changes_follow_a_cosine_from_nothing_to_nothing() -> None:
    assert [changes_at(at, 100) for at in (0, 0.25, 0.5, 0.75, 1)] == [0, 50, 100, 50, 0]
    assert changes_at(0.1, 100) == round(50 * (1 - math.cos(0.2 * math.pi)))


def test_densities_are_erdos_renyis() -> None:
    shapes = [(64, 16), (16, 16), (16, 64), (2, 2)]
    found = erdos_renyi_densities(shapes, 0.6)
    sizes = np.array([a * b for a, b in shapes])
    np.testing.assert_allclose(np.dot(found, sizes) / sizes.sum(), 0.6)
    assert found[3] == 1.0, "a small matrix is kept whole"
    assert found[0] == found[2]
    np.testing.assert_allclose(found[1] / found[0], (32 / 256) / (80 / 1024))
    assert erdos_renyi_densities(shapes, 1.0) == pytest.approx([1.0] * 4)


def test_one_pass_equals_a_masked_copy_of_the_networks_for_each_task(store: EpisodeStore) -> None:
    """Loss, gradients of shared weights and each task's own unmasked gradients, in float64."""
    method = HarmoDT(small(dropout=0.0), store, TrainingSettings())
    (objective,) = method.phases()[0].begin()
    networks, loss = method.networks.double(), method._loss()
    batch = {
        name: rows.double() if rows.is_floating_point() else rows
        for name, rows in next(iter(objective.sampler)).items()
    }
    value, _ = loss(batch)
    value.backward()
    per_task = task_gradients(networks, loss, batch)
    total, steps, shared = 0.0, 0, torch.zeros_like(per_task[0])
    for index, task in enumerate(TASKS):
        own = {name: rows[batch["task"] == index] for name, rows in batch.items()}
        copy = networks.of_task(task)
        error, _ = PromptedActionLoss(copy, None)(own)
        error.backward()
        names = [
            name for name, _ in networks.policy.named_parameters() if "blocks" in name and "norm" not in name
        ]
        parameters = dict(copy.policy.named_parameters())
        gradient = torch.cat([parameters[name].grad.flatten() for name in names if "weight" in name])  # type: ignore[union-attr]
        torch.testing.assert_close(per_task[index], gradient, rtol=1e-6, atol=1e-9)
        count = int(own["mask"].sum())
        total, steps = total + float(error.detach()) * count, steps + count
        shared += gradient * networks.masks[index] * count
    assert float(value.detach()) == pytest.approx(total / steps, rel=1e-9)
    found = torch.cat([layer.weight.grad.flatten() for layer in networks.masked_layers])  # type: ignore[union-attr]
    torch.testing.assert_close(found, shared / steps, rtol=1e-6, atol=1e-9)


def test_it_learns_and_its_masks_change_when_they_should(store: EpisodeStore) -> None:
    method = HarmoDT(small(dropout=0.0, iterations=40), store, TrainingSettings())
    (phase,) = method.phases()
    (objective,) = phase.begin()
    assert phase.interact is not None
    optimizer = torch.optim.AdamW([p for part in objective.modules for p in part.parameters()], 3e-3)
    kept, losses = method.networks.masks.sum(1), []
    share = kept / method.networks.masks.shape[1]
    assert ((share - 0.8).abs() < 0.02).all()
    for iteration, batch in zip(range(40), objective.sampler, strict=False):
        before = method.networks.masks
        metrics = phase.interact(iteration)
        changed = int((method.networks.masks != before).sum())
        due = iteration > 0 and iteration % 2 == 0
        assert changed == (2 * 2 * changes_at(iteration / 40, 30) if due else 0)
        assert metrics == ({"mask_changes": changes_at(iteration / 40, 30)} if due else {})
        optimizer.zero_grad()
        loss, _ = objective.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert torch.equal(method.networks.masks.sum(1), kept)
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])


def run(store: EpisodeStore, path: Path, stop: int | None = None) -> HarmoDT:
    training = TrainingSettings(threads=1, log_every=1, checkpoint_every=3, precision="float32", device="cpu")
    method = HarmoDT(small(iterations=9), store, training)
    path.mkdir(exist_ok=True)
    folder = RunFolder(path)
    if stop is None:
        Trainer(method, folder, training).train(resume=folder.checkpoints.exists())
        return method
    phase = method._update_masks

    def interrupted(iteration: int) -> Any:
        if iteration == stop:
            raise KeyboardInterrupt
        return phase(iteration)

    method._update_masks = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        Trainer(method, folder, training).train()
    return method


def test_a_run_goes_on_with_the_same_masks_and_weights(store: EpisodeStore, tmp_path: Path) -> None:
    whole = run(store, tmp_path / "whole").networks.state_dict()
    run(store, tmp_path / "stopped", stop=7)
    again = run(store, tmp_path / "stopped").networks.state_dict()
    for name, value in whole.items():
        assert torch.equal(again[name], value), name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_each_task_acts_as_its_masked_copy_does(store: EpisodeStore, precision: str) -> None:
    networks = HarmoDT(small(), store, TrainingSettings()).networks
    for parameter in networks.policy.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    shown = {task: [episode(index, 9, 0.3)] for index, task in enumerate((*TASKS, "new"))}
    tasks = ["left", "new", "right", "left"]
    policy = HarmoDTPolicy(networks, chunk=3, precision=precision)
    random = np.random.default_rng(0)
    seen = random.normal(size=(8, len(tasks), 6)).astype(np.float32)
    acted = []
    for again in range(2):  # also after masks have changed
        policy.reset(tasks, shown)
        acted.append([])
        for step in range(8):
            acted[again].append(policy.act(seen[step]))
            policy.observe(np.full(len(tasks), 0.5))
        for row, task in enumerate(tasks):
            plain = PromptDTPolicy(networks.of_task(task), precision=precision)
            plain.reset([task], shown)
            for step in range(8):
                tolerance = 1e-5 if precision == "float32" else 0.05
                expected = plain.act(seen[step, row : row + 1])[0]
                np.testing.assert_allclose(acted[again][step][row], expected, rtol=0, atol=tolerance)
                plain.observe(np.array([0.5]))
        networks.set_masks(~networks.masks)
        policy = HarmoDTPolicy(networks, chunk=3, precision=precision) if precision == "bfloat16" else policy
    assert not np.allclose(acted[0][0], acted[1][0])


def test_a_task_without_a_mask_keeps_what_enough_masks_keep(store: EpisodeStore) -> None:
    networks = HarmoDT(small(merge_share=1.0), store, TrainingSettings()).networks
    layer = networks.masked_layers[0]
    assert torch.equal(networks.mask_of("new", layer), layer.mask.all(0))
    assert torch.equal(networks.mask_of("right", layer), layer.mask[1])
    blind = HarmoDT(small(task_identity=False), store, TrainingSettings()).networks
    layer = blind.masked_layers[0]
    assert torch.equal(blind.mask_of("right", layer), layer.mask.any(0))


def test_predictions_are_the_tasks_own_and_new_tasks_get_masks(store: EpisodeStore) -> None:
    method = HarmoDT(small(), store, TrainingSettings())
    found = method.predict_actions(store, 40, seed=0)
    assert set(found.task.tolist()) == {0, 1}
    state = {name: part.state_dict() for name, part in method.modules.items()}
    again = HarmoDT.restore(method.settings, state)
    assert torch.equal(again.networks.masks, method.networks.masks)
    np.testing.assert_array_equal(again.predict_actions(store, 40, seed=0).predicted, found.predicted)
    more = method.networks.with_tasks(("up",))
    assert torch.equal(more.masks[:2], method.networks.masks)
    assert more.settings.tasks == ("left", "right", "up")


@pytest.mark.parametrize(
    "wrong", [{"density": 0.0}, {"mask_every": 0}, {"mask_changes": -1}, {"merge_share": 2}]
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(wrong))}: expected .*, got "):
        small(**wrong)
