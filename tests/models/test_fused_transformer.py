"""The fused pass of the transformer: its arithmetic in plain PyTorch on the CPU, and what its kernels move."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_transformer import plain_forward
from torch import Tensor

from goskill.bench.traffic import Traffic
from goskill.models import CausalTransformer
from goskill.models.fused import fused_forward, fused_transformers, runs_fused
from goskill.training.working_weights import WorkingWeights

EVERYTHING = slice(None)
Pass = Callable[[CausalTransformer, Tensor], Tensor]


def fused(model: CausalTransformer, tokens: Tensor) -> Tensor:
    return fused_forward(model, tokens, EVERYTHING, impl="reference")


def autocast(model: CausalTransformer, tokens: Tensor) -> Tensor:
    """The residual stream in float32."""
    with torch.autocast("cpu", torch.bfloat16):
        return model(tokens)


def all_bfloat16(model: CausalTransformer, tokens: Tensor) -> Tensor:
    parameters = {name: parameter.bfloat16() for name, parameter in model.named_parameters()}
    return torch.func.functional_call(model, parameters, (tokens.bfloat16(),))


def new_model(dropout: float = 0.0) -> CausalTransformer:
    model = CausalTransformer(width=64, layers=3, heads=4, dropout=dropout)
    for parameter in model.parameters():  # the initial biases are zero and would hide mistakes
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def distance(ours: Tensor, truth: Tensor) -> float:
    return float((ours.double() - truth).norm() / truth.norm())


def test_the_error_is_that_of_bfloat16() -> None:
    """Against float64: outputs and all gradients are nearer than those of the stock pass in bfloat16, and not much
    farther than those of autocast, whose residual stream is float32."""
    torch.manual_seed(0)
    model, tokens, weights = new_model(), torch.randn(4, 30, 64), torch.randn(4, 30, 64)
    exact = {name: value.double().requires_grad_() for name, value in model.state_dict().items()}
    twin = CausalTransformer(width=64, layers=3, heads=4, dropout=0.0).double()
    twin.load_state_dict(exact)
    truth = twin(tokens.double())
    torch.testing.assert_close(truth, plain_forward(model, tokens))
    (truth * weights).sum().backward()
    slopes = {name: parameter.grad for name, parameter in twin.named_parameters()}

    errors: dict[str, dict[str, float]] = {}
    for run in (fused, autocast, all_bfloat16):
        model.zero_grad()
        output = run(model, tokens)
        (output.float() * weights).sum().backward()
        errors[run.__name__] = {"output": distance(output.detach(), truth.detach())}
        for name, parameter in model.named_parameters():
            # Key biases have no gradient but rounding.
            ours, slope = parameter.grad, slopes[name]
            assert ours is not None
            assert slope is not None
            if name.endswith("query_key_value.bias"):
                ours, slope = (torch.cat([part[:64], part[128:]]) for part in (ours, slope))
            errors[run.__name__][name] = distance(ours, slope)
    for name, error in errors["fused"].items():
        assert error <= 1.5 * errors["all_bfloat16"][name] + 4e-3, name
        assert error <= 2.5 * errors["autocast"][name] + 4e-3, name
    assert mean_error(errors["fused"]) <= 1.05 * mean_error(errors["all_bfloat16"])


def mean_error(errors: dict[str, float]) -> float:
    return sum(errors.values()) / len(errors)


@pytest.mark.parametrize("read", [slice(1, None, 3), slice(-1, None)])
def test_positions_that_are_not_read_change_nothing(read: slice) -> None:
    model, tokens = new_model().eval(), torch.randn(2, 17, 64)
    torch.testing.assert_close(
        fused_forward(model, tokens, read, impl="reference"), fused(model, tokens)[:, read]
    )


def test_dropout_follows_the_default_generator_and_the_mode() -> None:
    model, tokens = new_model(dropout=0.3), torch.randn(2, 17, 64)
    torch.manual_seed(5)
    first, second = fused(model, tokens), fused(model, tokens)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(fused(model, tokens), first)
    state = torch.get_rng_state()
    assert torch.equal(fused(model.eval(), tokens), fused(model, tokens))
    assert torch.equal(torch.get_rng_state(), state)


def curve(run: Pass, seed: int) -> float:
    """Mean loss of the last iterations of a short training with dropout: tokens are to be added up and mixed."""
    torch.manual_seed(11)
    model = CausalTransformer(width=32, layers=2, heads=2, dropout=0.1)
    head, mix = torch.nn.Linear(32, 32), torch.randn(32, 32) / 12
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-2)
    data = torch.Generator().manual_seed(4)
    torch.manual_seed(seed)
    losses = []
    for _ in range(50):
        tokens = torch.randn(16, 10, 32, generator=data)
        target = tokens.cumsum(1) @ mix
        loss = F.mse_loss(head(run(model, tokens).float()), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10


def test_losses_fall_within_the_band_of_float32() -> None:
    """The band: how much runs in float32 differ that draw other dropout."""
    band = torch.tensor([curve(lambda model, tokens: model(tokens), seed) for seed in range(3)])
    ours = torch.tensor([curve(fused, seed) for seed in range(2)])
    assert band.mean() < 0.8  # of the targets' variance of 1.2: something is learnt
    assert (ours.mean() - band.mean()).abs() < 4 * band.std()


def test_it_runs_where_it_is_wanted_and_fits_only() -> None:
    model, tokens = new_model(), torch.randn(1, 4, 64)
    assert not runs_fused(model, tokens)
    with fused_transformers():
        assert not runs_fused(model, tokens)  # not on a CPU


SEQUENCES = {"decoder": (800, 30, slice(2, None, 3), 2.6), "policy": (400, 89, slice(1, None, 3), 3.9)}


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_pass_moves_few_bytes_in_few_operations(name: str) -> None:
    """Forward and backward at MT50 shapes, counted on tensors without values; matrix products not counted."""
    batch, length, read, most = SEQUENCES[name]
    with torch.device("meta"):
        model = CausalTransformer(width=256, layers=6, heads=8, dropout=0.1)
        tokens = torch.randn(batch, length, 256, requires_grad=True)

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = model

        def forward(self, given: Tensor) -> Tensor:
            return fused_forward(self.transformer, given, read, impl="triton")

    with Traffic() as moved:
        WorkingWeights(Loss())(tokens).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert moved.bytes["rest"] < most * 1e9, moved.summary()
    assert moved.bytes["attention"] < 0.52 * most * 1e9, moved.summary()
    assert sum(moved.calls.values()) <= 190, moved.summary()
