"""PEARL: the actions of soft actor-critic given an embedding; both phases, resuming to the bit, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cut_run import check_cut_and_resumed
from point_suite import PointSuite
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

import goskill
from goskill.errors import InputError
from goskill.experiments import learning, pipeline
from goskill.methods import Sources
from goskill.methods.pearl import PEARL, PEARLTarget
from goskill.methods.simpl import MetaAgent, MetaLoss, PEARLSettings, PEARLTargetSettings, SingleActions
from goskill.rollouts import evaluate
from goskill.training import TrainingSettings

TRAINING = TrainingSettings(device="cpu", precision="float32", log_every=10, checkpoint_every=7, threads=1)
SIZES: dict[str, Any] = {
    "embedding_dim": 2,
    "encoder_width": 8,
    "encoder_heads": 2,
    "encoder_points": 3,
    "width": 8,
    "layers": 1,
}
SMALL: dict[str, Any] = {
    **SIZES,
    "tasks_per_step": 2,
    "large_context": 6,
    "iterations": 20,
    "warmup_decisions": 60,
    "batch_size": 8,
    "capacity": 300,
    "updates_per_decision": 0.5,
}


def test_everything_an_agent_computes_with_follows_its_parts_to_a_device() -> None:
    """The meta device stands for a GPU; mixed devices raise."""
    agent = MetaAgent(PEARLSettings(**SMALL, tasks=("a", "b")), SingleActions(3, 2))
    for part in agent.parts.values():
        part.to("meta")
    drawn = agent.policy(torch.zeros(2, 8, 3, device="meta"), torch.zeros(2, 8, 2, device="meta")).sample()
    assert drawn.shape == (2, 8, 2)
    assert drawn.device.type == "meta"


def test_a_step_is_soft_actor_critics_given_an_embedding() -> None:
    """Densities and costs by torch.distributions; temperatures aim at an entropy of minus the actions' dimensions."""
    settings = PEARLSettings(
        **{**SMALL, "initial_temperature": 0.3, "embedding_weight": 0.0}, tasks=("a", "b")
    )
    torch.manual_seed(0)
    agent = MetaAgent(settings, SingleActions(3, 2))
    with torch.no_grad():
        for parameter in agent.policy_network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    batch = {
        "observations": torch.randn(2, 8, 3),
        "next_observations": torch.randn(2, 8, 3),
        "actions": torch.rand(2, 8, 2) * 2 - 1,
        "rewards": torch.randn(2, 8),
        "terminated": torch.rand(2, 8) < 0.3,
        "discount": torch.full((2, 8), 0.9),
    }
    large = {name: value[:, :6] for name, value in batch.items()}
    whole = {**batch, **{f"large_{name}": value for name, value in large.items()}}
    torch.manual_seed(5)
    noise = [torch.randn(2, 2), torch.randn(2, 8, 2), torch.randn(2, 8, 2)]
    posterior = agent.encode(large)
    embedding = (posterior.mean + posterior.log_std.exp() * noise[0])[:, None].expand(-1, 8, -1)

    def act(states: torch.Tensor, e: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found: Any = agent.policy(states, e)
        plain = Normal(found.policy.mean, found.policy.log_std.exp())
        squashed = Independent(TransformedDistribution(plain, TanhTransform(cache_size=1)), 1)
        action = squashed.base_dist.transforms[0](plain.loc + plain.scale * drawn)
        return action, squashed.log_prob(action)

    def value(network: Any, states: torch.Tensor, e: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return network(torch.cat([states, e, action], -1).flatten(0, 1))[..., 0].view(2, 2, 8)

    with torch.no_grad():
        action, density = act(batch["next_observations"], embedding, noise[1])
        future = value(agent.target_critic, batch["next_observations"], embedding, action).amin(0)
        target = batch["rewards"] + 0.9 * ~batch["terminated"] * (future - 0.3 * density)
    error = value(agent.critic, batch["observations"], embedding, batch["actions"]) - target
    critic = error.square().mean((1, 2)).sum()
    still = embedding.detach()
    action, density = act(batch["observations"], still, noise[2])
    own = value(agent.critic, batch["observations"], still, action).amin(0)
    actor = (0.3 * density - own).mean()
    pull = agent.temperature.log_value.exp()[1] * (2.0 - density.detach().mean())
    of_critic = [*agent.encoder.parameters(), *agent.critic.parameters()]
    of_actor = [*agent.policy_network.parameters(), agent.temperature.log_value]
    expected = [
        *torch.autograd.grad(critic, of_critic),
        *torch.autograd.grad(actor + pull, of_actor, materialize_grads=True),
    ]
    torch.manual_seed(5)
    found = torch.autograd.grad(MetaLoss(agent)(whole)[0], [*of_critic, *of_actor], materialize_grads=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kill", [3, 16])
def test_meta_training_that_was_cut_ends_with_the_same_bits(kill: int, tmp_path: Path) -> None:
    sources = Sources(None, PointSuite(), tasks=PointSuite.tasks, workers=0)
    check_cut_and_resumed(
        lambda: PEARL.create(PEARLSettings(**SMALL), sources, TRAINING), TRAINING, kill, tmp_path
    )


def test_target_tasks_go_on_from_it(tmp_path: Path) -> None:
    suite = "point_suite:PointSuite"
    changes = ["training.device=cpu", "training.threads=1"]
    meta = pipeline.train(
        None,
        tmp_path / "meta",
        method="pearl",
        suite=suite,
        overrides=[*changes, *(f"method.{name}={value}" for name, value in SMALL.items())],
    ).path
    changes += ["method.iterations=30", "method.prior_episodes=2", "method.batch_size=8"]
    with pytest.warns(UserWarning, match="tasks: right: meta-trained on as well"):
        run = pipeline.train(
            None,
            tmp_path / "run",
            method="pearl_ft",
            overrides=[*changes, f"method.meta={meta}"],
            suite=suite,
            tasks=["right"],
        )
    assert len(learning.episodes(run.path)["right"]) > 2
    settings = PEARLTargetSettings(meta=str(meta), iterations=20, prior_episodes=2, batch_size=8)
    sources = Sources(None, PointSuite(), tasks=("left",), workers=0)
    with pytest.warns(UserWarning, match="meta-trained on as well"):
        check_cut_and_resumed(
            lambda: PEARLTarget.create(settings, sources, TRAINING), TRAINING, 16, tmp_path / "cut"
        )
    options: dict[str, Any] = {"max_steps": 20, "workers": 0, "suite": PointSuite()}
    for path in (run.path, meta):
        assert evaluate(goskill.load_policy(path), ["right"], episodes=2, **options).overall.episodes == 2
    with pytest.raises(InputError, match=r"meta: expected a run of simpl, .* is one of pearl"):
        pipeline.train(
            None, tmp_path / "other", method="simpl_ft", overrides=[f"method.meta={meta}"], suite=suite
        )
    with pytest.raises(InputError, match="meta: expected a run of pearl, got none"):
        pipeline.train(None, tmp_path / "other", method="pearl_ft", suite=suite)


def test_entropies_to_aim_at() -> None:
    assert PEARLSettings(tasks_per_step=1).aims(3) == (3.0, 3.0)
    assert PEARLSettings(target_entropy=-1.5).aims(3) == (1.5, 1.5)
    assert PEARLTargetSettings(target_entropy=1.0).aim(3) == -1.0
