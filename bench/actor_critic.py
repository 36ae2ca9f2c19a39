"""Updates of soft actor-critic and SPiRL on the CPU, beside the plain way. Seconds are of the processor, one thread."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from goskill.bench.peers.plain_agent import PlainAgent
from goskill.bench.training import new_step
from goskill.data import ReplayBuffer, ReplaySampler
from goskill.methods.sac import ActorLoss, CriticLoss, SACNetworks, SACSettings
from goskill.methods.skill_rl import OnlineSettings, SkillActorLoss, SkillAgents, SkillCriticLoss, SkillModel
from goskill.models import Normalize
from goskill.training import Objective, OptimizerSettings, TrainingSettings
from goskill.training.devices import choose_execution, fast_at_bfloat16
from goskill.training.step import IterationStep
from goskill.training.timing import StepTimer

pytestmark = pytest.mark.benchmark(timer=time.process_time)
SAC = "SAC's update, batch 256, 39 observations, 2 x 256"
SPIRL = "SPiRL's update, batch 256, 59 observations, critics 5 x 256, actor 6 x 128"
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


def measure_plain(benchmark: Any, agent: PlainAgent, buffer: ReplayBuffer, group: str, label: str) -> None:
    batches = ReplaySampler(buffer, 256)

    def update() -> None:
        agent.update({name: value[0] for name, value in next(batches).items()})

    benchmark.group = group
    benchmark.extra_info.update(peer=True, label=label)
    benchmark.pedantic(update, rounds=40, warmup_rounds=5)


def measure(benchmark: Any, objectives: list[Objective], precision: str, group: str) -> None:
    if precision == "bfloat16" and not fast_at_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16 instructions")
    training = TrainingSettings(device="cpu", precision=precision, log_every=1_000, threads=1)
    timer = StepTimer(torch.device("cpu"))
    step = IterationStep(
        [new_step(one, training, timer) for one in objectives], choose_execution(training), timer
    )
    benchmark.group = group
    benchmark.extra_info.update(label=f"goskill {precision}")
    benchmark.pedantic(lambda: step.run(0, 1), rounds=40, warmup_rounds=5)


def test_sac_plain_float32(benchmark: Any) -> None:
    agent = PlainAgent(39, 4, [256, 256], [256, 256])
    measure_plain(benchmark, agent, replay(39, 4), SAC, "CleanRL's way, float32")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_sac_goskill(benchmark: Any, precision: str) -> None:
    networks = SACNetworks(SACSettings(tasks=("a",)), 39, 4)
    batches, trained = ReplaySampler(replay(39, 4), 256), [networks.actor, networks.temperature]
    after = networks.target.update
    critic = Objective(
        "critic", batches, CriticLoss(networks), [networks.critic], optimizer=ADAM, after=after
    )
    actor = Objective("actor", "critic", ActorLoss(networks), trained, optimizer=ADAM)
    measure(benchmark, [critic, actor], precision, SAC)


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


def test_spirl_plain_float32(benchmark: Any) -> None:
    prior = PlainAgent(59, 10, [128] * 6, [1]).actor
    agent = PlainAgent(59, 10, [128] * 6, [256] * 5, prior)
    measure_plain(benchmark, agent, replay(59, 10), SPIRL, "the plain way, float32")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_spirl_goskill(benchmark: Any, precision: str) -> None:
    agents = skills()
    batches, trained = ReplaySampler(replay(59, 10), 256), [agents.actor, agents.temperature]
    after = agents.target.update
    critic = Objective(
        "critic", batches, SkillCriticLoss(agents), [agents.critic], optimizer=ADAM, after=after
    )
    actor = Objective("actor", "critic", SkillActorLoss(agents), trained, optimizer=ADAM)
    measure(benchmark, [critic, actor], precision, SPIRL)
