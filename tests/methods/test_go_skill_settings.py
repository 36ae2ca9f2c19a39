"""Settings are refused by name, and survive JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from goskill.errors import InputError
from goskill.methods.go_skill import ABLATIONS, GoSkillSettings
from goskill.settings import from_mapping, to_mapping


@pytest.mark.parametrize(
    "wrong",
    [
        {"horizon": 0},
        {"codebook_size": -1},
        {"codebook": "vq"},
        {"codebook_decay": 1.0},
        {"commitment_weight": float("nan")},
        {"dropout": 1.0},
        {"return_scale": 0.0},
        {"focal_gamma": -1.0},
        {"decoder": "rnn"},
        {"table_std": 0.0},
        {"policy_every": 0},
        {"skill_noise": 1.0},
        {"skill_noise": 0.1, "codebook": "none"},
        {"goal_dimensions": ()},
        {"goal_dimensions": (1, 1)},
        {"goal_dimensions": (-1,)},
        {"decoder_heads": 7},
        {"policy_heads": 0},
        {"policy_loss": "mse"},
        {"action_loss": "max"},
        {"prompt_length": -1},
        {"multi_head_decoder": True, "codebook": "none"},
        {"policy_skill_input": "index", "codebook": "none"},
        {"reached_goal": True, "skill_source": "actions"},
        {"goal_dimensions": (0,), "skill_source": "actions", "reached_goal": False},
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(wrong))}: expected .*, got "):
        GoSkillSettings(**wrong)


def test_defaults_are_the_papers() -> None:
    settings = GoSkillSettings()
    assert (settings.horizon, settings.codebook_size, settings.embedding_size) == (10, 16, 64)
    assert (settings.context, settings.prompt_length, settings.policy_batch_per_task) == (20, 10, 8)
    assert (settings.extraction_iterations, settings.policy_iterations) == (30_000, 70_000)


@pytest.mark.parametrize("changes", [{}, {"goal_dimensions": (0, 1, 2)}, *ABLATIONS.values()])
def test_settings_survive_json(changes: dict[str, Any]) -> None:
    settings = dataclasses.replace(GoSkillSettings(), **changes)
    assert from_mapping(GoSkillSettings, to_mapping(settings), "method") == settings


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(InputError, match=r"method\.horizn.*horizon"):
        from_mapping(GoSkillSettings, {"horizn": 5}, "method")
