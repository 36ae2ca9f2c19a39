"""SPiRL: losses against torch.distributions, decisions against plain sums, resuming to the bit, learning, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from point_store import point_store
from point_suite import PointSuite
from torch.distributions import Normal, kl_divergence

import goskill
from goskill.data import EpisodeStore, SegmentSampler
from goskill.errors import InputError
from goskill.experiments import learning, pipeline
from goskill.experiments.export import export
from goskill.methods import Sources, find
from goskill.methods.skill_rl import (
    SkillActorLoss,
    SkillAgents,
    SkillCollector,
    SkillCriticLoss,
    SkillModelLoss,
    new_model,
)
from goskill.methods.spirl import SPiRL, SPiRLSettings
from goskill.rollouts import evaluate
from goskill.training import RunFolder, Trainer, TrainingSettings, placement

TRAINING = TrainingSettings(device="cpu", precision="float32", log_every=10, checkpoint_every=7, threads=1)
SMALL = SPiRLSettings(
    tasks=PointSuite.tasks,
    horizon=3,
    skill_dim=2,
    skill_width=8,
    decoder_layers=1,
    prior_width=8,
    prior_layers=2,
    skill_iterations=9,
    skill_batch_size=8,
    critic_width=8,
    critic_layers=1,
    iterations=20,
    warmup_decisions=5,
    batch_size=8,
    capacity=500,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return point_store(tmp_path_factory.mktemp("point") / "store")


def normal(distribution: Any) -> Normal:
    return Normal(distribution.mean, distribution.log_std.exp())


@pytest.mark.parametrize("decoder", ["closed", "open"])
def test_the_loss_of_skills_is_that_of_a_beta_vae_and_a_prior(decoder: Any, store: EpisodeStore) -> None:
    """Window by window with torch.distributions; steps past the end of an episode count nowhere."""
    model = new_model(replace(SMALL, decoder=decoder, horizon=5), store, seed=0)
    batch = next(iter(SegmentSampler(store, 5, 16, balance="transition")))
    assert not batch["mask"].all()
    torch.manual_seed(1)
    loss, metrics = SkillModelLoss(model)(batch)
    torch.manual_seed(1)
    noise = torch.randn(16, 2)
    errors, divergences, surprises = [], [], []
    for row in range(16):
        steps = int(batch["mask"][row].sum())
        states = batch["observations"][row : row + 1, :steps]
        actions = batch["actions"][row : row + 1, :steps]
        posterior = normal(model.encode(states, actions, torch.tensor([steps])))
        skill = posterior.mean + posterior.stddev * noise[row]
        decoded = model.decode(batch["observations"][row : row + 1, :5], skill)[0, :steps]
        errors.append((decoded - actions[0]).square())
        divergences.append(kl_divergence(posterior, Normal(0.0, 1.0)))
        surprises.append(-normal(model.prior(states[:, 0])).log_prob(skill))
    expected = (
        0.5 * torch.cat(errors).mean() + 5e-4 * torch.cat(divergences).mean() + torch.cat(surprises).mean()
    )
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(metrics["divergence"]) == pytest.approx(float(torch.cat(divergences).mean()), rel=1e-5)
    # The prior follows the skills and pulls at nothing else.
    torch.manual_seed(1)
    loss, _ = SkillModelLoss(model)(batch)
    for parameter in model.prior_network.parameters():
        parameter.requires_grad_(False)
    torch.manual_seed(1)
    frozen, _ = SkillModelLoss(model)(batch)
    own = list(model.encoder.parameters())
    for one, other in zip(torch.autograd.grad(loss, own), torch.autograd.grad(frozen, own), strict=True):
        assert torch.equal(one, other)


def test_losses_are_those_of_one_agent_after_the_other(store: EpisodeStore) -> None:
    torch.manual_seed(0)
    agents = SkillAgents(replace(SMALL, reward_scale=2.0, target_divergence=0.7), new_model(SMALL, store, 0))
    with torch.no_grad():
        agents.temperature.log_value.copy_(torch.tensor([0.3, -0.4]))
    random = torch.Generator().manual_seed(1)
    batch = {
        "observations": torch.randn(2, 6, 2, generator=random),
        "next_observations": torch.randn(2, 6, 2, generator=random),
        "actions": torch.randn(2, 6, 2, generator=random),
        "rewards": torch.randn(2, 6, generator=random),
        "terminated": torch.rand(2, 6, generator=random) < 0.3,
        "discount": torch.rand(2, 6, generator=random),
    }
    torch.manual_seed(3)
    noise = torch.randn(2, 6, 2)
    critic, actor, heat = 0.0, 0.0, 0.0
    for agent, task in enumerate(PointSuite.tasks):
        rows = {name: value[agent] for name, value in batch.items()}
        temperature = agents.temperature.log_value[agent].exp().detach()

        def act(states: torch.Tensor, agent: int = agent, task: str = task) -> tuple[Any, torch.Tensor]:
            policy = normal(agents.policy_in([task] * 6)(states))
            divergence = kl_divergence(policy, normal(agents.skills.prior(states))).sum(-1)
            return policy.mean + policy.stddev * noise[agent], divergence

        def value(net: Any, states: torch.Tensor, skill: torch.Tensor, agent: int = agent) -> torch.Tensor:
            x = torch.cat([agents.skills.normalize(states), skill], -1)
            both = [net.of_members(x, torch.full((6,), 2 * agent + k))[:, 0] for k in range(2)]
            return torch.stack(both)

        skill, divergence = act(rows["next_observations"])
        future = value(agents.target_critic, rows["next_observations"], skill).min(0).values
        future = future - temperature * divergence
        target = 2.0 * rows["rewards"] + rows["discount"] * ~rows["terminated"] * future
        critic += float(
            (value(agents.critic, rows["observations"], rows["actions"]) - target).square().mean(1).sum()
        )
        skill, divergence = act(rows["observations"])
        own = value(agents.critic, rows["observations"], skill).min(0).values
        actor += float((temperature * divergence - own).mean())
        heat += float(temperature * (0.7 - divergence).mean())
    torch.manual_seed(3)
    assert float(SkillCriticLoss(agents)(batch)[0]) == pytest.approx(critic, rel=1e-4)
    torch.manual_seed(3)
    assert float(SkillActorLoss(agents)(batch)[0]) == pytest.approx(actor + heat, rel=1e-4)


def test_decisions_are_kept_where_training_data_is(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "choose_device", lambda name: torch.device("meta"))
    sources = Sources(store, PointSuite(), tasks=PointSuite.tasks, workers=0)
    for data, device in (("device", "meta"), ("host", "cpu")):
        method = SPiRL.create(SMALL, sources, replace(TRAINING, data=data))
        assert method.replay.device.type == device


def test_actors_begin_as_the_prior(store: EpisodeStore) -> None:
    agents = SkillAgents(SMALL, new_model(SMALL, store, 0))
    agents.begin_as_prior()
    states = torch.randn(2, 5, 2)
    policy = agents.policy(states)
    for agent in range(2):
        np.testing.assert_allclose(
            policy.mean[agent].detach(), agents.skills.prior(states[agent]).mean.detach(), atol=1e-6
        )
    assert float(policy.divergence(agents.skills.prior(states)).abs().max()) < 1e-5


@pytest.mark.parametrize("decoder", ["closed", "open"])
def test_decisions_are_sums_over_their_steps(decoder: Any, store: EpisodeStore) -> None:
    """Against the steps of the environments; an end cuts a decision, and the next one begins with the episode."""
    model = new_model(replace(SMALL, decoder=decoder), store, 0)
    collector = SkillCollector(PointSuite(), ["left", "right", "left"], model, 0.9, seed=1, workers=0)
    collector.start()
    taken: list[Any] = []
    step = collector.environments.step

    def noting(actions: Any) -> Any:
        found = step(actions)
        taken.append(found[0])
        return found

    collector.environments.step = noting  # type: ignore[method-assign]
    chosen: list[torch.Tensor] = []

    def choose(observations: torch.Tensor) -> torch.Tensor:
        chosen.append(torch.randn(3, 2, generator=torch.Generator().manual_seed(len(chosen))))
        return chosen[-1]

    over: list[Any] = [collector.step(choose)[0] for _ in range(50)]
    for environment in range(3):
        sums, length, begun = 0.0, 0, None
        for decision, one in zip(over, taken, strict=True):
            begun = one.observations[environment] if begun is None else begun
            sums, length = sums + float(one.rewards[environment]), length + 1
            ended = bool(one.terminated[environment] or one.truncated[environment])
            place = np.flatnonzero(decision.rows == environment)
            assert len(place) == (ended or length == 3)
            if len(place):
                found = {name: value[place[0]] for name, value in vars(decision).items()}
                np.testing.assert_array_equal(found["observations"], begun)
                np.testing.assert_array_equal(found["next_observations"], one.next_observations[environment])
                assert found["rewards"] == pytest.approx(sums, rel=1e-5)
                assert found["discount"] == pytest.approx(0.9**length, rel=1e-6)
                assert found["terminated"] == one.terminated[environment]
                assert any(np.array_equal(found["skills"], skills[environment]) for skills in chosen)
                sums, length, begun = 0.0, 0, None
    episodes = sum(len(collector.log.episodes(task)) for task in ("left", "right"))
    assert episodes == sum(int((one.terminated | one.truncated).sum()) for one in taken)


@pytest.mark.parametrize(("decoder", "kill"), [("closed", 2), ("closed", 13), ("open", 17)])
def test_a_run_that_was_cut_ends_with_the_same_bits(
    decoder: Any, kill: int, store: EpisodeStore, tmp_path: Path
) -> None:
    def make() -> SPiRL:
        sources = Sources(store, PointSuite(), tasks=PointSuite.tasks, workers=0)
        return SPiRL.create(replace(SMALL, decoder=decoder), sources, TRAINING)

    def train(path: str, method: SPiRL, *, resume: bool = False) -> SPiRL:
        run = RunFolder.create(tmp_path / path, {}, resume=resume)
        Trainer(method, run, TRAINING, progress=False).train(resume=resume)
        return method

    whole, cut = train("whole", make()), make()
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
    assert whole.collector.log.episodes("left") == resumed.collector.log.episodes("left")


def test_both_agents_reach_their_goals_by_skills_of_a_run(tmp_path: Path) -> None:
    """From the command's own function: skills once, then a run over them, then evaluation in the suite."""
    point_store(tmp_path / "data", episodes=40)
    common = ["training.device=cpu", "training.threads=1"]
    sizes = ["horizon=3", "skill_dim=2", "skill_width=16", "prior_width=16", "prior_layers=2"]
    learned = ["skill_iterations=400", "skill_batch_size=32"]
    changes = [*common, *(f"method.{change}" for change in (*sizes, *learned))]
    skills = pipeline.train(tmp_path / "data", tmp_path / "skills", method="skill_prior", overrides=changes)
    changes = [
        *("critic_width=32", "iterations=400", "warmup_decisions=40", "batch_size=64", "learning_rate=3e-3"),
        *("discount=0.95", "initial_temperature=0.05", f"skills={skills.path}"),
    ]
    run = pipeline.train(
        None,
        tmp_path / "run",
        method="spirl",
        overrides=[*common, *(f"method.{change}" for change in changes)],
        suite="point_suite:PointSuite",
    )
    policy, suite = goskill.load_policy(run.path), PointSuite()
    options: dict[str, Any] = {"max_steps": 20, "workers": 0, "suite": suite}
    results = evaluate(policy, list(suite.tasks), episodes=5, **options)
    assert results.overall.success.value == 1.0
    exported = export(run.path, tmp_path / "exported")
    assert json.loads((exported / "settings.json").read_text())["method"]["skills"] == "skills", "no folder"
    assert (
        evaluate(goskill.load_policy(exported), ["left"], episodes=2, **options).overall.success.value == 1.0
    )
    drawn = evaluate(goskill.load_policy(skills.path), ["left"], episodes=8, **options)
    assert drawn.overall.success.value is not None
    assert drawn.overall.success.value < 1.0


def test_what_does_not_fit_is_named(store: EpisodeStore, tmp_path: Path) -> None:
    suite = "point_suite:PointSuite"
    with pytest.raises(InputError, match="data: expected an episode store to learn from, got none"):
        pipeline.train(None, tmp_path / "run", method="spirl", suite=suite)
    changes = [f"method.skills={tmp_path / 'nowhere'}"]
    with pytest.raises(InputError, match="nowhere is not a run folder"):
        pipeline.train(None, tmp_path / "run", method="spirl", suite=suite, overrides=changes)
    short = ["training.device=cpu", "training.threads=1", "method.iterations=1"]
    other = pipeline.train(store.path, tmp_path / "bc", method="bc", overrides=short)
    changes = [f"method.skills={other.path}"]
    with pytest.raises(InputError, match=r"expected a run of skills such as skill_prior's, .* is one of bc"):
        pipeline.train(None, tmp_path / "run", method="spirl", suite=suite, overrides=changes)
    short = [*short[:2], "method.skill_iterations=1"]
    skills = pipeline.train(store.path, tmp_path / "skills", method="skill_prior", overrides=short)
    changes = [f"method.skills={skills.path}"]
    with pytest.raises(InputError, match="expected observation_dim 4 as suite maze has, got 2"):
        pipeline.train(None, tmp_path / "run", method="spirl", suite="maze", overrides=changes)
    with pytest.raises(InputError, match="horizon: expected a positive number, got 0"):
        find("spirl").settings({"horizon": 0})
    with pytest.raises(InputError, match="skills: expected none, since this method learns its own"):
        find("skill_prior").settings({"skills": "run"})


@pytest.mark.parametrize("method", ["skill_prior", "extract_state"])
def test_the_rate_of_skills_falls_at_their_end(method: str, store: EpisodeStore, tmp_path: Path) -> None:
    settings = ["skill_iterations=6", "skill_decay_iterations=4", "skill_learning_rate=0.01"]
    if method == "extract_state":
        settings += ["median_steps=1", "shortest=2", "longest=5", "iterations=1", "warmup_steps=40"]
    changes = ["training.device=cpu", "training.threads=1", "training.log_every=1"]
    run = pipeline.train(
        store.path,
        tmp_path / "run",
        method=method,
        overrides=[*changes, *(f"method.{setting}" for setting in settings)],
        suite=None if method == "skill_prior" else "point_suite:PointSuite",
    )
    rows = map(json.loads, run.metrics_file.read_text().splitlines())
    rates = [row["skills/learning_rate"] for row in rows if row["phase"] == "skills"]
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.01, 0.0075, 0.005, 0.0025])


def test_a_run_tells_the_episodes_that_it_met(store: EpisodeStore, tmp_path: Path) -> None:
    sources = Sources(store, PointSuite(), tasks=PointSuite.tasks, workers=0)
    method = SPiRL.create(SMALL, sources, TRAINING)
    Trainer(method, RunFolder.create(tmp_path / "run", {}), TRAINING, progress=False).train()
    found = learning.episodes(tmp_path / "run")
    assert list(found) == ["left", "right"]
    for task, episodes in found.items():
        assert episodes == method.collector.log.episodes(task)
        assert sum(one["length"] for one in episodes) == episodes[-1]["end"]
        for one in episodes:
            assert one["success"] == 1.0 or one["length"] == PointSuite.max_steps
    short = ["training.device=cpu", "training.threads=1", "method.iterations=1"]
    other = pipeline.train(store.path, tmp_path / "bc", method="bc", overrides=short)
    with pytest.raises(InputError, match="expected a run that learned in environments"):
        learning.episodes(other.path)


def test_states_far_from_the_data_are_clipped(store: EpisodeStore) -> None:
    """What hardly moves in the data may move while exploring, by thousands of its standard deviations."""
    model = new_model(SMALL, store, 0)
    mean, std = model.normalize.mean, model.normalize.std
    far, edge = (mean + count * std for count in (1_000.0, 5.0))
    assert torch.allclose(model.prior(far[None]).mean, model.prior(edge[None]).mean, atol=1e-5)
