"""Perceptrons side by side against a loop over them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from goskill.models import EnsembleMLP


def looped(module: EnsembleMLP, member: int, x: Tensor) -> Tensor:
    """One member's outputs in float64."""
    *hidden, last = module.layers
    for layer in hidden:
        x = (x @ layer.weight[member].double() + layer.bias[member].double()).clamp(min=0)
    return x @ last.weight[member].double() + last.bias[member].double()


@pytest.mark.parametrize("outputs", [1, 4, 8, 9])
@pytest.mark.parametrize("members", [1, 3])
def test_members_and_their_gradients_are_those_of_a_loop(members: int, outputs: int) -> None:
    torch.manual_seed(0)
    module = EnsembleMLP(members, [7, 32, 16, outputs])
    x = torch.randn(members, 33, 7, requires_grad=True)
    weights = torch.randn(members, 33, outputs)
    exact = torch.stack([looped(module, member, x[member].double()) for member in range(members)])
    found = module(x)
    wanted = (x, *module.parameters())
    expected = torch.autograd.grad((exact * weights).sum(), wanted)
    torch.testing.assert_close(found, exact.float(), rtol=1e-5, atol=1e-6)
    for own, other in zip(torch.autograd.grad((found * weights).sum(), wanted), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module(x[:1]), found[:1])


@pytest.mark.parametrize("outputs", [1, 4])
def test_bfloat16_is_as_near_as_its_rounding(outputs: int) -> None:
    torch.manual_seed(0)
    module, x = EnsembleMLP(2, [7, 64, outputs]), torch.randn(2, 40, 7)
    exact = torch.stack([looped(module, member, x[member].double()) for member in range(2)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2e-2, atol=2e-2)


def test_members_learn_under_vmap() -> None:
    """As gradient surgery needs it: the gradient of each task's rows on its own."""
    torch.manual_seed(0)
    module, x = EnsembleMLP(1, [7, 16, 1]), torch.randn(5, 1, 8, 7)
    weights = {name: value.detach() for name, value in module.named_parameters()}

    def loss(parameters: dict[str, Tensor], rows: Tensor) -> Tensor:
        return torch.func.functional_call(module, parameters, (rows,)).square().mean()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)
    for task in range(5):
        module.zero_grad()
        module(x[task]).square().mean().backward()
        for name, value in module.named_parameters():
            torch.testing.assert_close(found[name][task], value.grad)
