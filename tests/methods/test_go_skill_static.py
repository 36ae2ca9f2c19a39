"""A training step never waits for its device and mixes no devices.

Meta tensors have shapes but no values: whatever looks at a value on the host, has a shape that depends on values,
or meets a tensor of another device, raises.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from small_store import ACTION, OBSERVATION, small_settings
from torch import Tensor

from goskill.methods.go_skill import ABLATIONS, GoSkillNetworks
from goskill.methods.go_skill.losses import PolicyLoss, SkillLoss
from goskill.models import Normalize

B, H, K, P, E = 6, 4, 5, 3, 8


def segments() -> dict[str, Tensor]:
    return {
        "observations": torch.empty(B, H + 1, OBSERVATION, device="meta"),
        "actions": torch.empty(B, H, ACTION, device="meta"),
        "mask": torch.empty(B, H, dtype=torch.bool, device="meta"),
        "task": torch.empty(B, dtype=torch.int64, device="meta"),
    }


def contexts(discrete: bool) -> dict[str, Tensor]:
    batch = {}
    for prefix, points in (("", K), ("prompt_", P)):
        skills = (
            torch.empty(B, points, dtype=torch.int64, device="meta")
            if discrete
            else torch.empty(B, points, E, device="meta")
        )
        batch |= {
            f"{prefix}observations": torch.empty(B, points, OBSERVATION, device="meta"),
            f"{prefix}returns_to_go": torch.empty(B, points, 1, device="meta"),
            f"{prefix}timesteps": torch.empty(B, points, dtype=torch.int64, device="meta"),
            f"{prefix}mask": torch.empty(B, points, dtype=torch.bool, device="meta"),
            f"{prefix}skills": skills,
        }
    return batch


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"multi_head_decoder": True},
        {"decoder": "mlp"},
        {"skill_noise": 0.3},
        {"codebook": "gradient"},
        {"policy_skill_input": "index"},
        *ABLATIONS.values(),
    ],
)
def test_steps_are_static_and_stay_on_the_device(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Autocast, which the operations switch off for themselves, does not know of meta tensors.
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **keywords: contextlib.nullcontext())
    settings = small_settings(**changes)
    networks = GoSkillNetworks(settings, Normalize(torch.zeros(OBSERVATION), torch.ones(OBSERVATION)), ACTION)
    if networks.codebook is not None:
        networks.codebook.codebook = torch.randn(5, E)
    networks.to("meta")
    for loss_module, batch in (
        (SkillLoss(networks, frozen=False), segments()),
        (SkillLoss(networks, frozen=True), segments()),
        (PolicyLoss(networks), contexts(settings.discrete)),
    ):
        loss, metrics = loss_module(batch)
        loss.backward()
        assert loss.is_meta
        assert all(metric.is_meta for metric in metrics.values())
        assert {name for name, metric in metrics.items() if metric.ndim} <= {"usage"}
