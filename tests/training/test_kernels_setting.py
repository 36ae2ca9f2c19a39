"""Where fused kernels train, and the working copies of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from goskill.errors import InputError
from goskill.training import TrainingSettings, devices
from goskill.training.devices import choose_execution
from goskill.training.working_weights import WorkingWeights


@pytest.mark.parametrize(
    ("changes", "fused"),
    [
        ({}, True),
        ({"kernels": "off"}, False),
        ({"compile": True}, False),
        ({"precision": "float32"}, False),
    ],
)
def test_kernels_run_in_bfloat16_on_a_gpu_unless_they_are_off(
    changes: dict[str, object], fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "choose_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    settings = TrainingSettings(**{"precision": "bfloat16", **changes})  # type: ignore[arg-type]
    execution = choose_execution(settings)
    assert execution.kernels is fused
    assert ("fused kernels" in str(execution)) is fused


def test_on_a_cpu_there_are_none() -> None:
    assert not choose_execution(TrainingSettings(device="cpu", precision="bfloat16")).kernels


def test_another_value_is_refused() -> None:
    with pytest.raises(InputError, match="kernels: expected one of auto, off, got 'on'"):
        TrainingSettings(kernels="on")


class Nets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.query_key_value, self.last = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 2)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.seen: dict[str, torch.dtype] = {}
        self.trained = (False, False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = {
            "norm": self.norm.weight.dtype,
            "product": self.query_key_value.weight.dtype,
            "float bias": self.query_key_value.bias.dtype,
            "bias": self.last.bias.dtype,
        }
        self.trained = (self.last.weight.requires_grad, self.frozen.weight.requires_grad)
        with torch.autocast("cpu", torch.bfloat16):
            result: torch.Tensor = self.last(self.query_key_value(self.norm(x)))
        return result


def test_linear_layers_see_bfloat16_and_their_parameters_get_gradients() -> None:
    """Those of autocast, which rounds the same weights."""
    torch.manual_seed(0)
    nets, x = Nets(), torch.randn(5, 4)
    nets(x).sum().backward()
    expected = {name: parameter.grad for name, parameter in nets.named_parameters()}
    assert set(nets.seen.values()) == {torch.float32}
    nets.zero_grad()
    output = WorkingWeights(nets)(x)
    output.sum().backward()
    assert nets.trained == (True, False)
    assert torch.equal(output, nets(x))
    assert nets.trained == (True, False)
    for name, parameter in nets.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)
        assert parameter.dtype == torch.float32
    WorkingWeights(nets)(x)
    assert nets.seen == {
        "norm": torch.float32,
        "product": torch.bfloat16,
        "float bias": torch.float32,
        "bias": torch.bfloat16,
    }
