"""Updates of soft actor-critic and SPiRL on the CPU, beside the plain way. Seconds are of the processor, one thread."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from goskill.bench.peers.offline_actor_critic import copy_member
from goskill.bench.peers.plain_agent import PlainAgent
from goskill.bench.peers.products import products_of_actor_critic
from goskill.bench.training import new_step
from goskill.bench.turns import in_turn, processor_time
from goskill.data import ReplayBuffer, ReplaySampler
from goskill.methods.sac import ActorLoss, CriticLoss, SACNetworks, SACSettings
from goskill.methods.skill_rl import OnlineSettings, SkillActorLoss, SkillAgents, SkillCriticLoss, SkillModel
from goskill.models import Normalize
from goskill.training import Objective, OptimizerSettings, TrainingSettings
from goskill.training.devices import choose_execution, fast_at_bfloat16
from goskill.training.step import IterationStep
from goskill.training.timing import StepTimer

ADAM = OptimizerSettings(3e-4, "adam")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def replay(observations: int, actions: int) -> ReplayBuffer:
    random = torch.Generator().manual_seed(0)
    buffer = ReplayBuffer(5_000, observations, actions, tasks=1)
    buffer.add(
        observations=torch.randn(5_000, observations, generator=random),
        actions=torch.rand(5_000, actions, generator=random) * 2 - 1,
        rewards=torch.randn(5_000, generator=random),
        next_observations=torch.randn(5_000, observations, generator=random),
        terminated=torch.rand(5_000, generator=random) < 0.01,
        discount=0.99 * torch.ones(5_000),
        task=0,
    )
    return buffer


def measure(
    benchmark: Any, objectives: list[Objective], agent: PlainAgent, sizes: list[list[int]], precision: str
) -> None:
    """Beside the plain way in float32, and the products alone in the same precision (a share of them, below 1)."""
    if precision == "bfloat16" and not fast_at_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16 instructions")
    training = TrainingSettings(device="cpu", precision=precision, log_every=1_000, threads=1)
    timer = StepTimer(torch.device("cpu"))
    steps = [new_step(one, training, timer) for one in objectives]
    step, batches = IterationStep(steps, choose_execution(training), timer), objectives[0].sampler
    products = products_of_actor_critic(
        *sizes, batch=256, dtype=getattr(torch, precision), prior=agent.prior is not None
    )

    def update() -> None:
        agent.update({name: value[0] for name, value in next(batches).items()})  # type: ignore[call-overload]

    benchmark.extra_info.update(label=f"goskill {precision}")
    peers = {"the plain way, float32": update, "matrix products": products}
    in_turn(benchmark, lambda: step.run(0, 1), peers, rounds=40)


def compare(agent: PlainAgent, networks: Any, critics: Any, actor: Any, batch: dict[str, Tensor]) -> None:
    """The plain agent gets our weights, and then has the same values and actions."""
    copy_member(agent.actor, networks.actor, 0)
    for member in range(2):
        copy_member(agent.critics[member], networks.critic, member)
        copy_member(agent.targets[member], networks.target_critic, member)
    together = torch.cat([batch["observations"][0], batch["actions"][0]], 1)
    for member, values in enumerate(critics(batch["observations"], batch["actions"])[0]):
        torch.testing.assert_close(values, agent.critics[member](together)[:, 0], rtol=1e-4, atol=1e-5)
    mean = agent.actor(batch["observations"][0]).chunk(2, -1)[0]
    torch.testing.assert_close(actor(batch["observations"]).mean[0], mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@processor_time(group="SAC's update, batch 256, 39 observations, 2 x 256")
def test_sac_goskill(benchmark: Any, precision: str) -> None:
    networks = SACNetworks(SACSettings(tasks=("a",)), 39, 4)
    batches, trained = ReplaySampler(replay(39, 4), 256), [networks.actor, networks.temperature]
    agent, sizes = PlainAgent(39, 4, [256, 256], [256, 256]), [[39, 256, 256, 8], [43, 256, 256, 1]]
    compare(agent, networks, networks.values, networks.distribution, next(batches))
    after = networks.target.update
    critic = Objective(
        "critic", batches, CriticLoss(networks), [networks.critic], optimizer=ADAM, after=after
    )
    actor = Objective("actor", "critic", ActorLoss(networks), trained, optimizer=ADAM)
    measure(benchmark, [critic, actor], agent, sizes, precision)


def skills() -> SkillAgents:
    settings = OnlineSettings(
        tasks=("a",),
        prior_width=128,
        prior_layers=6,
        critic_width=256,
        critic_layers=5,
        target_divergence=5.0,
    )
    return SkillAgents(settings, SkillModel(settings, Normalize(torch.zeros(59), torch.ones(59)), 9))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@processor_time(group="SPiRL's update, batch 256, 59 observations, critics 5 x 256, actor 6 x 128")
def test_spirl_goskill(benchmark: Any, precision: str) -> None:
    agents = skills()
    batches, trained = ReplaySampler(replay(59, 10), 256), [agents.actor, agents.temperature]
    prior = PlainAgent(59, 10, [128] * 6, [1]).actor
    agent = PlainAgent(59, 10, [128] * 6, [256] * 5, prior)
    compare(agent, agents, agents.values, agents.policy, next(batches))
    after = agents.target.update
    critic = Objective(
        "critic", batches, SkillCriticLoss(agents), [agents.critic], optimizer=ADAM, after=after
    )
    actor = Objective("actor", "critic", SkillActorLoss(agents), trained, optimizer=ADAM)
    measure(benchmark, [critic, actor], agent, [[59, *[128] * 6, 20], [69, *[256] * 5, 1]], precision)
