"""SiMPL: the batched losses against a loop over tasks, sampling, resuming to the bit, both phases, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cut_run import check_cut_and_resumed, train
from point_store import point_store
from point_suite import PointSuite
from torch.distributions import Normal, kl_divergence

import goskill
from goskill.data import ReplayBuffer, ReplaySampler
from goskill.errors import InputError
from goskill.experiments import learning, pipeline
from goskill.methods import Sources, find
from goskill.methods.simpl import (
    MetaAgent,
    MetaLoss,
    SiMPL,
    SiMPLSettings,
    SiMPLTarget,
    TargetSettings,
    TaskSampler,
    add_residual,
)
from goskill.methods.simpl.target_agents import TargetActorLoss, TargetAgents, TargetCriticLoss
from goskill.methods.skill_rl import SkillModel, new_model
from goskill.models import DiagonalNormal, Normalize, SetTransformer
from goskill.models.set_transformer import AttentionBlock, Rows
from goskill.rollouts import evaluate
from goskill.training import TrainingSettings, placement

TRAINING = TrainingSettings(device="cpu", precision="float32", log_every=10, checkpoint_every=7, threads=1)
SKILLS = {
    "horizon": 3,
    "skill_dim": 2,
    "skill_width": 8,
    "decoder_layers": 1,
    "prior_width": 8,
    "prior_layers": 2,
}
SMALL = SiMPLSettings(
    **SKILLS,  # type: ignore[arg-type]
    tasks=PointSuite.tasks,
    embedding_dim=2,
    encoder_width=8,
    encoder_heads=2,
    encoder_points=3,
    width=8,
    layers=1,
    tasks_per_step=2,
    small_tasks=1,
    small_context=2,
    large_context=6,
    iterations=20,
    warmup_decisions=20,
    batch_size=8,
    capacity=300,
    updates_per_decision=0.5,
)


@pytest.fixture(scope="module")
def skills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of skills."""
    root = tmp_path_factory.mktemp("skills")
    point_store(root / "data", episodes=10)
    changes = ["training.device=cpu", "training.threads=1", "method.skill_iterations=3"]
    changes += [f"method.{name}={value}" for name, value in SKILLS.items()]
    return pipeline.train(root / "data", root / "run", method="skill_prior", overrides=changes).path


def new_agent(settings: SiMPLSettings, tmp_path: Path) -> MetaAgent:
    torch.manual_seed(0)
    agent = MetaAgent(settings, new_model(settings, point_store(tmp_path / "store", episodes=5), 0))
    with torch.no_grad():
        for parameter in (*agent.policy_network.parameters(), *agent.target_critic.parameters()):
            parameter.add_(0.2 * torch.randn_like(parameter))
        agent.temperature.log_value.copy_(torch.tensor([0.4, -0.7]))
    return agent


def decisions(tasks: int, count: int, seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "observations": torch.randn(tasks, count, 2, generator=random),
        "next_observations": torch.randn(tasks, count, 2, generator=random),
        "actions": torch.randn(tasks, count, 2, generator=random),
        "rewards": torch.randn(tasks, count, generator=random),
        "terminated": torch.rand(tasks, count, generator=random) < 0.3,
        "discount": torch.rand(tasks, count, generator=random),
    }


def normal(distribution: Any) -> Normal:
    return Normal(distribution.mean, distribution.log_std.exp())


def test_sets_have_no_order_and_any_size() -> None:
    torch.manual_seed(0)
    network = SetTransformer(5, 3, 8, 2, 4).double()
    sets = torch.randn(2, 7, 5, dtype=torch.float64)
    order = torch.randperm(7)
    torch.testing.assert_close(network(sets), network(sets[:, order]))
    assert not torch.allclose(network(sets), network(sets[:, :6]))


def test_attention_is_the_stock_one_whichever_rows_are_few() -> None:
    attention = AttentionBlock(8, 2).double()
    embed = torch.nn.Linear(5, 8).double()
    raw = torch.randn(1, 3, 5, dtype=torch.float64)
    x, y = torch.randn(1, 2, 8, dtype=torch.float64), embed(raw)
    stock = torch.nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        stock.in_proj_weight.copy_(torch.cat([attention.query.weight, attention.key_value.weight]))
        stock.in_proj_bias.copy_(torch.cat([attention.query.bias, attention.key_value.bias]))
        stock.out_proj.load_state_dict(attention.mixed.state_dict())

    def expected(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = attention.first_norm(x + stock(x, y, y)[0])
        return attention.second_norm(h + torch.relu(attention.output(h)))

    for rows in (Rows(y), Rows(y, raw, embed)):
        torch.testing.assert_close(attention.few(x, rows), expected(x, y))
        torch.testing.assert_close(attention.many(rows, x), expected(y, x))


def test_policies_add_to_the_prior() -> None:
    prior = DiagonalNormal(torch.tensor([[1.0]]), torch.tensor([[-0.5]]))
    output = torch.tensor([[0.3, 0.2]])
    log = add_residual(prior, output, "log")
    assert float(log.mean) == pytest.approx(1.3)
    assert float(log.log_std) == pytest.approx(-0.3)
    soft = add_residual(prior, output, "softplus")
    before = np.log(np.expm1(np.exp(-0.5)))
    assert float(soft.log_std.exp()) == pytest.approx(np.log1p(np.exp(before + 0.2)), rel=1e-5)
    nothing = add_residual(prior, torch.zeros(1, 2), "softplus")
    assert float(nothing.log_std) == pytest.approx(-0.5, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fixed_temperature": 0.3, "embedding_weight": 0.5},
        {"temperature_falls": False, "divergence_clip": 0.05, "scale_residual": "softplus"},
        {"large_embedding_divergence": 0.01, "embedding_weight": 0.5, "shared_embedding": False},
        {"small_embedding_divergence": 0.01, "large_embedding_divergence": 50.0, "embedding_weight": 0.5},
    ],
)
def test_gradients_of_a_step_are_those_of_its_tasks_one_by_one(changes: Any, tmp_path: Path) -> None:
    """Task by task with torch.distributions, then averaged; the policy pulls at nothing but itself."""
    settings = replace(SMALL, tasks=("a", "b", "c"), tasks_per_step=3, reward_scale=2.0, **changes)
    agent = new_agent(settings, tmp_path)
    small, large = decisions(1, 2, 1), decisions(2, 6, 2)
    batch = decisions(3, 8, 3)
    whole = {
        **batch,
        **{f"small_{name}": value for name, value in small.items()},
        **{f"large_{name}": value for name, value in large.items()},
    }
    torch.manual_seed(5)
    drawn = (
        torch.randn(3, 2)[:, None].expand(-1, 8, -1) if settings.shared_embedding else torch.randn(3, 8, 2)
    )
    next_noise, own_noise = torch.randn(3, 8, 2), torch.randn(3, 8, 2)
    learned = agent.temperature.log_value.exp()
    fixed = settings.fixed_temperature
    weight = [learned[0] if fixed is None else torch.tensor(fixed), learned[1], learned[1]]
    parts = []

    critic_total = torch.zeros(())
    actor_total = torch.zeros(())
    surprises: list[torch.Tensor] = []
    for task in range(3):
        rows = {name: value[task] for name, value in batch.items()}
        context = small if task == 0 else {name: value[task - 1 : task] for name, value in large.items()}
        posterior = normal(agent.encode(context))
        every = posterior.mean + posterior.stddev * drawn[task]
        alpha = weight[task].detach()

        def act(states: torch.Tensor, e: torch.Tensor, noise: torch.Tensor) -> tuple[Any, torch.Tensor]:
            found: Any = agent.policy(states, e)
            chosen = normal(found.policy)
            return chosen.mean + chosen.stddev * noise, kl_divergence(chosen, normal(found.prior)).sum(-1)

        def value(network: Any, states: torch.Tensor, e: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return network(torch.cat([agent.skills.normalize(states), e, z], -1))[..., 0]

        with torch.no_grad():
            skill, divergence = act(rows["next_observations"], every, next_noise[task])
            divergence = divergence.clamp(max=settings.divergence_clip or np.inf)
            future = value(agent.target_critic, rows["next_observations"], every, skill).min(0).values
            goes_on = rows["discount"] * ~rows["terminated"]
            target = 2.0 * rows["rewards"] + goes_on * (future - alpha * divergence)
        error = value(agent.critic, rows["observations"], every, rows["actions"]) - target
        critic_total = critic_total + error.square().mean(1).sum() / 3
        surprises.append(kl_divergence(posterior, Normal(0.0, 1.0)).sum())
        skill, divergence = act(rows["observations"], every.detach(), own_noise[task])
        own = value(agent.critic, rows["observations"], every.detach(), skill).min(0).values
        actor_total = actor_total + (alpha * divergence - own).mean() / 3
        parts.append(divergence.detach().mean())
    for place, (mean, aim) in enumerate(((parts[0], 0.1), ((parts[1] + parts[2]) / 2, 0.4))):
        excess = aim - mean
        if not settings.temperature_falls:
            excess = excess.clamp(max=0)
        if place == 1 or fixed is None:
            actor_total = actor_total + agent.temperature.log_value[place].exp() * excess
    first = critic_total + settings.embedding_weight * sum(surprises) / 3
    if agent.embedding_weights is not None:
        means = [surprises[0].detach(), (surprises[1] + surprises[2]).detach() / 2]
        for place, aim in enumerate(settings.embedding_aims):
            if aim is not None:
                excess = (aim - means[place]).clamp(max=0)
                actor_total = actor_total + agent.embedding_weights.log_value[place].exp() * excess
    of_first = [*agent.encoder.parameters(), *agent.critic.parameters()]
    of_second = [*agent.policy_network.parameters(), agent.temperature.log_value]
    if agent.embedding_weights is not None:
        of_second.append(agent.embedding_weights.log_value)
    expected = [
        *torch.autograd.grad(first, of_first),
        *torch.autograd.grad(actor_total, of_second, materialize_grads=True),
    ]
    torch.manual_seed(5)
    loss, _ = MetaLoss(agent)(whole)
    found = torch.autograd.grad(loss, [*of_first, *of_second], materialize_grads=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def filled(tasks: int, counts: list[int]) -> ReplayBuffer:
    buffer = ReplayBuffer(50, 2, 2, tasks=tasks)
    for task, count in enumerate(counts):
        rows = {name: value[0] for name, value in decisions(1, max(count, 1), task).items()}
        rows["rewards"] = torch.full((max(count, 1),), float(task))
        if count:
            buffer.add(**rows, task=task)
    return buffer


def test_a_step_draws_different_tasks_with_contexts_of_their_own() -> None:
    settings = replace(SMALL, tasks=tuple("abcde"), tasks_per_step=3)
    replay = filled(5, [4, 5, 6, 7, 8])
    sampler = TaskSampler(replay, replay, settings, settings.tasks, 3)
    met = set()
    for _ in range(30):
        state = sampler.state_dict()
        batch = next(sampler)
        tasks = batch["rewards"][:, 0].tolist()
        assert len(set(tasks)) == 3
        met |= set(tasks)
        assert batch["small_rewards"].shape == (1, 2)
        assert batch["large_observations"].shape == (2, 6, 2)
        assert bool((batch["small_rewards"] == tasks[0]).all())
        assert bool((batch["large_rewards"] == torch.tensor(tasks[1:])[:, None]).all())
        again = TaskSampler(replay, replay, settings, settings.tasks, 0)
        again.load_state_dict(state)
        assert all(torch.equal(value, batch[name]) for name, value in next(again).items())
    assert met == {0.0, 1.0, 2.0, 3.0, 4.0}
    with pytest.raises(InputError, match="tasks_per_step: expected at most 2, as many tasks as there are"):
        TaskSampler(replay, replay, settings, ("a", "b"), 0)
    empty = TaskSampler(replay, filled(5, [0] * 5), settings, settings.tasks, 0)
    with pytest.raises(InputError, match=r"context: expected decisions of [a-e] to draw an embedding from"):
        next(empty)


def test_batches_on_the_device_are_gathered_without_a_look_at_the_host(
    skills: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meta tensors have no values: whatever reads one raises."""
    monkeypatch.setattr(placement, "choose_device", lambda name: torch.device("meta"))
    sources = Sources(None, PointSuite(), tasks=PointSuite.tasks, workers=0)
    settings = replace(SMALL, skills=str(skills))
    batches = {}
    for data in ("host", "device"):
        method = SiMPL.create(settings, sources, replace(TRAINING, data=data))
        assert {method.replay.device.type, method.contexts.device.type} == {
            "meta" if data == "device" else "cpu"
        }
        for buffer in (method.replay, method.contexts):
            buffer.add(**{name: value[0] for name, value in decisions(1, 40, 0).items()}, task=[0, 1] * 20)
        (objective,) = method._begin()
        assert (objective.gather is not None) == (data == "device")
        batch = next(iter(objective.sampler))
        batches[data] = objective.gather(batch) if objective.gather else batch
    shapes = {data: {name: value.shape for name, value in batch.items()} for data, batch in batches.items()}
    assert shapes["device"] == shapes["host"]
    assert all(value.is_meta for value in batches["device"].values())


@pytest.mark.parametrize(
    ("kill", "changes"),
    [(3, {}), (16, {}), (16, {"large_embedding_divergence": 0.1, "shared_embedding": False})],
)
def test_meta_training_that_was_cut_ends_with_the_same_bits(
    kill: int, changes: Any, skills: Path, tmp_path: Path
) -> None:
    sources = Sources(None, PointSuite(), tasks=PointSuite.tasks, workers=0)
    settings = replace(SMALL, skills=str(skills), **changes)
    check_cut_and_resumed(lambda: SiMPL.create(settings, sources, TRAINING), TRAINING, kill, tmp_path)


def test_processes_that_step_the_tasks_change_nothing(skills: Path, tmp_path: Path) -> None:
    """Two processes hold the environments of all tasks; networks and both buffers get the same bits."""
    runs = {}
    for workers in (0, 2):
        sources = Sources(None, PointSuite(), tasks=PointSuite.tasks, workers=workers)
        method = SiMPL.create(replace(SMALL, skills=str(skills)), sources, TRAINING)
        runs[workers] = train(tmp_path / str(workers), method, TRAINING)
    for part, module in runs[0].modules.items():
        other = runs[2].modules[part].state_dict()
        assert all(torch.equal(value, other[name]) for name, value in module.state_dict().items())
    for buffer in ("replay", "contexts"):
        one, other = (getattr(runs[workers], buffer).state_dict() for workers in (0, 2))
        assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def meta(skills: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of SiMPL, from the command's own function."""
    changes = ["training.device=cpu", "training.threads=1", f"method.skills={skills}"]
    own = ("embedding_dim", "encoder_width", "encoder_heads", "encoder_points", "width", "layers")
    sizes = ("tasks_per_step", "small_tasks", "small_context", "large_context", "batch_size", "iterations")
    changes += [f"method.{name}={getattr(SMALL, name)}" for name in (*own, *sizes)]
    root = tmp_path_factory.mktemp("meta")
    return pipeline.train(
        None, root / "run", method="simpl", overrides=changes, suite="point_suite:PointSuite"
    ).path


def test_a_meta_trained_agent_goes_on_with_target_tasks(meta: Path, tmp_path: Path) -> None:
    changes = ["training.device=cpu", "training.threads=1", f"method.meta={meta}"]
    changes += ["method.iterations=30", "method.prior_episodes=2", "method.batch_size=8"]
    with pytest.warns(UserWarning, match="tasks: right: meta-trained on as well"):
        run = pipeline.train(
            None,
            tmp_path / "run",
            method="simpl_ft",
            overrides=changes,
            suite="point_suite:PointSuite",
            tasks=["right"],
        )
    assert len(learning.episodes(run.path)["right"]) > 2
    options: dict[str, Any] = {"max_steps": 20, "workers": 0, "suite": PointSuite()}
    assert evaluate(goskill.load_policy(run.path), ["right"], episodes=2, **options).overall.episodes == 2
    assert evaluate(goskill.load_policy(meta), ["right"], episodes=2, **options).overall.episodes == 2


@pytest.mark.parametrize("kill", [2, 16])
def test_target_learning_that_was_cut_ends_with_the_same_bits(kill: int, meta: Path, tmp_path: Path) -> None:
    settings = TargetSettings(meta=str(meta), iterations=20, prior_episodes=2, batch_size=8)
    sources = Sources(None, PointSuite(), tasks=PointSuite.tasks, workers=0)

    def make() -> SiMPLTarget:
        with pytest.warns(UserWarning, match="meta-trained on as well"):
            return SiMPLTarget.create(settings, sources, TRAINING)

    check_cut_and_resumed(make, TRAINING, kill, tmp_path)


class OpenSkills(SkillModel):
    """Skills whose prior is N(0, 1) in every state."""

    def prior(self, observations: torch.Tensor) -> DiagonalNormal:
        nothing = torch.zeros(*observations.shape[:-1], 1)
        return DiagonalNormal(nothing, nothing)


def tries(sides: list[float], count: int, seed: int) -> ReplayBuffer:
    """Decisions by the prior, each an episode that pays 1 on its task's side of 0, half a deviation from it or more."""
    buffer, random = ReplayBuffer(count, 1, 1, tasks=len(sides)), np.random.default_rng(seed)
    for task, side in enumerate(sides):
        skills, nothing = random.normal(size=(count, 1)), np.zeros((count, 1))
        buffer.add(
            observations=nothing,
            actions=skills,
            rewards=(side * skills[:, 0] > 0.5).astype(np.float32),
            next_observations=nothing,
            terminated=np.ones(count, np.bool_),
            task=task,
        )
    return buffer


def test_what_new_tasks_pay_is_found_in_their_contexts() -> None:
    """Meta-training on both sides: tasks never met are solved from a context, and without one neither side is."""
    settings = SiMPLSettings(
        **{"skill_dim": 1, "embedding_dim": 2, "encoder_width": 16, "encoder_heads": 2, "encoder_points": 4},
        **{"width": 32, "layers": 2, "tasks_per_step": 4, "small_tasks": 1, "large_context": 32},
        **{"batch_size": 64, "large_divergence": 2.0, "initial_temperature": 0.05, "learning_rate": 3e-3},
        tasks=("a", "b", "c", "d"),
    )
    torch.manual_seed(0)
    agent = MetaAgent(settings, OpenSkills(settings, Normalize(torch.zeros(1), torch.ones(1)), 1))
    decisions = tries([1.0, 1.0, -1.0, -1.0], 500, 0)
    batches, loss = TaskSampler(decisions, decisions, settings, settings.tasks, 0), MetaLoss(agent)
    adam = torch.optim.Adam(agent.parameters(), settings.learning_rate)
    for _ in range(300):
        adam.zero_grad()
        loss(next(batches))[0].backward()
        adam.step()
        agent.target.update()
    new = tries([1.0, -1.0], 32, 1)
    context = ReplaySampler(new, 32, tasks=[0, 1], seed=0).batch(0)
    states = torch.zeros(2, 200, 1)
    with torch.no_grad():
        embedding = agent.encode(context).sample()[:, None].expand(-1, 200, -1)
        chosen = agent.policy(states, embedding).sample()[..., 0]
        anything = agent.policy(states, torch.randn(2, 200, 2)).sample()
    assert ((torch.tensor([[1.0], [-1.0]]) * chosen) > 0.5).float().mean(1).min() > 0.9
    assert 0.1 < (anything > 0).float().mean() < 0.9


def test_agents_begin_as_the_meta_trained_one_and_wait_for_their_tasks(tmp_path: Path) -> None:
    meta = new_agent(SMALL, tmp_path)
    shared = {name: getattr(SMALL, name) for name in ("embedding_dim", "encoder_width", "encoder_heads")}
    settings = TargetSettings(**SKILLS, **shared, tasks=("a", "b"), width=8, layers=1)  # type: ignore[arg-type]
    agents = TargetAgents(settings, meta.skills)
    agents.begin_as(meta)
    agents.known.embedding.copy_(torch.randn(2, 2))
    batch = decisions(2, 6, 1)
    every = agents.known.embedding[:, None].expand(-1, 6, -1)
    own, trained = agents.policy(batch["observations"]), meta.policy(batch["observations"], every)
    noise = torch.randn_like(own.mean)
    torch.testing.assert_close(own.mean, trained.mean)
    torch.testing.assert_close(own.at(noise), trained.at(noise))
    values = meta.values(batch["observations"], every, batch["actions"]).transpose(0, 1)
    torch.testing.assert_close(agents.values(batch["observations"], batch["actions"]), values)
    torch.testing.assert_close(agents.temperature.value, meta.temperatures()[1].expand(2))
    agents.known.since[1] = 7
    for loss in (TargetCriticLoss(agents), TargetActorLoss(agents)):
        agents.zero_grad()
        loss(batch)[0].backward()
        trained_parts = [agents.critic] if isinstance(loss, TargetCriticLoss) else [agents.actor]
        for parameter in (p for one in trained_parts for p in one.parameters()):
            first, second = parameter.grad.chunk(2)  # type: ignore[union-attr]
            assert not first.any()
            assert second.any()
    assert agents.temperature.log_value.grad is not None
    assert agents.temperature.log_value.grad[0] == 0 != agents.temperature.log_value.grad[1]


def test_settings_of_the_released_code_in_target_tasks(meta: Path, tmp_path: Path) -> None:
    """Temperatures only rise, targets count divergences up to the clip, and embeddings are the posterior's mean."""
    agent = new_agent(SMALL, tmp_path)
    sizes = {name: getattr(SMALL, name) for name in ("embedding_dim", "width", "layers")}
    batch, aim = decisions(1, 6, 1), 1e3
    gradients, targets = {}, {}
    for falls, clip in ((True, None), (False, 0.01)):
        own = TargetSettings(
            **SKILLS,
            **sizes,
            tasks=("a",),
            target_divergence=aim,
            temperature_falls=falls,
            divergence_clip=clip,
        )  # type: ignore[arg-type]
        agents = TargetAgents(own, agent.skills)
        agents.begin_as(agent)
        agents.known.since[0] = 1
        torch.manual_seed(0)
        targets[clip] = TargetCriticLoss(agents)(batch)[1]["target"]
        loss, metrics = TargetActorLoss(agents)(batch)
        loss.backward()
        gradients[falls] = float(agents.temperature.log_value.grad or 0.0)
        assert metrics["cost"] > 0.01
    assert gradients[True] > 0 == gradients[False]
    assert targets[0.01] > targets[None]
    sources = Sources(None, PointSuite(), tasks=("left",), workers=0)
    for sampled in (False, True):
        settings = TargetSettings(meta=str(meta), sample_embedding=sampled)
        with pytest.warns(UserWarning, match="meta-trained on as well"):
            method = SiMPLTarget.create(settings, sources, TRAINING)
        met = decisions(1, 5, 2)
        method.replay.add(**{name: value[0] for name, value in met.items()}, task=0)
        method.collector.start()
        method._begin()
        found = method._embedding_in(0)
        method.collector.close()
        assert torch.allclose(found, method._meta.encode(met).mean[0], atol=1e-6) != sampled


def test_what_does_not_fit_is_named(skills: Path, meta: Path, tmp_path: Path) -> None:
    suite = "point_suite:PointSuite"

    def refused(message: str, method: str, where: str = suite, *changes: str) -> None:
        with pytest.raises(InputError, match=message):
            pipeline.train(
                None,
                tmp_path / "run",
                method=method,
                suite=where,
                overrides=[f"method.{one}" for one in changes],
            )

    refused("skills: expected a run of skills such as skill_prior's, got none", "simpl")
    refused("tasks_per_step: expected at most 2, .* got 20", "simpl", suite, f"skills={skills}")
    small = ("tasks_per_step=2", "small_tasks=1", f"skills={skills}")
    twice = ('tasks=["left", "left"]', *small)
    refused("tasks: expected different names, got .*left.*left", "simpl", suite, *twice)
    refused("tasks: expected different names", "simpl_ft", suite, 'tasks=["a", "a"]', f"meta={meta}")
    refused("skills: .*expected observation_dim 4 as suite maze has, got 2", "simpl", "maze", *small)
    refused("meta: expected a run of simpl, got none", "simpl_ft")
    refused("meta: expected a run of simpl, .* is one of skill_prior", "simpl_ft", suite, f"meta={skills}")
    refused(
        "meta: .*expected a run of suite maze, got one of point_suite", "simpl_ft", "maze", f"meta={meta}"
    )
    sources = Sources(None, PointSuite(), "elsewhere", PointSuite.tasks, 0)
    with pytest.raises(
        InputError, match=r"skills: .*expected a run of suite elsewhere, got one of point_suite"
    ):
        SiMPL.create(replace(SMALL, skills=str(meta)), sources, TRAINING)
    with pytest.raises(
        InputError, match="small_tasks: expected a number from 0 to tasks_per_step 20, got 21"
    ):
        find("simpl").settings({"small_tasks": 21})
    agent = new_agent(SMALL, tmp_path)
    with pytest.raises(InputError, match="context: expected at least one decision"):
        agent.encode(decisions(1, 0, 0))
