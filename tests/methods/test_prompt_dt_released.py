"""Prompt-DT state dicts as the released code saves them, beside a plain forward of the released formulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_store import episode
from test_go_skill_released import (
    ACTION,
    CONTEXT,
    HEADS,
    LAYERS,
    OBSERVATION,
    PROMPT,
    TIMES,
    WIDTH,
    State,
    apply_gpt2,
    apply_linear,
    apply_norm,
    gpt2,
    linear,
    norm,
    without,
)
from torch import Tensor

from goskill.errors import CheckpointError, InputError
from goskill.methods.prompt_dt import PromptDTPolicy, load_released
from goskill.models import Decisions, Normalize

TASKS = ("reach", "push", "door-open")


def model(multi_head: bool = False) -> State:
    torch.manual_seed(2)
    state: State = {}
    gpt2(state, "transformer")
    for prefix in ("", "prompt_"):
        state[f"{prefix}embed_timestep.weight"] = torch.randn(TIMES, WIDTH)
        linear(state, f"{prefix}embed_return", 1, WIDTH)
        linear(state, f"{prefix}embed_state", OBSERVATION, WIDTH)
        linear(state, f"{prefix}embed_action", ACTION, WIDTH)
    norm(state, "embed_ln")
    for head in range(len(TASKS)) if multi_head else ():
        linear(state, f"predict_action.{head}.0", WIDTH, ACTION)
    if not multi_head:
        linear(state, "predict_action.0", WIDTH, ACTION)
    return state


def released_actions(state: State, prompt: Decisions | None, history: Decisions, task: Tensor) -> Tensor:
    """Every token is padded on the left and masked; each head is computed for all rows; float64."""
    state = {name: value.double() for name, value in state.items()}
    parts, masks = [], []
    for prefix, rows in (("prompt_", prompt), ("", history)):
        if rows is None:
            continue
        tokens = torch.stack(
            [
                apply_linear(state, f"{prefix}embed_return", rows.returns_to_go.double()),
                apply_linear(state, f"{prefix}embed_state", rows.observations.double()),
                apply_linear(state, f"{prefix}embed_action", rows.choices.double()),
            ],
            2,
        )
        tokens = (tokens + state[f"{prefix}embed_timestep.weight"][rows.timesteps][:, :, None]).flatten(1, 2)
        parts.append(tokens if prefix else apply_norm(state, "embed_ln", tokens))
        assert rows.mask is not None
        masks.append(rows.mask.repeat_interleave(3, 1))
    hidden = apply_gpt2(state, "transformer", torch.cat(parts, 1), torch.cat(masks, 1))
    hidden = hidden[:, -3 * CONTEXT :][:, 1::3]
    if "predict_action.0.weight" in state:
        return apply_linear(state, "predict_action.0", hidden).tanh()
    every = torch.stack(
        [apply_linear(state, f"predict_action.{head}.0", hidden) for head in range(len(TASKS))]
    )
    return every.tanh()[task, torch.arange(len(task))]


def rows(length: int, padded: list[int], seed: int) -> Decisions:
    generator = torch.Generator().manual_seed(seed)
    batch = len(padded)
    mask = torch.arange(length) >= torch.tensor(padded)[:, None]

    def random(size: int) -> Tensor:
        return torch.randn(batch, length, size, generator=generator) * mask[..., None]

    times = torch.randint(TIMES, (batch, length), generator=generator) * mask
    return Decisions(random(1), random(OBSERVATION), random(ACTION).tanh(), times, mask)


def load(path: Path, state: State, **arguments: Any) -> Any:
    torch.save(state, path / "model.pt")
    arguments = {"heads": HEADS, "context": CONTEXT, "prompt_length": PROMPT, **arguments}
    return load_released(path / "model.pt", **arguments)


@pytest.mark.parametrize("multi_head", [False, True])
@pytest.mark.parametrize("prompted", [True, False])
def test_actions_equal_the_released_formulation(tmp_path: Path, multi_head: bool, prompted: bool) -> None:
    state = model(multi_head)
    tasks = TASKS if multi_head else ()
    networks = load(tmp_path, state, tasks=tasks, prompt_length=PROMPT if prompted else 0)
    assert not networks.training
    history, prompt = rows(CONTEXT, [0, 1, 4, 2], 0), rows(PROMPT, [0, 0, 1, 2], 1) if prompted else None
    task = torch.tensor([2, 0, 1, 2])
    expected = released_actions(state, prompt, history, task)
    actions = networks.policy(history, prompt, task)
    torch.testing.assert_close(actions[history.mask].double(), expected[history.mask], rtol=0, atol=1e-5)


def test_settings_are_read_from_the_shapes(tmp_path: Path) -> None:
    settings = load(tmp_path, model(multi_head=True), tasks=TASKS).settings
    assert (settings.width, settings.layers, settings.max_decisions) == (WIDTH, LAYERS, TIMES)
    assert (settings.multi_head, settings.tasks) == (True, TASKS)


def test_released_networks_act(tmp_path: Path) -> None:
    normalize = Normalize(torch.ones(OBSERVATION), torch.full((OBSERVATION,), 2.0))
    networks = load(tmp_path, model(multi_head=True), tasks=TASKS, normalize=normalize)
    assert torch.equal(networks.normalize.mean, torch.ones(OBSERVATION))
    one = episode(0, 20, 0.0)
    wide = np.zeros((21, OBSERVATION), dtype=np.float32)
    shown = type(one)(wide, np.zeros((20, ACTION), dtype=np.float32), one.rewards)
    policy = PromptDTPolicy(networks)
    policy.reset(["push"], {"push": [shown]})
    assert policy.act(np.zeros((1, OBSERVATION), dtype=np.float32)).shape == (1, ACTION)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without(model(), "embed_action.bias"), "model.pt: key embed_action.bias is missing"),
        (without(model(), "embed_return.weight"), "policies without return-to-go"),
        ({**model(), "surprise": torch.ones(1)}, "model.pt: key surprise is unknown"),
        (
            {**model(), "predict_action.0.weight": torch.ones(ACTION + 1, WIDTH)},
            r"model.pt does not fit: .*action_head.weight: expected \(3, 16\), got \(4, 16\)",
        ),
    ],
)
def test_what_does_not_fit_is_named_by_key(tmp_path: Path, state: State, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path, state)


def test_tasks_must_be_as_many_as_heads(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tasks: expected 3 names, one for each head .*, got 0"):
        load(tmp_path, model(multi_head=True))
    with pytest.raises(InputError, match="tasks: expected 0 names"):
        load(tmp_path, model(), tasks=TASKS)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": Payload()}, tmp_path / "payload.pt")
    with pytest.raises(CheckpointError, match=r"payload\.pt cannot be read"):
        load_released(tmp_path / "payload.pt")
    assert not (tmp_path / "ran").exists()
