"""A meta-training step of SiMPL over 20 tasks as one batch, beside a loop that adds up gradients task by task.

Gradients are compared before anything is timed. Both are timed in turn, in float32 on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from goskill.methods.simpl import MetaAgent, MetaLoss, SiMPLSettings
from goskill.methods.skill_rl import SkillModel
from goskill.models import Normalize

TASKS, TURNS = 20, 5
OBSERVATION, ACTION = 4, 2
SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "width": 64,
        "embedding_dim": 5,
        "encoder_width": 32,
        "encoder_points": 8,
        "batch_size": 32,
        "large_context": 64,
    },
    "as the preset maze": {"width": 128, "embedding_dim": 5, "batch_size": 128, "large_context": 1024},
    "networks as the paper's": {"large_context": 1024},
}


def agent_of(settings: SiMPLSettings) -> MetaAgent:
    torch.manual_seed(0)
    skills = SkillModel(settings, Normalize(torch.zeros(OBSERVATION), torch.ones(OBSERVATION)), ACTION)
    return MetaAgent(settings, skills)


def decisions(settings: SiMPLSettings, tasks: int, count: int) -> dict[str, torch.Tensor]:
    return {
        "observations": torch.randn(tasks, count, OBSERVATION),
        "next_observations": torch.randn(tasks, count, OBSERVATION),
        "actions": torch.randn(tasks, count, settings.skill_dim),
        "rewards": torch.rand(tasks, count),
        "terminated": torch.rand(tasks, count) < 0.1,
        "discount": torch.full((tasks, count), 0.99),
    }


def batch_of(settings: SiMPLSettings) -> dict[str, torch.Tensor]:
    """All tasks have large contexts, so that each task alone is a batch of the same kind."""
    large = decisions(settings, TASKS, settings.large_context)
    return {
        **decisions(settings, TASKS, settings.batch_size),
        **{f"large_{name}": value for name, value in large.items()},
    }


def one_batch(agent: MetaAgent, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    loss = MetaLoss(agent)

    def step() -> None:
        agent.zero_grad()
        loss(batch)[0].backward()

    return step


def task_by_task(agent: MetaAgent, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    whole, loss = agent.settings, MetaLoss(agent)

    def step() -> None:
        agent.zero_grad()
        agent.settings = replace(whole, tasks_per_step=1)
        for task in range(TASKS):
            own = {name: value[task : task + 1] for name, value in batch.items()}
            (loss(own)[0] / TASKS).backward()
        agent.settings = whole

    return step


def gradients(agent: MetaAgent, step: Callable[[], None]) -> list[torch.Tensor]:
    """Without noise in skills and embeddings, so that both ways draw the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", torch.zeros_like)
        step()
    return [one.grad.clone() for one in agent.parameters() if one.grad is not None]


@pytest.mark.parametrize("sizes", SIZES)
def test_a_meta_training_step(benchmark: Any, sizes: str) -> None:
    benchmark.group = f"meta-training step of {TASKS} tasks, {sizes}"
    torch.set_num_threads(1)
    settings = SiMPLSettings(small_tasks=0, tasks_per_step=TASKS, **SIZES[sizes])
    agent, batch = agent_of(settings), batch_of(settings)
    ours, loop = one_batch(agent, batch), task_by_task(agent, batch)
    for one, other in zip(gradients(agent, ours), gradients(agent, loop), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    seconds: dict[str, list[float]] = {"batch": [], "loop": []}
    for _ in range(TURNS):
        for name, step in (("batch", ours), ("loop", loop)):
            begin = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begin)
    both = {name: float(np.median(taken)) for name, taken in seconds.items()}
    benchmark.extra_info["seconds"] = {name: round(value, 4) for name, value in both.items()}
    benchmark.extra_info["loop_over_batch"] = round(both["loop"] / both["batch"], 2)
    benchmark.extra_info["threads"] = 1
    benchmark.pedantic(ours, rounds=3)
