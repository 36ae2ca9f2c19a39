"""A meta-training step of SiMPL over 20 tasks as one batch, beside loops that add up gradients task by task.

One loop has the same networks; the other has attention as it is usually written, which multiplies weights with all
decisions of a context. Gradients are compared before anything is timed. All are timed in turn on one thread, by the
processor's time, which other programs disturb less than a clock; loops in float32, the batch in bfloat16 as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from goskill.methods.simpl import MetaAgent, MetaLoss, SiMPLSettings
from goskill.methods.skill_rl import SkillModel
from goskill.models import Normalize
from goskill.models.set_transformer import AttentionBlock, Rows

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


def one_batch(
    agent: MetaAgent, batch: dict[str, torch.Tensor], *, bfloat16: bool = False
) -> Callable[[], None]:
    loss = MetaLoss(agent)

    def step() -> None:
        agent.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, bfloat16):
            found = loss(batch)[0]
        found.backward()

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


def plain(block: AttentionBlock, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Queries, keys and values of every row."""
    parts = (block.query(x), *block.key_value(y).chunk(2, -1))
    query, key, value = (one.unflatten(-1, (block.heads, -1)).transpose(1, 2) for one in parts)
    seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    return block._after(x + block.mixed(seen))


def with_plain_attention(step: Callable[[], None]) -> Callable[[], None]:
    def few(block: AttentionBlock, x: torch.Tensor, y: Rows) -> torch.Tensor:
        return plain(block, x, y.value)

    def many(block: AttentionBlock, x: Rows, y: torch.Tensor) -> torch.Tensor:
        return plain(block, x.value, y)

    def patched() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AttentionBlock, "few", few)
            patch.setattr(AttentionBlock, "many", many)
            step()

    return patched


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
    loop = task_by_task(agent, batch)
    ways = {"batch": one_batch(agent, batch), "loop": loop, "plain loop": with_plain_attention(loop)}
    expected, *others = (gradients(agent, step) for step in ways.values())
    for found in others:
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    half = one_batch(agent, batch, bfloat16=True)
    apart = torch.cat(
        [(one - other).flatten() for one, other in zip(gradients(agent, half), expected, strict=True)]
    )
    assert apart.norm() < 0.03 * torch.cat([one.flatten() for one in expected]).norm()
    ways["batch, bfloat16"] = half
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, step in ways.items():
            begin = time.process_time()
            step()
            seconds[name].append(time.process_time() - begin)
    both = {name: float(np.median(taken)) for name, taken in seconds.items()}
    benchmark.extra_info["seconds"] = {name: round(value, 4) for name, value in both.items()}
    for name in ("batch", "batch, bfloat16"):
        over = name.replace(", ", "_")
        benchmark.extra_info[f"loop_over_{over}"] = round(both["loop"] / both[name], 2)
        benchmark.extra_info[f"plain_loop_over_{over}"] = round(both["plain loop"] / both[name], 2)
    benchmark.extra_info["clock"] = "processor time"
    benchmark.extra_info["threads"] = 1
    benchmark.pedantic(ways["batch"], rounds=3)
