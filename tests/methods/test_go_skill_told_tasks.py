"""A decoder that is told the task: loss, learning, new tasks, checkpoints, and what does not fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_store import ACTION, OBSERVATION, TASKS, begin, episode, small_settings, small_store

from goskill.data import EpisodeStore, StoreWriter
from goskill.errors import InputError
from goskill.methods.go_skill import GoSkill, GoSkillNetworks, networks_from_state
from goskill.models import Normalize
from goskill.training import TrainingSettings


def method_on(store: EpisodeStore, **changes: Any) -> GoSkill:
    return GoSkill(small_settings(tell_task=True, **changes), store, TrainingSettings(seed=2))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("data") / "store")


@pytest.mark.parametrize("decoder", ["transformer", "mlp"])
@torch.no_grad()
def test_the_loss_tells_each_window_its_task(decoder: str, store: EpisodeStore) -> None:
    method = method_on(store, decoder=decoder, dropout=0.0)
    networks = method.networks
    objective = begin(method, "extraction")["skill"]
    batch = next(iter(objective.sampler))  # type: ignore[arg-type]
    _, metrics = objective.loss(batch)
    window = networks.read_window(batch["observations"], batch["actions"])
    skill, _, _ = networks.quantize(window.embedding, frozen=True)
    total, count = 0.0, 0
    for row, task in enumerate(batch["task"].tolist()):
        told = np.zeros((4, len(TASKS)), np.float32)
        told[:, networks.settings.told_tasks.index(store.tasks[task])] = 1.0
        states = torch.cat([window.observations[row], torch.from_numpy(told)], dim=1)
        reached = None if window.reached is None else window.reached[row : row + 1]
        actions = batch["actions"][row : row + 1]
        acted = networks.decoder(skill[row : row + 1], None, reached, states[None], actions)[0]
        errors = (acted - actions[0]).double().square().mean(1)[batch["mask"][row]]
        total, count = total + float(errors.sum()), count + len(errors)
    np.testing.assert_allclose(float(metrics["action_error"]), total / count, rtol=1e-5)


def test_a_new_task_changes_nothing_until_it_is_trained(store: EpisodeStore, tmp_path: Path) -> None:
    with StoreWriter(
        tmp_path, observation_dim=OBSERVATION, action_dim=ACTION, tasks=["up", "left"]
    ) as writer:
        for task in ("up", "left"):
            one = episode(7, 20, 0.1)
            writer.append(task=task, observations=one.observations, actions=one.actions, rewards=one.rewards)
    trained = method_on(store, decoder="mlp")
    shown = {"left": [episode(0, 30, 0.3)], "right": [episode(1, 9, 0.3)]}
    seen = np.random.default_rng(0).normal(size=(2, OBSERVATION)).astype(np.float32)
    before = trained.policy()
    before.reset(["left", "right"], shown)
    settings = GoSkill.fine_tuned_settings(trained.settings, 4)
    tuned = GoSkill(settings, EpisodeStore.open(tmp_path), TrainingSettings(), networks=trained.networks)
    assert tuned.settings.told_tasks == ("left", "right", "up")
    after = tuned.policy()
    after.reset(["left", "right"], shown)
    np.testing.assert_allclose(after.act(seen), before.act(seen), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match=re.escape("'up' is none of them: fine-tune it on it")):
        before.reset(["up"], {"up": shown["left"]})


def test_a_checkpoint_gives_the_networks_back(store: EpisodeStore) -> None:
    method = method_on(store, decoder="mlp")
    state = {name: part.state_dict() for name, part in method.modules.items()}
    again = networks_from_state(method.settings, state)
    for key, value in method.networks.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="told_tasks: expected different names"):
        small_settings(tell_task=True, told_tasks=("a", "a"))
    with pytest.raises(InputError, match="told_tasks: expected none with tell_task = False"):
        small_settings(told_tasks=("a",))
    normalize = Normalize(torch.zeros(OBSERVATION), torch.ones(OBSERVATION))
    with pytest.raises(InputError, match="told_tasks: expected at least one with tell_task, got none"):
        GoSkillNetworks(small_settings(tell_task=True), normalize, ACTION)
