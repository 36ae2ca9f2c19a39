"""HarmoDT's training step of ten tasks at the paper's sizes, beside a loop over masked copies as released."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from goskill.bench.peers.harmodt import MaskedCopies
from goskill.bench.training import new_step
from goskill.data import EpisodeStore, StoreWriter
from goskill.methods.harmodt import HarmoDT, HarmoDTSettings
from goskill.training import TrainingSettings
from goskill.training.devices import choose_execution, fast_at_bfloat16
from goskill.training.memory import kept_memory
from goskill.training.step import IterationStep
from goskill.training.timing import StepTimer

TASKS = 10
HARMODT = "HarmoDT's step, 10 tasks of 8 contexts, 6 layers of 256"


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


def test_harmodt_masked_copies_float32(benchmark: Any, store: EpisodeStore) -> None:
    method, objective, _ = harmodt(store, dropout=0.0)
    batch = next(iter(objective.sampler))
    batch = {name: rows.float() if rows.is_floating_point() else rows for name, rows in batch.items()}
    total, count = method._loss().errors(batch)
    expected = MaskedCopies(method.networks).losses(by_task(batch))
    np.testing.assert_allclose((total / count).detach().numpy(), expected, rtol=1e-4)
    method, objective, _ = harmodt(store, dropout=0.1)
    peer, batches = MaskedCopies(method.networks), by_task(batch)
    benchmark.group = HARMODT
    benchmark.extra_info.update(peer=True, label="a loop over masked copies, float32")
    with kept_memory():
        benchmark.pedantic(lambda: peer.run(batches), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_harmodt_goskill(benchmark: Any, store: EpisodeStore, precision: str) -> None:
    if precision == "bfloat16" and not fast_at_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16 instructions")
    _, objective, training = harmodt(store, 0.1, precision)
    timer = StepTimer(torch.device("cpu"))
    step = IterationStep([new_step(objective, training, timer)], choose_execution(training), timer)
    benchmark.group = HARMODT
    benchmark.extra_info.update(label=f"goskill {precision}")
    with kept_memory():
        benchmark.pedantic(lambda: step.run(0, 1), rounds=5, warmup_rounds=1)
