"""HarmoDT files as the released trainer saves them, beside a plain forward of the released formulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_go_skill_released import ACTION, CONTEXT, HEADS, OBSERVATION, PROMPT, WIDTH, State, linear
from test_prompt_dt_released import model, released_actions, rows
from torch import Tensor

from goskill.errors import CheckpointError, InputError
from goskill.methods.harmodt import HarmoDTPolicy, load_released, load_released_task

TASKS = ("reach-v2", "push-v2")
OPTIONS: Any = {"heads": HEADS, "context": CONTEXT, "prompt_length": PROMPT}
NORM = "transformer.h.0.ln_1.weight"


def released(hidden: str | None = None) -> dict[str, Any]:
    """Masks are random on all matrices, also those that the release never applies; ``hidden`` loses an entry."""
    state = model()
    for name, inputs, outputs in (
        ("predict_return", WIDTH, 1),
        ("predict_state", WIDTH, OBSERVATION),
        ("prompt_predict_action", ACTION, WIDTH),
    ):
        linear(state, name, inputs, outputs)
    masks: dict[str, State] = {}
    buffers = ("attn.bias", "masked_bias")
    for task in TASKS:
        masks[task] = {
            name: (torch.rand(value.shape) < 0.8).float() if value.ndim > 1 else torch.ones_like(value)
            for name, value in state.items()
            if not name.endswith(buffers)
        }
    if hidden is not None:
        masks[TASKS[1]][hidden][0] = 0
    return {"model": state, "env_masks": masks}


def expected(content: dict[str, Any], task: str) -> Tensor:
    masks = content["env_masks"][task]
    state = {
        name: value * masks[name]
        if name in masks and "embed" not in name and "predict" not in name
        else value
        for name, value in content["model"].items()
    }
    return released_actions(state, PROMPTS, HISTORY, torch.zeros(4, dtype=torch.int64))


HISTORY, PROMPTS = rows(CONTEXT, [0, 1, 4, 2], 0), rows(PROMPT, [0, 0, 1, 2], 1)


def write(path: Path, content: Any) -> Path:
    torch.save(content, path / "model_iter_1")
    return path / "model_iter_1"


def test_every_task_acts_as_in_the_released_formulation(tmp_path: Path) -> None:
    content = released()
    networks = load_released(write(tmp_path, content), **OPTIONS)
    assert networks.settings.tasks == TASKS
    assert HarmoDTPolicy(networks).name == "HarmoDT"
    for task in TASKS:
        actions = networks.of_task(task).policy(HISTORY, PROMPTS)
        wanted = expected(content, task)
        torch.testing.assert_close(actions[HISTORY.mask].double(), wanted[HISTORY.mask], rtol=0, atol=1e-5)


def test_a_file_whose_masks_hide_a_norm_loads_for_a_task_alone(tmp_path: Path) -> None:
    content = released(hidden=NORM)
    file = write(tmp_path, content)
    with pytest.raises(
        CheckpointError, match=f"env_masks: push-v2: hides entries of {NORM}, .*load_released_task"
    ):
        load_released(file, **OPTIONS)
    actions = load_released_task(file, "push-v2", **OPTIONS).policy(HISTORY, PROMPTS)
    wanted = expected(content, "push-v2")
    torch.testing.assert_close(actions[HISTORY.mask].double(), wanted[HISTORY.mask], rtol=0, atol=1e-5)
    with pytest.raises(InputError, match=r"task: expected one with a mask, got 'psh-v2'.*push-v2"):
        load_released_task(file, "psh-v2", **OPTIONS)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    content = released()
    with pytest.raises(CheckpointError, match="expected model and env_masks"):
        load_released(write(tmp_path, content["model"]), **OPTIONS)
    with pytest.raises(CheckpointError, match="env_masks: expected masks by task and parameter"):
        load_released(write(tmp_path, content | {"env_masks": {"reach-v2": 1}}), **OPTIONS)
    name = "transformer.h.0.attn.c_attn.weight"
    cut = {"reach-v2": content["env_masks"]["reach-v2"] | {name: torch.ones(1)}}
    with pytest.raises(
        CheckpointError, match=rf"reach-v2: {name}: expected the shape of a parameter, got \(1,\)"
    ):
        load_released(write(tmp_path, content | {"env_masks": cut}), **OPTIONS)
    extra = content["model"] | {"surprise": torch.ones(1)}
    with pytest.raises(CheckpointError, match="key surprise is unknown"):
        load_released(write(tmp_path, content | {"model": extra}), **OPTIONS)
