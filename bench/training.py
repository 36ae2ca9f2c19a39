"""Training steps at MT50 shapes: 800 windows of 31 tokens, 400 contexts of 90, for GO-Skill's policy and for
Prompt-DT; networks of the paper's size. Which share of a step is sampling. Labelling of a store with them.

The peer is ``goskill.bench.peers.training`` in float32, and on a GPU also the same networks with bfloat16 and
``torch.compile``. ``GOSKILL_BENCH_TASKS`` makes the shapes smaller for a try.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from goskill.bench.peers.training import (
    PlainBatches,
    PlainStep,
    ReleasedLabels,
    action_loss,
    plain_labels,
    policy_loss,
    skill_loss,
    stock_codebook,
)
from goskill.data import EpisodeStore, StoreWriter
from goskill.methods.go_skill import GoSkill, GoSkillNetworks, GoSkillSettings, label_store
from goskill.methods.prompt_dt import PromptDT, PromptDTNetworks, PromptDTSettings
from goskill.training import Objective, TrainingSettings
from goskill.training.devices import choose_execution, fast_at_bfloat16
from goskill.training.memory import kept_memory
from goskill.training.optimizer import ObjectiveOptimizer
from goskill.training.step import IterationStep, ObjectiveStep
from goskill.training.timing import StepTimer

TASKS = int(os.environ.get("GOSKILL_BENCH_TASKS", "50"))
GPU_STEPS = 20  # a round, between two synchronisations
OBJECTIVES = ("extraction", "enhancement", "policy", "prompt-dt")


class Subject:
    """GO-Skill and Prompt-DT on a store of random episodes, and the same weights for the peer."""

    def __init__(self, folder: Path, episodes: int = 2) -> None:
        random = np.random.default_rng(0)
        names = [f"task-{index}" for index in range(TASKS)]
        with StoreWriter(folder, observation_dim=39, action_dim=4, tasks=names) as writer:
            for task in names:
                for _ in range(episodes):
                    walk = random.normal(size=(501, 39)).cumsum(0).astype(np.float32) / 10
                    actions = np.tanh(random.normal(size=(500, 4))).astype(np.float32)
                    rewards = random.uniform(0, 10, 500).astype(np.float32)
                    writer.append(task=task, observations=walk, actions=actions, rewards=rewards)
        self.store = EpisodeStore.open(folder)
        self.labels = ""

    def objective(
        self, name: str, device: torch.device, dropout: float = 0.1, data: str = "host"
    ) -> tuple[GoSkill | PromptDT, Objective]:
        torch.manual_seed(0)  # k-means begins the same whenever this is called
        training = TrainingSettings(threads=1, device=str(device), data=data)
        method: GoSkill | PromptDT
        if name == "prompt-dt":
            method = PromptDT(PromptDTSettings(dropout=dropout), self.store, training)
        else:
            method = GoSkill(GoSkillSettings(dropout=dropout), self.store, training)
        for module in method.modules.values():
            module.to(device)
        if isinstance(method, PromptDT):
            return method, method.phases()[0].begin()[0]
        phases = {phase.name: phase for phase in method.phases()}
        objectives = phases["extraction"].begin()
        if name != "extraction":
            self.labels = label_store(method.networks, self.store)
            objectives = phases["policy"].begin()
        wanted = "policy" if name == "policy" else "skill"
        return method, next(objective for objective in objectives if objective.name == wanted)

    def peer(
        self, name: str, device: torch.device, dropout: float = 0.1
    ) -> tuple[Callable[..., Any], Any, Any]:
        """The plain loss, its modules, and a function that builds a batch from rows of a sampler's."""
        method, _ = self.objective(name, device, dropout)
        networks = copy.deepcopy(method.networks)
        if isinstance(networks, PromptDTNetworks):
            batches = PlainBatches(self.store, networks.settings, horizon=1, labels=None)
            build = partial(_build, batches.contexts, ("episode", "start", "prompt_episode"))
            return partial(action_loss, networks), [networks.policy], build
        labels = self.labels or label_store(networks, self.store)
        batches = PlainBatches(
            self.store, networks.settings, horizon=networks.settings.horizon, labels=labels
        )
        if name == "policy":
            build = partial(_build, batches.contexts, ("episode", "start", "prompt_episode"))
            return partial(policy_loss, networks), [networks.policy], build
        codebook = stock_codebook(networks).to(device)
        loss = partial(skill_loss, networks, codebook, name == "enhancement")
        return (
            loss,
            [networks.encoder, networks.decoder],
            partial(_build, batches.segments, ("episode", "start")),
        )


def _build(build: Callable[..., Any], names: tuple[str, ...], batch: dict[str, torch.Tensor]) -> Any:
    return build(*(batch[name].numpy() for name in names))


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(tmp_path_factory.mktemp("bench") / "store")


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """As large as it takes for what is done once per store not to count."""
    return Subject(tmp_path_factory.mktemp("bench") / "store", episodes=16)


def assert_same_loss(subject: Subject, name: str, device: torch.device) -> None:
    """Without dropout, both sides build the same batch and find the same loss in it."""
    _, objective = subject.objective(name, device, dropout=0.0)
    loss, _, build = subject.peer(name, device, dropout=0.0)
    batch = next(iter(objective.sampler))
    plain = build(batch)
    for key, rows in plain.items():
        torch.testing.assert_close(batch[key], rows, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        ours, _ = objective.loss({key: rows.to(device) for key, rows in batch.items()})
        theirs = loss({key: rows.to(device) for key, rows in plain.items()})
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


class Iterations:
    """Iterations of one objective, timed by parts as the loop of a run times them."""

    def __init__(self, subject: Subject, name: str, device: torch.device, **settings: Any) -> None:
        self.timer = StepTimer(device)
        self._step = step_of(subject, name, self.timer, device, **settings)

    def run(self) -> None:
        self._step.run(0, 1)
        self.timer.end_iteration()


def step_of(
    subject: Subject, name: str, timer: StepTimer, device: torch.device, **settings: Any
) -> IterationStep:
    training = TrainingSettings(device=str(device), log_every=1000, **settings)
    _, objective = subject.objective(name, device, data=training.data)
    execution = choose_execution(training)
    return IterationStep([new_step(objective, training, timer)], execution, timer)


def new_step(objective: Objective, training: TrainingSettings, timer: StepTimer) -> ObjectiveStep:
    execution = choose_execution(training)
    optimizer = ObjectiveOptimizer(training.optimizer())
    parameters = {
        f"{index}.{key}": parameter
        for index, module in enumerate(objective.modules)
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    optimizer.begin(parameters, capturable=execution.graphs)
    return ObjectiveStep(objective, optimizer, execution, timer, capacity=1000)


def measure(benchmark: Any, group: str, step: Callable[[], Any], device: torch.device, **facts: Any) -> None:
    benchmark.group = f"{group} step, {TASKS} tasks"
    benchmark.extra_info.update(facts)
    if device.type == "cpu":
        benchmark.pedantic(step, rounds=3, warmup_rounds=1)
        return

    def several() -> None:
        for _ in range(GPU_STEPS):
            step()
        torch.cuda.synchronize()

    benchmark.extra_info["steps_per_round"] = GPU_STEPS
    benchmark.pedantic(several, rounds=9, warmup_rounds=1)


def peer_step(subject: Subject, name: str, device: torch.device) -> Callable[[], Any]:
    loss, modules, build = subject.peer(name, device)
    _, objective = subject.objective(name, device)
    step, rows = PlainStep(loss, modules, device), iter(objective.sampler)
    indices = next(rows)
    return lambda: step.run(build(indices))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_plain_float32(benchmark: Any, subject: Subject, name: str) -> None:
    device = torch.device("cpu")
    assert_same_loss(subject, name, device)
    measure(benchmark, name, peer_step(subject, name, device), device, peer=True, label="plain float32")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_plain_float32_with_kept_memory(benchmark: Any, subject: Subject, name: str) -> None:
    """The same, with what a goskill run asks of the C library's allocator."""
    device = torch.device("cpu")
    step = peer_step(subject, name, device)
    with kept_memory():
        measure(benchmark, name, step, device, peer=True, label="plain float32, memory kept")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_goskill(benchmark: Any, subject: Subject, name: str, precision: str) -> None:
    device = torch.device("cpu")
    if precision == "bfloat16" and not fast_at_bfloat16(device):
        pytest.skip("this processor has no bfloat16 instructions")
    iterations = Iterations(subject, name, device, precision=precision)
    with kept_memory():  # as a run does
        measure(benchmark, name, iterations.run, device, label=f"goskill {precision}")
    benchmark.extra_info["sampling_share"] = round(iterations.timer.read()["sampling"], 6)


def skill_model(subject: Subject) -> GoSkillNetworks:
    """Networks whose codebook has seen data."""
    method, _ = subject.objective("extraction", torch.device("cpu"))
    assert isinstance(method, GoSkill)
    return method.networks.eval()


def measure_labelling(benchmark: Any, subject: Subject, work: Callable[[], Any], **facts: Any) -> None:
    benchmark.group = f"labelling {subject.store.num_steps:,} transitions"
    benchmark.extra_info.update(facts)

    def forget() -> None:
        shutil.rmtree(subject.store.path / "labels", ignore_errors=True)

    benchmark.pedantic(work, setup=forget, rounds=5, warmup_rounds=1)


def test_labelling_plain_float32(benchmark: Any, larger: Subject) -> None:
    """Trajectory by trajectory with the stock codebook; the labels are not even written."""
    networks = skill_model(larger)
    codebook = stock_codebook(networks).eval()
    assert_same_labels(networks, plain_labels(networks, codebook, larger.store), larger.store)
    measure_labelling(
        benchmark,
        larger,
        lambda: plain_labels(networks, codebook, larger.store),
        peer=True,
        label="plain float32",
    )


def test_labelling_as_released(benchmark: Any, larger: Subject) -> None:
    """The released code's way, from trajectories in memory; nothing is written."""
    networks = skill_model(larger)
    codebook = stock_codebook(networks).eval()
    peer = ReleasedLabels(networks, codebook, larger.store)
    assert_same_labels(networks, peer.run(), larger.store)
    measure_labelling(benchmark, larger, peer.run, peer=True, label="as released, float32")


def test_labelling_goskill(benchmark: Any, larger: Subject) -> None:
    """With the column, its class index and their checksums on disk in the end."""
    networks = skill_model(larger)
    work = partial(_label, networks, larger.store.path)
    measure_labelling(benchmark, larger, work, label="goskill, labels of float32")


def _label(networks: GoSkillNetworks, store: Path) -> None:
    label_store(networks, EpisodeStore.open(store))


def assert_same_labels(networks: GoSkillNetworks, peer: np.ndarray[Any, Any], store: EpisodeStore) -> None:
    """The same codes, but for a few in a million steps that are equally near to two."""
    found = np.asarray(store.labels(label_store(networks, store)))
    assert np.mean(found != peer) < 1e-5
    assert len(np.unique(found)) > 1


WAYS: dict[str, dict[str, Any]] = {
    "fused kernels": {},
    "stock kernels": {"kernels": "off"},
    "compiled": {"compile": True},
}


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_gpu_goskill(benchmark: Any, subject: Subject, name: str, way: str) -> None:
    device = torch.device("cuda", 0)
    settings = {"precision": "bfloat16", "cuda_graphs": "on", "data": "device", **WAYS[way]}
    iterations = Iterations(subject, name, device, **settings)
    measure(benchmark, name, iterations.run, device, label=f"goskill bfloat16, {way}, whole-step graphs")


@pytest.mark.gpu
def test_gpu_goskill_fused_kernels_side_by_side(benchmark: Any, subject: Subject) -> None:
    """An iteration of the policy phase: both objectives in one graph."""
    device = torch.device("cuda", 0)
    training = TrainingSettings(device="cuda:0", precision="bfloat16", data="device", log_every=1000)
    execution, timer = choose_execution(training), StepTimer(device)
    method, _ = subject.objective("policy", device, data="device")
    objectives = next(phase for phase in method.phases() if phase.name == "policy").begin()
    running = [new_step(objective, training, timer) for objective in objectives]
    iteration = IterationStep(running, execution, timer)

    def run() -> None:
        iteration.run(0, 1)
        timer.end_iteration()

    measure(
        benchmark, "enhancement + policy", run, device, label="goskill bfloat16, side by side in one graph"
    )


@pytest.mark.gpu
@pytest.mark.parametrize("name", OBJECTIVES)
def test_gpu_plain_float32(benchmark: Any, subject: Subject, name: str) -> None:
    device = torch.device("cuda", 0)
    assert_same_loss(subject, name, device)
    measure(benchmark, name, peer_step(subject, name, device), device, peer=True, label="plain float32")


@pytest.mark.gpu
@pytest.mark.parametrize("name", OBJECTIVES)
def test_gpu_compiled_bfloat16(benchmark: Any, subject: Subject, name: str) -> None:
    """The strong peer: our networks and samplers, SDPA, bfloat16 and torch.compile, without graphs."""
    device = torch.device("cuda", 0)
    iterations = Iterations(
        subject, name, device, precision="bfloat16", compile=True, cuda_graphs="off", data="host"
    )
    measure(benchmark, name, iterations.run, device, peer=True, label="SDPA, bfloat16, torch.compile")
