"""Steps of Adam in one call are those of Adam written out, and those that PyTorch takes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from goskill.training import adam

SIZES = [
    (),
    (3,),
    (1, 1),
    (5, 7),
    (16,),
    (129,),
    (3, 70_001),
]  # around the widths of vectors, and of two parts
SETTINGS: dict[str, Any] = {"lr": 1e-2, "betas": (0.8, 0.95), "weight_decay": 0.1}
KINDS = [torch.optim.Adam, torch.optim.AdamW]


def parameters() -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(size, generator=random)) for size in SIZES]


def gradients(step: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(step)
    return [
        torch.randn(size, generator=random, dtype=torch.float32) * 10.0 ** (step % 4 - 2) for size in SIZES
    ]


def run(optimizer: torch.optim.Optimizer, trained: list[nn.Parameter], clip: float | None) -> list[Tensor]:
    """The norms of ten steps."""
    norms = []
    for step in range(10):
        for parameter, gradient in zip(trained, gradients(step), strict=True):
            parameter.grad = gradient
        norms.append(adam.step(optimizer, clip))
    return norms


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_adam_written_out(kind: Any, clip: float | None) -> None:
    """In float64; the clipping is that of ``clip_grad_norm_``."""
    own, exact = parameters(), [parameter.detach().double() for parameter in parameters()]
    first, second = [value * 0 for value in exact], [value * 0 for value in exact]
    norms = run(kind(own, **SETTINGS), own, clip)
    rate, (beta1, beta2), decay = SETTINGS["lr"], SETTINGS["betas"], SETTINGS["weight_decay"]
    for step in range(10):
        given = [gradient.double() for gradient in gradients(step)]
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in given))
        assert float(norms[step]) == pytest.approx(norm, rel=1e-6)
        scale = 1.0 if clip is None else min(1.0, clip / (norm + 1e-6))
        for index, gradient in enumerate(given):
            gradient = gradient * scale
            if kind is torch.optim.AdamW:
                exact[index] = exact[index] * (1 - rate * decay)
            else:
                gradient = gradient + decay * exact[index]
            first[index] = beta1 * first[index] + (1 - beta1) * gradient
            second[index] = beta2 * second[index] + (1 - beta2) * gradient.square()
            average = first[index] / (1 - beta1 ** (step + 1))
            spread = (second[index] / (1 - beta2 ** (step + 1))).sqrt() + 1e-8
            exact[index] = exact[index] - rate * average / spread
    for found, expected in zip(own, exact, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_the_other_optimiser_goes_on(kind: Any) -> None:
    """The state is PyTorch's: steps before and after these may be its own."""
    own, other = parameters(), parameters()
    optimizers = kind(own, **SETTINGS), kind(other, fused=True, **SETTINGS)
    for step in range(6):
        for trained in (own, other):
            for parameter, gradient in zip(trained, gradients(step), strict=True):
                parameter.grad = gradient.clone()
        optimizers[1].step()
        if step in (2, 3):
            optimizers[0].step()
        else:
            adam.step(optimizers[0], None)
    for found, expected in zip(own, other, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_threads_and_strides_of_gradients_change_nothing_and_gradients_stay() -> None:
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        trained = [
            nn.Parameter(torch.ones(70, 90_001)),
            nn.Parameter(torch.ones(5)),
            nn.Parameter(torch.ones(2)),
        ]
        optimizer = torch.optim.AdamW(trained, **SETTINGS)
        gradient = torch.randn(90_001, 70, generator=torch.Generator().manual_seed(0))
        wide, kept = gradient.T if threads == 1 else gradient.T.contiguous(), gradient.T.clone()
        trained[0].grad, trained[1].grad = wide, torch.ones(1).expand(5)
        norm = adam.step(optimizer, 0.5)
        assert torch.equal(trained[0].grad, kept)
        assert torch.equal(trained[2], torch.ones(2)), "a parameter without a gradient moved"
        results.append((norm, trained[0].detach(), trained[1].detach()))
    torch.set_num_threads(before)
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


def test_what_it_cannot_step_is_told_apart() -> None:
    assert adam.fits(parameters())
    assert not adam.fits([nn.Parameter(torch.ones(3, dtype=torch.float64))])
    assert not adam.fits([nn.Parameter(torch.ones(3, 2).T)])
    assert not adam.fits([nn.Parameter(torch.ones(3, device="meta"))])


def test_states_are_float32_whatever_the_default_and_versions_rise() -> None:
    trained = parameters()
    optimizer = torch.optim.Adam(trained, lr=1e-2)
    versions = [parameter._version for parameter in trained]
    torch.set_default_dtype(torch.float64)
    try:
        run(optimizer, trained, clip=None)
    finally:
        torch.set_default_dtype(torch.float32)
    for parameter, before in zip(trained, versions, strict=True):
        state = optimizer.state[parameter]
        assert (state["step"].dtype, float(state["step"])) == (torch.float32, 10.0)
        assert parameter._version > before
