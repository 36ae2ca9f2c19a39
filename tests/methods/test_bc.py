"""Percent-BC on a tiny store: loss, learning, acting, new tasks, and what does not fit."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from small_store import ACTION, OBSERVATION, TASKS, begin, episode, small_store

from goskill.data import EpisodeStore, StoreWriter
from goskill.errors import CheckpointError, InputError
from goskill.methods import Diagnosable, FineTunable
from goskill.methods.bc import BCNetworks, BCSettings, BehaviourCloning, networks_from_state
from goskill.methods.feedforward import FeedForwardPolicy
from goskill.models import Normalize
from goskill.rollouts.policy import Policy, SkillPolicy
from goskill.training import TrainingSettings


def small(**changes: Any) -> BCSettings:
    return BCSettings(**{"width": 16, "layers": 2, "iterations": 6, "batch_size": 8, **changes})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def new_tasks(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """Two tasks, of which the second is one of the other store's."""
    path = tmp_path_factory.mktemp("data") / "new"
    with StoreWriter(path, observation_dim=OBSERVATION, action_dim=ACTION, tasks=["up", "left"]) as writer:
        for task in ("up", "left"):
            one = episode(7, 20, 0.1)
            writer.append(task=task, observations=one.observations, actions=one.actions, rewards=one.rewards)
    return EpisodeStore.open(path)


def plain_actions(networks: BCNetworks, observations: np.ndarray, place: int | None) -> np.ndarray:
    """The perceptron in NumPy, float64."""
    mean, std = (value.double().numpy() for value in (networks.normalize.mean, networks.normalize.std))
    values = (observations.astype(np.float64) - mean) / std
    if place is not None:
        told = np.zeros((len(values), len(networks.settings.tasks)))
        told[:, place] = 1.0
        values = np.concatenate([values, told], axis=1)
    layers = [part for part in networks.policy if isinstance(part, torch.nn.Linear)]
    for index, layer in enumerate(layers):
        weight, bias = (value.detach().double().numpy() for value in (layer.weight, layer.bias))
        values = values @ weight.T + bias
        values = np.tanh(values) if index == len(layers) - 1 else np.maximum(values, 0.0)
    return values


@pytest.mark.parametrize("told", [True, False])
def test_it_learns_and_tells_tasks_apart_if_it_is_told(told: bool, store: EpisodeStore) -> None:
    method = BehaviourCloning(small(task_identity=told, best_share=1.0), store, TrainingSettings())
    only = begin(method, "policy")["policy"]
    optimizer = torch.optim.AdamW([p for part in only.modules for p in part.parameters()], 1e-2)
    losses = []
    for _, batch in zip(range(150), only.sampler, strict=False):  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss, metrics = only.loss(batch)
        assert torch.equal(metrics["action_error"], loss.detach())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:10])
    policy = method.policy()
    policy.reset(["left", "right"], {})
    left, right = policy.act(np.zeros((2, OBSERVATION), np.float32))
    assert (left < right).all() if told else np.allclose(left, right)


@pytest.mark.parametrize("told", [True, False])
def test_the_loss_and_the_actions_are_those_of_plain_numpy(told: bool, store: EpisodeStore) -> None:
    method = BehaviourCloning(small(task_identity=told), store, TrainingSettings(seed=5))
    only = begin(method, "policy")["policy"]
    batch = next(iter(only.sampler))  # type: ignore[arg-type]
    loss, _ = only.loss(batch)
    errors = []
    for row in range(8):
        data = store.episode(int(batch["episode"][row]))
        start = int(batch["start"][row])
        place = int(batch["task"][row]) if told else None
        seen = data.observations[start : start + 1]
        errors.append(np.square(plain_actions(method.networks, seen, place) - data.actions[start]).mean())
    np.testing.assert_allclose(float(loss.detach()), np.mean(errors), rtol=1e-5)
    policy = method.policy()
    seen = np.random.default_rng(0).normal(size=(3, OBSERVATION)).astype(np.float32)
    policy.reset(["right", "left", "right"], {})
    expected = [plain_actions(method.networks, seen, place if told else None) for place in (1, 0, 1)]
    for row in range(3):
        np.testing.assert_allclose(policy.act(seen)[row], expected[row][row], rtol=0, atol=1e-6)
    predictions = method.predict_actions(store, 64, seed=0)
    assert predictions.predicted.shape == predictions.taken.shape == (64, ACTION)
    assert np.bincount(predictions.task).tolist() == [32, 32]


def test_it_is_a_policy_without_prompts_and_says_what_it_imitates(store: EpisodeStore) -> None:
    method = BehaviourCloning(small(), store, TrainingSettings())
    assert isinstance(method, FineTunable)
    assert isinstance(method, Diagnosable)
    policy = method.policy()
    assert isinstance(policy, Policy)
    assert not isinstance(policy, SkillPolicy)
    assert not policy.needs_prompts
    names = {
        share: BehaviourCloning(small(best_share=share), store, TrainingSettings()).policy().name
        for share in (1.0, 0.5, 0.125)
    }
    assert names == {1.0: "BC", 0.5: "50%-BC", 0.125: "12.5%-BC"}


def test_a_fork_has_episodes_of_its_own(store: EpisodeStore) -> None:
    policy = BehaviourCloning(small(), store, TrainingSettings()).policy()
    other = policy.fork()
    policy.reset(["left", "left"], {})
    other.reset(["right"], {})
    seen = np.ones((1, OBSERVATION), np.float32)
    left, right = policy.act(np.repeat(seen, 2, 0))[0], other.act(seen)[0]
    assert not np.array_equal(left, right)


def test_unknown_tasks_and_wrong_observations_are_refused_by_name(store: EpisodeStore) -> None:
    policy = BehaviourCloning(small(), store, TrainingSettings()).policy()
    with pytest.raises(InputError, match="'push' is none of them: fine-tune"):
        policy.reset(["left", "push"], {})
    policy.reset(["left"], {})
    with pytest.raises(InputError, match=re.escape("expected shape (1, 6) as reset, got (2, 6)")):
        policy.act(np.zeros((2, OBSERVATION), np.float32))
    with pytest.raises(InputError, match="expected finite numbers, got others in environment 0"):
        policy.act(np.full((1, OBSERVATION), np.nan, np.float32))
    with pytest.raises(InputError, match="precision: expected 'float32' or 'bfloat16', got 'half'"):
        FeedForwardPolicy(policy.networks, "BC", precision="half")
    BehaviourCloning(small(task_identity=False), store, TrainingSettings()).policy().reset(["push"], {})


def test_a_new_task_changes_nothing_until_it_is_trained(store: EpisodeStore, new_tasks: EpisodeStore) -> None:
    trained = BehaviourCloning(small(), store, TrainingSettings()).networks
    seen = torch.randn(4, OBSERVATION)
    before = trained(seen, torch.tensor([0, 1, 0, 1])).detach()
    method = BehaviourCloning(small(iterations=9), new_tasks, TrainingSettings(), networks=trained)
    assert method.settings.tasks == ("left", "right", "up")
    assert method.settings.iterations == 9
    torch.testing.assert_close(method.networks(seen, torch.tensor([0, 1, 0, 1])).detach(), before)
    with pytest.raises(InputError, match="width: expected 16 as the trained networks have, got 32"):
        BehaviourCloning(small(width=32), new_tasks, TrainingSettings(), networks=trained)


@pytest.mark.parametrize("told", [True, False])
def test_a_checkpoint_gives_the_networks_back(told: bool, store: EpisodeStore) -> None:
    method = BehaviourCloning(small(task_identity=told), store, TrainingSettings())
    state = {name: part.state_dict() for name, part in method.modules.items()}
    again = networks_from_state(method.settings, state)
    for key, value in method.networks.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    with pytest.raises(CheckpointError, match="network 'critic' is not one of the method"):
        networks_from_state(method.settings, {**state, "critic": {}})
    with pytest.raises(CheckpointError, match="'policy' is missing"):
        networks_from_state(method.settings, {"normalize": state["normalize"]})


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"layers": 0},
        {"iterations": 0},
        {"batch_size": 0},
        {"prompt_episodes": 0},
        {"tasks": ("a", "a")},
        {"tasks": ("a",), "task_identity": False},
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(wrong))}: expected .*, got "):
        small(**wrong)


def test_what_does_not_fit_is_refused(store: EpisodeStore) -> None:
    normalize = Normalize(torch.zeros(OBSERVATION + 1), torch.ones(OBSERVATION + 1))
    other = BCNetworks(small(tasks=TASKS), normalize, ACTION)
    with pytest.raises(InputError, match=": expected observation_dim 7 as the networks have, got 6"):
        BehaviourCloning(small(), store, TrainingSettings(), networks=other)
    with pytest.raises(InputError, match="tasks: expected at least one"):
        BCNetworks(small(), normalize, ACTION)
    with pytest.raises(InputError, match="store: expected one to learn from"):
        BehaviourCloning(small(), None)
