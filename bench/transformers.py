"""HarmoDT's training step of ten tasks beside the release's ten steps with masked copies, and MTDIFF-P's acting in
fifty environments beside the plain way of its release, on one thread. Networks have the papers' sizes, random weights.

Both are timed in turn in seconds of the processor; answers are compared first. ``GOSKILL_BENCH_DIFFUSION`` is how many
diffusion steps there are, 200 in the paper: a plan takes in proportion to it, and the ratio hardly depends on it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from goskill import _core
from goskill.bench.peers import mtdiff as plain_mtdiff
from goskill.bench.peers.harmodt import MaskedCopies
from goskill.bench.training import new_step
from goskill.bench.turns import in_turn
from goskill.data import EpisodeStore, StoreWriter
from goskill.methods.harmodt import HarmoDT, HarmoDTSettings
from goskill.methods.mtdiff import MTDiffNetworks, MTDiffPolicy, MTDiffSettings
from goskill.models import Normalize
from goskill.rollouts import Demonstration
from goskill.training import TrainingSettings
from goskill.training.devices import choose_execution, fast_at_bfloat16
from goskill.training.memory import kept_memory
from goskill.training.step import IterationStep
from goskill.training.timing import StepTimer

TASKS = 10
ENVIRONMENTS = 50
DIFFUSION_STEPS = int(os.environ.get("GOSKILL_BENCH_DIFFUSION", "200"))
pytestmark = pytest.mark.benchmark(timer=time.process_time)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with kept_memory():
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    random = np.random.default_rng(0)
    path, names = tmp_path_factory.mktemp("bench") / "store", [f"task-{index}" for index in range(TASKS)]
    with StoreWriter(path, observation_dim=39, action_dim=4, tasks=names) as writer:
        for task in names:
            writer.append(
                task=task,
                observations=random.normal(size=(501, 39)).cumsum(0) / 10,
                actions=np.tanh(random.normal(size=(500, 4))),
                rewards=random.uniform(0, 10, 500),
            )
    return EpisodeStore.open(path)


def harmodt(store: EpisodeStore, dropout: float, precision: str = "float32") -> Any:
    training = TrainingSettings(device="cpu", precision=precision, log_every=1000)
    method = HarmoDT(HarmoDTSettings(dropout=dropout), store, training)
    (objective,) = method.phases()[0].begin()
    return method, objective, training


def by_task(batch: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    return [{name: rows[batch["task"] == task] for name, rows in batch.items()} for task in range(TASKS)]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_harmodt_goskill(benchmark: Any, store: EpisodeStore, precision: str) -> None:
    if precision == "bfloat16" and not fast_at_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16 instructions")
    method, objective, _ = harmodt(store, dropout=0.0)
    batch = next(iter(objective.sampler))
    total, count = method._loss().errors(batch)
    expected = MaskedCopies(method.networks).losses(by_task(batch))
    np.testing.assert_allclose((total / count).detach().numpy(), expected, rtol=1e-4)
    method, objective, training = harmodt(store, 0.1, precision)
    timer = StepTimer(torch.device("cpu"))
    step = IterationStep([new_step(objective, training, timer)], choose_execution(training), timer)
    peer, batches = MaskedCopies(method.networks), by_task(batch)
    benchmark.group = "HarmoDT's step, 10 tasks of 8 contexts, 6 layers of 256"
    benchmark.extra_info.update(label=f"goskill {precision}")
    released, kept = "steps with masked copies, float32", "steps with masked copies, float32, memory kept"
    works = {name: lambda: peer.run(batches) for name in (released, kept)}

    def prepare(name: str) -> None:
        """Freed memory stays for the next step, as in a run of goskill; for the released way as for any program."""
        _core.keep_freed_memory(name != released)
        if name != released:  # a step that gets its pages
            works.get(name, ours)()

    def ours() -> None:
        step.run(0, 1)

    in_turn(benchmark, ours, works, rounds=7, prepare=prepare)


class Planning:
    """Fifty environments of ten tasks, each shown one of its task's four demonstrations."""

    def __init__(self, sampling_steps: int) -> None:
        torch.manual_seed(0)
        settings = MTDiffSettings(diffusion_steps=DIFFUSION_STEPS, sampling_steps=sampling_steps)
        self.networks = MTDiffNetworks(settings, Normalize(torch.zeros(39), torch.ones(39)), 4).eval()
        random = np.random.default_rng(0)
        self.tasks = [f"task-{index % TASKS}" for index in range(ENVIRONMENTS)]
        self.shown = {
            task: [
                Demonstration(
                    random.normal(size=(501, 39)).astype(np.float32),
                    random.uniform(-1, 1, (500, 4)).astype(np.float32),
                    random.uniform(0, 10, 500).astype(np.float32),
                )
                for _ in range(4)
            ]
            for task in self.tasks[:TASKS]
        }
        self.observations = random.normal(size=(2, ENVIRONMENTS, 39)).astype(np.float32)
        self.policy = MTDiffPolicy(self.networks)

    def begin(self) -> None:
        self.policy.reset(self.tasks, self.shown, seed=list(range(ENVIRONMENTS)))
        self.first = self.policy.act(self.observations[0])

    def plain(self) -> Any:
        """The arguments of the plain way at the second step, with the same prompts and noise."""
        chosen, noise, steps = (
            [],
            [],
            len(self.networks.diffusion.sampling_steps(self.networks.settings.sampling_steps)),
        )
        count = 1 if self.networks.settings.sampling_steps else steps
        for seed, task in enumerate(self.tasks):
            demonstrations = self.shown[task]
            chosen.append(demonstrations[int(np.random.default_rng(seed).integers(len(demonstrations)))])
            generator = np.random.default_rng(seed).spawn(1)[0]
            generator.standard_normal((count, 32, 4), dtype=np.float32)  # of the first step
            noise.append(generator.standard_normal((count, 32, 4), dtype=np.float32))
        best = [max(one.rewards.astype(np.float64).sum() for one in self.shown[task]) for task in self.tasks]
        return [
            self.networks,
            torch.from_numpy(np.stack([one.observations[-21:-1] for one in chosen])),
            torch.from_numpy(np.stack([one.actions[-20:] for one in chosen])),
            torch.from_numpy(self.observations.swapaxes(0, 1).copy()),
            torch.tensor(best, dtype=torch.float32)[:, None] / 500 / 10,
            torch.from_numpy(np.stack(noise)),
        ]


@pytest.fixture(scope="module", params=[0, 10], ids=["all steps", "DDIM of 10"])
def planning(request: pytest.FixtureRequest) -> Planning:
    return Planning(request.param)


def test_mtdiff_goskill(benchmark: Any, planning: Planning) -> None:
    planning.begin()
    arguments = planning.plain()
    acted = planning.policy.act(planning.observations[1])
    np.testing.assert_allclose(plain_mtdiff.plan(*arguments)[:, 0].numpy(), acted, rtol=0, atol=1e-3)
    steps = planning.networks.settings.sampling_steps
    way = f"DDIM of {steps} steps" if steps else f"{DIFFUSION_STEPS} steps"
    benchmark.group = f"MTDIFF-P: an action in {ENVIRONMENTS} environments, {way}"
    benchmark.extra_info.update(label="goskill")
    peers = {"the plain way": lambda: plain_mtdiff.plan(*arguments)}
    in_turn(benchmark, lambda: planning.policy.act(planning.observations[1]), peers, rounds=3)


@pytest.mark.parametrize("sampling_steps", [0, 50, 20, 10, 5])
def test_mtdiff_by_steps_goskill(benchmark: Any, sampling_steps: int) -> None:
    planning = Planning(sampling_steps)
    planning.begin()
    benchmark.group = f"MTDIFF-P: an action in {ENVIRONMENTS} environments, by the steps of sampling"
    way = f"DDIM of {sampling_steps} steps" if sampling_steps else f"all {DIFFUSION_STEPS} steps"
    benchmark.extra_info.update(label=f"goskill, {way}", threads=1)
    benchmark.pedantic(lambda: planning.policy.act(planning.observations[1]), rounds=3, iterations=1)
