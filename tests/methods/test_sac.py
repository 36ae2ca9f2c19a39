"""Soft actor-critic: losses against NumPy, agents apart, resuming to the bit, learning, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from point_store import point_store
from point_suite import PointSuite

import goskill
from goskill.errors import InputError
from goskill.experiments import pipeline
from goskill.methods import Sources, find
from goskill.methods.sac import SAC, ActorLoss, CloningLoss, CriticLoss, SACNetworks, SACSettings
from goskill.models import SquashedNormal
from goskill.rollouts import evaluate
from goskill.rollouts.collector import Collector
from goskill.training import RunFolder, Trainer, TrainingSettings

TRAINING = TrainingSettings(device="cpu", precision="float32", log_every=10, checkpoint_every=7, threads=1)
SMALL = SACSettings(width=16, iterations=30, warmup_steps=10, batch_size=8, capacity=500)


def make(settings: SACSettings = SMALL) -> SAC:
    return SAC.create(settings, Sources(suite=PointSuite(), tasks=PointSuite.tasks, workers=0), TRAINING)


def transitions(agents: int, count: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    shape = (agents, count)
    return {
        "observations": torch.randn(*shape, 2, generator=random),
        "next_observations": torch.randn(*shape, 2, generator=random),
        "actions": torch.rand(*shape, 1, generator=random) * 2 - 1,
        "rewards": torch.randn(shape, generator=random),
        "terminated": torch.rand(shape, generator=random) < 0.3,
    }


def test_densities_are_those_of_a_change_of_variables() -> None:
    """Against the density of tanh of a normal variable in float64, by numerical differentiation of its inverse."""
    distribution = SquashedNormal(
        torch.tensor([[0.3, -1.0]]).double(), torch.tensor([[-0.5, 0.4]]).double(), 2.0
    )
    torch.manual_seed(0)
    action, density = distribution.sample()
    y = (action / 2).numpy()
    x = np.arctanh(y)
    mean, std = distribution.mean.numpy(), distribution.log_std.exp().numpy()
    normal = -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    assert float(density) == pytest.approx(float((normal - np.log(2 * (1 - y**2))).sum()), rel=1e-9)
    np.testing.assert_allclose(distribution.mode().numpy(), 2 * np.tanh(mean))


def test_losses_are_those_of_one_agent_after_the_other() -> None:
    torch.manual_seed(0)
    networks = SACNetworks(replace(SMALL, tasks=("a", "b", "c"), reward_scale=2.0), 2, 1)
    with torch.no_grad():
        networks.temperature.log_value.copy_(torch.tensor([0.1, -0.3, 0.5]))
    batch = transitions(3, 6)

    def perceptron(net: Any, member: int, x: torch.Tensor) -> torch.Tensor:
        for index, layer in enumerate(net.layers):
            x = x @ layer.weight[member] + layer.bias[member]
            x = x.relu() if index < len(net.layers) - 1 else x
        return x

    torch.manual_seed(3)
    noise = torch.randn(3, 6, 1)
    critic, actor = 0.0, 0.0
    for agent in range(3):
        rows = {name: value[agent] for name, value in batch.items()}
        temperature = networks.temperature.log_value[agent].exp()

        def act(x: torch.Tensor, eps: torch.Tensor, agent: int = agent) -> tuple[torch.Tensor, torch.Tensor]:
            mean, raw = perceptron(networks.actor, agent, x).chunk(2, -1)
            log_std = -5 + 3.5 * (torch.tanh(raw) + 1)
            unsquashed = mean + log_std.exp() * eps
            normal = torch.distributions.Normal(mean, log_std.exp()).log_prob(unsquashed)
            density = (normal - torch.log(1 - torch.tanh(unsquashed) ** 2 + 1e-12)).sum(-1)
            return torch.tanh(unsquashed), density

        def value(net: Any, x: torch.Tensor, a: torch.Tensor, agent: int = agent) -> torch.Tensor:
            together = torch.cat([x, a], -1)
            return torch.stack([perceptron(net, 2 * agent + k, together)[:, 0] for k in range(2)])

        action, density = act(rows["next_observations"], noise[agent])
        future = value(networks.target_critic, rows["next_observations"], action).min(0).values
        target = 2.0 * rows["rewards"] + 0.99 * ~rows["terminated"] * (future - temperature * density)
        both = value(networks.critic, rows["observations"], rows["actions"])
        critic += float(((both - target) ** 2).mean(1).sum())
        action, density = act(rows["observations"], noise[agent])
        own = value(networks.critic, rows["observations"], action).min(0).values
        actor += float((temperature * density - own).mean() - temperature * (density - 1.0).mean())
    torch.manual_seed(3)
    assert float(CriticLoss(networks)(batch)[0]) == pytest.approx(critic, rel=1e-4)
    torch.manual_seed(3)
    assert float(ActorLoss(networks)(batch)[0]) == pytest.approx(actor, rel=1e-4)


def test_agents_learn_apart() -> None:
    """What one agent sees changes no gradient of another."""
    networks = SACNetworks(replace(SMALL, tasks=("a", "b")), 2, 1)
    batch = transitions(2, 6)
    other = {name: value.clone() for name, value in batch.items()}
    other["rewards"][1] += 5
    gradients = []
    for one in (batch, other):
        torch.manual_seed(0)
        found = torch.autograd.grad(CriticLoss(networks)(one)[0], list(networks.critic.parameters()))
        gradients.append(found)
    for first, second in zip(*gradients, strict=True):
        assert torch.equal(first[:2], second[:2])
    assert not torch.equal(gradients[0][0][2:], gradients[1][0][2:])


def test_a_collector_goes_on_where_it_was() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (60, 4, 1)).astype(np.float32)
    tasks = ["left", "left", "right", "right"]
    whole = Collector(PointSuite(), tasks, seed=3, workers=0)
    whole.start()
    for step in range(60):
        if step == 33:
            state = whole.state_dict()
            state = {
                name: value.copy() if isinstance(value, np.ndarray) else value
                for name, value in state.items()
            }
        whole.step(actions[step])
    other = Collector(PointSuite(), tasks, seed=3, workers=0)
    other.load_state_dict(state)
    for step in range(33, 60):
        other.step(actions[step])
    np.testing.assert_array_equal(other.observations, whole.observations)
    first, second = whole.state_dict(), other.state_dict()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("kill", [1, 8, 25])
def test_a_run_that_was_cut_ends_with_the_same_bits(kill: int, tmp_path: Path) -> None:
    def train(path: str, method: SAC, *, resume: bool = False) -> SAC:
        run = RunFolder.create(tmp_path / path, {}, resume=resume)
        Trainer(method, run, TRAINING, progress=False).train(resume=resume)
        return method

    whole = train("whole", make())
    cut = make()
    interact = cut._interact

    def stopping(iteration: int) -> Any:
        if iteration == kill:
            raise RuntimeError("cut")
        return interact(iteration)

    cut._interact = stopping  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="cut"):
        train("cut", cut)
    resumed = train("cut", make(), resume=True)
    for part, module in whole.modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, resumed.modules[part].state_dict()[key]), (part, key)
    for name, value in whole.replay.state_dict().items():
        assert torch.equal(value, resumed.replay.state_dict()[name]), name


def test_both_agents_reach_their_goals(tmp_path: Path) -> None:
    """From the command's own function, through evaluation in the suite."""
    changes = [
        "width=32",
        "iterations=1500",
        "warmup_steps=100",
        "batch_size=64",
        "learning_rate=3e-3",
        "discount=0.9",
        "initial_temperature=0.05",
    ]
    overrides = [*(f"method.{change}" for change in changes), "training.device=cpu", "training.threads=1"]
    run = pipeline.train(
        None, tmp_path / "run", method="sac", overrides=overrides, suite="point_suite:PointSuite"
    )
    policy = goskill.load_policy(run.path)
    suite = PointSuite()
    results = evaluate(
        policy,
        list(suite.tasks),
        episodes=5,
        max_steps=suite.max_steps,
        make_environments=lambda tasks: suite.make_vec(
            tasks, len(tasks), workers=0, autoreset_mode="Disabled"
        ),
    )
    assert results.overall.success.value == 1.0


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="suite: sac learns in environments: expected the name of a suite, got none"
    ):
        pipeline.train(None, tmp_path / "run", method="sac")
    with pytest.raises(InputError, match="task: expected a task of suite 'point', got 'up'"):
        pipeline.train(None, tmp_path / "run", method="sac", suite="point_suite:PointSuite", tasks=["up"])
    policy = make().policy()
    with pytest.raises(InputError, match="no agent has learned 'up', only left, right"):
        policy.reset(["up"])
    with pytest.raises(InputError, match="warmup_steps: expected at least 1, got 0"):
        find("sac").settings({"warmup_steps": 0})


def test_cloning_maximises_the_likelihood_of_actions() -> None:
    """Against torch.distributions in float64; actions at the bounds count as just inside."""
    torch.manual_seed(0)
    networks = SACNetworks(replace(SMALL, tasks=("a", "b")), 2, 1)
    random = torch.Generator().manual_seed(1)
    actions = torch.cat([torch.rand(5, 1, 1, generator=random) * 4 - 2, torch.full((1, 1, 1), 2.0)])
    batch = {"observations": torch.randn(6, 2, 2, generator=random), "actions": actions}
    loss, _ = CloningLoss(networks, torch.tensor([-2.0]), torch.tensor([2.0]))(batch)
    expected = 0.0
    inside = (actions[:, 0].double() / 2).clamp(-0.9999, 0.9999)
    for agent in range(2):
        found = networks.distribution(batch["observations"][:, 0].expand(2, -1, -1))
        normal = torch.distributions.Normal(found.mean[agent].double(), found.log_std[agent].double().exp())
        squashed = torch.distributions.TransformedDistribution(
            normal, [torch.distributions.transforms.TanhTransform()]
        )
        expected -= float(squashed.log_prob(inside).mean().detach())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-3)


def test_a_cloned_actor_goes_on_from_what_it_imitated(tmp_path: Path) -> None:
    store = point_store(tmp_path / "data")
    changes = ["width=16", "cloning_iterations=20", "iterations=3", "warmup_steps=25", "batch_size=8"]
    overrides = [*(f"method.{change}" for change in changes), "training.device=cpu", "training.threads=1"]
    run = pipeline.train(
        store.path, tmp_path / "run", method="bc_sac", overrides=overrides, suite="point_suite:PointSuite"
    )
    assert run.settings["method"]["cloning"]
    policy = goskill.load_policy(run.path)
    policy.reset(["left", "right"])
    assert policy.act(np.zeros((2, 2), np.float32)).shape == (2, 1)
    with pytest.raises(InputError, match="data: expected an episode store to learn from, got none"):
        pipeline.train(None, tmp_path / "other", method="bc_sac", suite="point_suite:PointSuite")
