"""Offline actor-critic, agents side by side, gradient surgery and transition batches, beside their peers on one thread.

Both are timed in turn in seconds of the processor, so that what else the machine does meets both alike: ``in_turn``
holds the median of their ratios. Each test asserts first that both give the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from goskill.bench.peers.offline_actor_critic import (
    Arrays,
    PlainSAC,
    PlainTD3BC,
    copy_member,
)
from goskill.bench.peers.products import products_of_td3_bc
from goskill.bench.turns import in_turn, processor_time
from goskill.data import EpisodeStore, ReplayBuffer, ReplaySampler, StoreWriter, TransitionSampler
from goskill.data.episode import CheckedBlock
from goskill.methods.sac import SACNetworks, SACSettings
from goskill.methods.sac.method import objectives as sac_objectives
from goskill.methods.td3_bc import TD3BC, TD3BCActorLoss, TD3BCSettings, with_surgery
from goskill.training import Objective, TrainingSettings
from goskill.training.devices import choose_execution
from goskill.training.memory import kept_memory
from goskill.training.optimizer import ObjectiveOptimizer
from goskill.training.step import IterationStep, ObjectiveStep
from goskill.training.timing import StepTimer

STATE, ACTION, TASKS, STEPS = 39, 4, 10, 500
BATCH, WIDTH, LAYERS = 1_280, 256, 3
PRECISIONS = ("float32", "bfloat16")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with kept_memory():
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """One million transitions of MetaWorld's shapes: ten tasks of 200 episodes."""
    path, random = tmp_path_factory.mktemp("data") / "store", np.random.default_rng(0)
    names = [f"task-{index}" for index in range(TASKS)]
    with StoreWriter(path, STATE, ACTION, names, columns={"terminated": bool}) as writer:
        for _ in range(200):
            writer.append_block(
                names,
                CheckedBlock.of(
                    random.standard_normal((TASKS, STEPS + 1, STATE), dtype=np.float32),
                    np.tanh(random.standard_normal((TASKS, STEPS, ACTION), dtype=np.float32)),
                    random.random((TASKS, STEPS), dtype=np.float32),
                    {"terminated": np.arange(STEPS) == np.full((TASKS, 1), STEPS - 1)},
                ),
            )
    return EpisodeStore.open(path, in_memory=True)


@pytest.fixture(scope="module")
def columns(store: EpisodeStore) -> Arrays:
    """Flat transitions in memory, both states of each, as one-file implementations hold them."""
    (shard,) = store.shard_folders
    loaded = {
        name: np.load(shard / f"{name}.npy") for name in ("observations", "actions", "rewards", "terminated")
    }
    states = loaded.pop("observations").reshape(-1, STEPS + 1, STATE)
    return {
        "observations": np.ascontiguousarray(states[:, :-1]).reshape(-1, STATE),
        "next_observations": np.ascontiguousarray(states[:, 1:]).reshape(-1, STATE),
        **loaded,
    }


class Iterations:
    """Two iterations of objectives, as a run makes them."""

    def __init__(self, objectives: list[Objective], precision: str) -> None:
        training = TrainingSettings(device="cpu", precision=precision, threads=1, log_every=1_000_000)
        execution, timer = choose_execution(training), StepTimer(torch.device("cpu"))
        steps = []
        for objective in objectives:
            optimizer = ObjectiveOptimizer(objective.optimizer or training.optimizer())
            parameters = {
                f"{index}.{name}": value
                for index, module in enumerate(objective.modules)
                for name, value in module.named_parameters()
            }
            optimizer.begin(parameters, capturable=False)
            steps.append(ObjectiveStep(objective, optimizer, execution, timer, capacity=100_000))
        self.step, self.timer, self.iteration = IterationStep(steps, execution, timer), timer, 0

    def __call__(self) -> None:
        for _ in range(2):
            self.step.run(self.iteration, 1_000_000)
            self.timer.end_iteration()
            self.iteration += 1


def offline(store: EpisodeStore, **changes: Any) -> TD3BC:
    settings = TD3BCSettings(width=WIDTH, layers=LAYERS, batch_size=BATCH, **changes)
    return TD3BC(settings, store, TrainingSettings(device="cpu", threads=1))


def plain_of(method: TD3BC, columns: Arrays, noise: float) -> PlainTD3BC:
    """The peer with the same weights, on normalised states with the task behind them, as it would be given them."""
    normalize, networks = method.networks.normalize, method.networks
    tasks = np.repeat(
        np.tile(np.eye(TASKS, dtype=np.float32), (len(columns["rewards"]) // STEPS // TASKS, 1)), STEPS, 0
    )
    mean, std = normalize.mean.numpy(), normalize.std.numpy()
    told = {
        name: np.concatenate([(columns[name] - mean) / std, tasks], 1)
        for name in ("observations", "next_observations")
    }
    plain = PlainTD3BC({**columns, **told}, WIDTH, LAYERS, BATCH, noise)
    # The peer's critics see [state, task, action], ours [state, action, task].
    order = [*range(STATE), *range(STATE + ACTION, STATE + ACTION + TASKS), *range(STATE, STATE + ACTION)]
    for own, source in ((plain.actor, networks.actor), (plain.actor_target, networks.target_actor)):
        copy_member(own, source.body, 0)  # type: ignore[arg-type]
    for member in range(2):
        for own, source in ((plain.critics, networks.critic), (plain.targets, networks.target_critic)):
            copy_member(own[member], source.body, member)  # type: ignore[arg-type]
            with torch.no_grad():
                own[member][0].weight.copy_(own[member][0].weight[:, order])  # type: ignore[operator, union-attr, index]
    return plain


@processor_time(group="TD3+BC, two updates, batch 1280, 3x256")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_td3_bc_goskill(benchmark: Any, store: EpisodeStore, columns: Arrays, precision: str) -> None:
    """Beside CORL's way in float32, and the products alone in the same precision (a share of them, below 1)."""
    torch.manual_seed(0)
    method = offline(store, policy_noise=0.0)
    plain = plain_of(method, columns, noise=0.0)
    critic, actor = method._begin()
    batch = next(iter(critic.sampler))  # type: ignore[arg-type]
    rows = (batch["episode"] * STEPS + batch["start"]).numpy()
    same = {name: torch.from_numpy(values[rows]) for name, values in plain.columns.items()}
    torch.testing.assert_close(critic.loss(batch)[0], plain.critic_loss(same), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(actor.loss(batch)[0], plain.actor_loss(same), rtol=1e-4, atol=1e-5)
    dtype = getattr(torch, precision)
    products = products_of_td3_bc(STATE + TASKS, ACTION, WIDTH, LAYERS, BATCH, dtype)
    method, peer = offline(store), plain_of(method, columns, noise=0.2)
    ours = Iterations(list(method._begin()), precision)

    def twice() -> None:
        peer.update()
        peer.update()

    in_turn(benchmark, ours, {"CORL's way": twice, "matrix products": products}, rounds=10)


@processor_time(group="SAC, two updates of ten agents, batch 256, 2x256")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_sac_goskill(benchmark: Any, columns: Arrays, precision: str) -> None:
    """Beside ten agents one after the other, CleanRL's way, in float32."""
    torch.manual_seed(0)
    settings = SACSettings(tasks=tuple(f"task-{index}" for index in range(TASKS)))
    networks = SACNetworks(settings, STATE, ACTION)
    replay = ReplayBuffer(10_000, STATE, ACTION, tasks=TASKS)
    few = {name: values[: 10_000 * TASKS] for name, values in columns.items()}
    replay.add(**few, task=np.arange(10_000 * TASKS) % TASKS)
    agents = []
    for agent in range(TASKS):
        plain = PlainSAC({name: values[agent::TASKS] for name, values in few.items()}, 256, 2, 256)
        copy_member(plain.actor, networks.actor, agent)
        for member in range(2):
            copy_member(plain.critics[member], networks.critic, 2 * agent + member)
            copy_member(plain.targets[member], networks.target_critic, 2 * agent + member)
        agents.append(plain)
    objectives = sac_objectives(networks, ReplaySampler(replay, 256))
    batch = replay.gather(torch.arange(256)[None] + 10_000 * torch.arange(TASKS)[:, None])
    values = networks.values(batch["observations"], batch["actions"])
    for agent, plain in enumerate(agents):
        for member in range(2):
            found = plain.value(plain.critics[member], batch["observations"][agent], batch["actions"][agent])
            torch.testing.assert_close(values[agent, member], found, rtol=1e-4, atol=1e-5)
    ours = Iterations(list(objectives), precision)

    def one_after_the_other() -> None:
        for _ in range(2):
            for plain in agents:
                plain.update()

    in_turn(benchmark, ours, {"one after the other": one_after_the_other}, rounds=8)


@processor_time(group="PCGrad, gradient of the actor over 10 tasks of 128, 6x160")
def test_pcgrad_goskill(benchmark: Any, store: EpisodeStore) -> None:
    """Beside a loop: a backward pass for each task, and projections pair by pair."""
    settings = TD3BCSettings(width=160, layers=6, batch_size=BATCH, gradient_surgery=True)
    method = TD3BC(settings, store, TrainingSettings(device="cpu", threads=1))
    networks = method.networks
    loss = TD3BCActorLoss(networks, networks.task_index(store.tasks))
    ours = with_surgery(loss, ["networks.actor"], TASKS)
    batch = next(iter(method._begin()[0].sampler))
    parameters = list(networks.actor.parameters())

    def loop() -> torch.Tensor:
        parts = [
            {name: value.view(TASKS, -1, *value.shape[1:])[task] for name, value in batch.items()}
            for task in range(TASKS)
        ]
        found = [torch.autograd.grad(loss(part)[0], parameters) for part in parts]
        flat = [torch.cat([value.flatten() for value in one]) for one in found]
        total = torch.zeros_like(flat[0])
        for own, order in enumerate(torch.rand(TASKS, TASKS).argsort(1).tolist()):
            mine = flat[own].clone()
            for other in order:
                inner = mine @ flat[other]
                if other != own and inner < 0:
                    mine -= inner / (flat[other] @ flat[other]) * flat[other]
            total += mine
        return total / TASKS

    def vectorised() -> torch.Tensor:
        return torch.cat([one.flatten() for one in torch.autograd.grad(ours(batch)[0], parameters)])

    torch.manual_seed(1)
    expected = loop()
    torch.manual_seed(1)
    torch.testing.assert_close(vectorised(), expected, rtol=1e-3, atol=1e-6)
    in_turn(benchmark, vectorised, {"a loop over tasks": loop}, rounds=12)


@processor_time(group="transition batch 1280x(39+4+1+39+1) of 1M")
def test_transitions_goskill(benchmark: Any, store: EpisodeStore, columns: Arrays, tmp_path: Path) -> None:
    """Beside NumPy indexing of arrays in memory, and torchrl's replay buffer on a memory map where it is installed."""
    sampler, random = TransitionSampler(store, BATCH), np.random.default_rng(0)
    batch = next(sampler)
    rows = (batch["episode"] * STEPS + batch["start"]).numpy()
    for name, values in columns.items():
        np.testing.assert_array_equal(batch[name].numpy(), values[rows])

    def numpy() -> Arrays:
        chosen = random.integers(0, len(columns["rewards"]), BATCH)
        return {name: values[chosen] for name, values in columns.items()}

    def several(function: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(20):
                function()

        return run

    peers = {"NumPy indexing": several(numpy)}
    try:
        import torchrl.data as torchrl
    except ImportError:
        benchmark.extra_info["missing"] = "torchrl"
    else:
        from tensordict import TensorDict

        storage = torchrl.LazyMemmapStorage(store.num_steps, scratch_dir=tmp_path)
        buffer = torchrl.TensorDictReplayBuffer(storage=storage, batch_size=BATCH)
        data = {name: torch.from_numpy(values) for name, values in columns.items()}
        buffer.extend(TensorDict(data, batch_size=[store.num_steps]))
        sample, found = buffer.sample(return_info=True)
        for name, values in columns.items():
            np.testing.assert_array_equal(sample[name].numpy(), values[np.asarray(found["index"])])
        peers["torchrl's ReplayBuffer on a memory map"] = several(buffer.sample)
    benchmark.extra_info["batches_per_round"] = 20
    in_turn(benchmark, several(lambda: next(sampler)), peers, rounds=30)
