"""TD3+BC, PCGrad and soft modularisation: losses and updates against NumPy, training, acting, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from goskill.data import EpisodeStore, StoreWriter
from goskill.errors import InputError
from goskill.methods import find
from goskill.methods.td3_bc import (
    TD3BC,
    TD3BCActorLoss,
    TD3BCSettings,
    TD3CriticLoss,
    project_conflicting,
    with_surgery,
)
from goskill.models import EnsembleMLP, Normalize
from goskill.models.soft_modules import SoftModules
from goskill.training import RunFolder, Trainer, TrainingSettings

TASKS = ("left", "right", "up")
SMALL: dict[str, Any] = {"width": 16, "layers": 2, "modules": 3, "iterations": 8, "batch_size": 12}
TRAINING = TrainingSettings(device="cpu", precision="float32", log_every=1, checkpoint_every=2, threads=1)


def make_store(path: Path, *, terminated: bool = True, episodes: int = 4) -> EpisodeStore:
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {"columns": {"terminated": ("bool", ())}} if terminated else {}
    with StoreWriter(path, 5, 2, list(TASKS), **columns) as writer:
        for task in TASKS:
            for _ in range(episodes):
                steps = int(random.integers(6, 15))
                ends = {"columns": {"terminated": np.arange(steps) == steps - 1}} if terminated else {}
                writer.append(
                    task=task,
                    observations=random.normal(size=(steps + 1, 5)),
                    actions=random.uniform(-1, 1, (steps, 2)),
                    rewards=random.normal(size=steps),
                    **ends,
                )
    return EpisodeStore.open(path)


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    return make_store(tmp_path / "store")


def settings(**changes: Any) -> TD3BCSettings:
    return TD3BCSettings(**{**SMALL, **changes})


def method(store: EpisodeStore, **changes: Any) -> TD3BC:
    return TD3BC(settings(**changes), store, TRAINING)


def batch_of(made: TD3BC) -> dict[str, Tensor]:
    return next(iter(made._sampler({})))


def perceptron(module: EnsembleMLP, member: int, x: np.ndarray) -> np.ndarray:
    for index, layer in enumerate(module.layers):
        weight = layer.weight[member].detach().double().numpy()
        x = x @ weight + layer.bias[member].detach().double().numpy()
        if index < len(module.layers) - 1:
            x = np.maximum(x, 0)
    return x


def states_of(made: TD3BC, observations: Tensor, task: Tensor) -> np.ndarray:
    normalize = made.networks.normalize
    rows = (observations.double().numpy() - normalize.mean.double().numpy()) / normalize.std.double().numpy()
    return np.concatenate([rows, np.eye(len(TASKS))[task.numpy()]], 1)


def test_losses_are_those_written_out(store: EpisodeStore) -> None:
    """Without noise on target actions, which is drawn; in float64."""
    made = method(store, policy_noise=0.0, discount=0.9)
    networks, batch = made.networks, batch_of(made)
    index = networks.task_index(store.tasks)
    states, following = (
        states_of(made, batch[key], batch["task"]) for key in ("observations", "next_observations")
    )
    dim = 5

    def values(critic: Any, rows: np.ndarray, actions: np.ndarray) -> np.ndarray:
        inputs = np.concatenate([rows[:, :dim], actions, rows[:, dim:]], 1)
        return np.stack([perceptron(critic.body, member, inputs)[:, 0] for member in range(2)])

    action = np.tanh(perceptron(networks.target_actor.body, 0, following))
    future = values(networks.target_critic, following, action).min(0)
    target = batch["rewards"].double().numpy() + 0.9 * ~batch["terminated"].numpy() * future
    taken = batch["actions"].double().numpy()
    expected = ((values(networks.critic, states, taken) - target) ** 2).mean(1).sum()
    loss, metrics = TD3CriticLoss(networks, index)(batch)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert float(metrics["target"]) == pytest.approx(target.mean(), rel=1e-4, abs=1e-6)

    own = np.tanh(perceptron(networks.actor.body, 0, states))
    value = values(networks.critic, states, own)[0]
    expected = ((own - taken) ** 2).mean() - 2.5 / np.abs(value).mean() * value.mean()
    assert float(TD3BCActorLoss(networks, index)(batch)[0]) == pytest.approx(expected, rel=1e-4)


def test_noise_of_target_actions_is_drawn_for_each_sample_and_clipped(store: EpisodeStore) -> None:
    made = method(store, policy_noise=10.0, noise_clip=0.5)
    seen: list[Tensor] = []
    values = made.networks.values

    def watched(states: Tensor, actions: Tensor, critic: Any = None) -> Tensor:
        seen.append(actions)
        return values(states, actions, critic)

    made.networks.values = watched  # type: ignore[method-assign]
    batch = batch_of(made)
    TD3CriticLoss(made.networks, made.networks.task_index(store.tasks))(batch)
    task = made.networks.task_index(store.tasks)[batch["task"]]  # type: ignore[index]
    following = made.networks.inputs(batch["next_observations"], task)
    moved = seen[0] - made.networks.act(following, made.networks.target_actor)
    assert len(torch.unique(moved)) > 2
    assert float(moved.abs().max()) <= 0.5 + 1e-6


def test_targets_move_with_the_actor_only(store: EpisodeStore, tmp_path: Path) -> None:
    made = method(store, iterations=1, policy_every=2)
    before = {name: value.clone() for name, value in made.networks.target_critic.state_dict().items()}
    Trainer(made, RunFolder.create(tmp_path / "run", {}), TRAINING, progress=False).train()
    assert all(
        torch.equal(before[name], value) for name, value in made.networks.target_critic.state_dict().items()
    )
    made = method(store, iterations=2, policy_every=2, target_rate=0.25)
    before = {name: value.clone() for name, value in made.networks.target_critic.state_dict().items()}
    Trainer(made, RunFolder.create(tmp_path / "other", {}), TRAINING, progress=False).train()
    for name, value in made.networks.target_critic.state_dict().items():
        online = made.networks.critic.state_dict()[name]
        torch.testing.assert_close(value, before[name] + 0.25 * (online - before[name]))


def surgery_oracle(gradients: np.ndarray, order: np.ndarray) -> np.ndarray:
    own = gradients.copy()
    for task in range(len(gradients)):
        for other in order[task]:
            if other != task and (inner := own[task] @ gradients[other]) < 0:
                own[task] -= inner / (gradients[other] @ gradients[other]) * gradients[other]
    return own.sum(0)


@pytest.mark.parametrize("seed", range(5))
def test_projection_is_that_of_the_algorithm(seed: int) -> None:
    random = np.random.default_rng(seed)
    gradients = random.normal(size=(6, 9))
    order = np.stack([random.permutation(6) for _ in range(6)])
    found = project_conflicting(torch.tensor(gradients), torch.tensor(order))
    np.testing.assert_allclose(found.numpy(), surgery_oracle(gradients, order), rtol=1e-10, atol=1e-12)


def test_surgery_over_tasks_at_once_is_that_of_a_loop(store: EpisodeStore) -> None:
    made = method(store, gradient_surgery=True, policy_noise=0.0)
    batch, index = batch_of(made), made.networks.task_index(store.tasks)
    assert batch["task"].tolist() == sorted(batch["task"].tolist())
    plain = TD3BCActorLoss(made.networks, index)
    trained = list(made.networks.actor.parameters())
    gradients, losses = [], []
    for rows in range(3):
        part = {name: value[4 * rows : 4 * rows + 4] for name, value in batch.items()}
        loss, _ = plain(part)
        losses.append(float(loss))
        gradients.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)]).double().numpy()
        )
    torch.manual_seed(5)
    order = torch.rand(3, 3).argsort(1).numpy()
    expected = surgery_oracle(np.stack(gradients), order) / 3
    torch.manual_seed(5)
    loss, metrics = with_surgery(TD3BCActorLoss(made.networks, index), ["networks.actor"], 3)(batch)
    found = torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)])
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-3, atol=1e-6)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)
    assert set(metrics) == {"action_error", "value"}


def test_soft_modules_are_a_loop_over_modules() -> None:
    torch.manual_seed(0)
    net = SoftModules(members=2, inputs=7, tasks=3, width=5, layers=3, modules=4, outputs=2).double()
    x, task = torch.randn(6, 7).double(), torch.eye(3).double()[[0, 1, 2, 0, 1, 2]]
    found = net(x, task).detach().numpy()

    def linear(layer: Any, member: int, rows: np.ndarray) -> np.ndarray:
        return rows @ layer.weight[member].detach().numpy() + layer.bias[member].detach().numpy()

    def softmax(scores: np.ndarray) -> np.ndarray:
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    for member in range(2):
        features = linear(net.embed, member, x.numpy())
        routing = np.maximum(features * linear(net.embed_task, member, task.numpy()), 0)
        hidden = [np.maximum(features, 0)] * 4
        state = routing
        for layer in range(3):
            out = [np.maximum(linear(net.base[layer], member * 4 + m, hidden[m]), 0) for m in range(4)]
            if layer == 2:
                break
            weights = softmax(linear(net.route[layer], member, state).reshape(6, 4, 4))
            hidden = [sum(weights[:, to, m, None] * out[m] for m in range(4)) for to in range(4)]
            if layer == 0:
                state = np.maximum(linear(net.route_back[0], member, weights.reshape(6, 16)) * routing, 0)
        share = softmax(linear(net.route_out, member, state))
        mixed = sum(share[:, m, None] * out[m] for m in range(4))
        np.testing.assert_allclose(found[member], linear(net.head, member, mixed), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["td3_bc", "pcgrad", "soft_modularization"])
def test_a_run_trains_resumes_and_acts(name: str, store: EpisodeStore, tmp_path: Path) -> None:
    entry = find(name)
    chosen = entry.settings(SMALL)

    def train(path: str, *, until: int | None = None, resume: bool = False) -> Any:
        made = TD3BC(chosen, store, TRAINING)
        run = RunFolder.create(tmp_path / path, {}, resume=resume)
        trainer = Trainer(made, run, TRAINING, progress=False)
        if until is not None:
            losses = made.phases()

            def stop(iteration: int) -> dict[str, float]:
                if iteration == until:
                    raise RuntimeError("cut")
                return {}

            losses[0].interact = stop
            made.phases = lambda: losses  # type: ignore[method-assign]
            trainer = Trainer(made, run, TRAINING, progress=False)
            with pytest.raises(RuntimeError, match="cut"):
                trainer.train()
            return made
        trainer.train(resume=resume)
        return made

    whole = train("whole")
    train("cut", until=5)
    resumed = train("cut", resume=True)
    for part, module in whole.modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, resumed.modules[part].state_dict()[key]), (part, key)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert sum("actor/loss" in line for line in lines) == 4
    restored = TD3BC.restore(
        whole.settings, {part: module.state_dict() for part, module in whole.modules.items()}
    )
    observations = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    actions = []
    for made in (whole, restored):
        policy = made.policy()
        policy.reset(["up", "left", "right", "up"], {})
        actions.append(policy.act(observations))
    np.testing.assert_array_equal(*actions)
    assert np.abs(actions[0]).max() <= 1
    policy = whole.policy()
    with pytest.raises(InputError, match="'down' is none of them"):
        policy.reset(["down"], {})


def test_what_does_not_fit_is_named(store: EpisodeStore, tmp_path: Path) -> None:
    without = make_store(tmp_path / "without", terminated=False)
    with pytest.raises(InputError, match="terminated"):
        method(without)
    method(without, ends="never")
    with pytest.raises(InputError, match="batch_size: expected a multiple of the 3 tasks, got 13"):
        method(store, gradient_surgery=True, batch_size=13)
    with pytest.raises(InputError, match="task_identity: expected True"):
        settings(gradient_surgery=True, task_identity=False)


def test_the_value_of_a_bandit_is_found(tmp_path: Path) -> None:
    """One step, reward 1 - (a - 0.5)²: the actor goes to where the value is highest, away from the data's mean."""
    random = np.random.default_rng(0)
    with StoreWriter(tmp_path / "s", 1, 1, ["t"], columns={"terminated": ("bool", ())}) as writer:
        for _ in range(300):
            action = random.uniform(-1, 1, (1, 1))
            writer.append(
                task="t",
                observations=np.zeros((2, 1)),
                actions=action,
                rewards=1 - (action[:, 0] - 0.5) ** 2,
                columns={"terminated": np.ones(1, bool)},
            )
    store = EpisodeStore.open(tmp_path / "s")
    made = TD3BC(
        settings(iterations=600, batch_size=64, width=32, learning_rate=3e-3, alpha=20.0), store, TRAINING
    )
    Trainer(made, RunFolder.create(tmp_path / "run", {}), TRAINING, progress=False).train()
    policy = made.policy()
    policy.reset(["t"], {})
    assert float(policy.act(np.zeros((1, 1), np.float32))[0, 0]) == pytest.approx(0.5, abs=0.15)
    assert isinstance(made.networks.normalize, Normalize)
