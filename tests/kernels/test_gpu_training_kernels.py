"""The operations of a fused transformer block, and training with them, on a real CUDA device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from goskill.models import CausalTransformer
from goskill.models.fused import fused_transformers, runs_fused
from goskill.ops import dropout_add_norm, linear_relu, packed_attention, philox

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

Run = Callable[..., Tensor]


def errors(run: Run, exact: Run, *inputs: Tensor) -> list[float]:
    """Relative distances from float64 of the output and of the gradients by all inputs."""
    results = []
    for function, given in ((run, inputs), (exact, [part.double() for part in inputs])):
        leaves = [part.detach().requires_grad_() for part in given]
        output = function(*leaves)
        torch.manual_seed(1)
        (output * torch.randn_like(output.float()).to(output.dtype)).sum().backward()
        results.append([output.detach(), *(leaf.grad for leaf in leaves)])
    return [
        float((ours.double() - truth).norm() / truth.norm().clamp(min=1e-30))
        for ours, truth in zip(*results, strict=True)
    ]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    ("batch", "length", "heads", "width"), [(800, 30, 8, 32), (400, 89, 8, 32), (3, 1, 2, 64)]
)
def test_attention_errs_no_more_than_the_plain_one(
    batch: int, length: int, heads: int, width: int, dropout: float
) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(batch, length, 3 * heads * width, device="cuda", dtype=torch.bfloat16)
    bias = torch.randn(3 * heads * width, device="cuda", dtype=torch.bfloat16)
    seed = torch.tensor([5], device="cuda")

    def run(impl: str) -> Run:
        return lambda x, b: packed_attention(x, heads, bias=b, dropout=dropout, seed=seed, impl=impl)  # type: ignore[arg-type]

    def plain(x: Tensor, b: Tensor) -> Tensor:
        parts = (x + b).view(batch, length, 3, heads, width).permute(2, 0, 3, 1, 4)
        scores = parts[0] @ parts[1].transpose(2, 3) / width**0.5
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future, -torch.inf).float().softmax(-1)
        weights = philox.dropout(weights, seed, philox.dropped_levels(dropout)).to(x.dtype)
        return (weights @ parts[2]).transpose(1, 2).reshape(batch, length, heads * width)

    ours, theirs = (
        errors(run("triton"), run("reference"), qkv, bias),
        errors(plain, run("reference"), qkv, bias),
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert mine <= 1.1 * other + 1e-4, (ours, theirs)


def test_the_residual_stream_errs_no_more_than_the_plain_one() -> None:
    torch.manual_seed(0)
    residual, branch = torch.randn(2, 24_001, 256, device="cuda", dtype=torch.bfloat16)
    weight, bias, branch_bias = torch.randn(3, 256, device="cuda", dtype=torch.bfloat16)
    seed = torch.tensor([5], device="cuda")

    def run(impl: str) -> Run:
        def both(*given: Tensor) -> Tensor:
            r, b, w, c, d = given
            parts = dropout_add_norm(r, b, w, c, branch_bias=d, dropout=0.1, seed=seed, impl=impl)  # type: ignore[arg-type]
            return torch.cat(parts)

        return both

    def plain(r: Tensor, b: Tensor, w: Tensor, c: Tensor, d: Tensor) -> Tensor:
        total = r + philox.dropout(b + d, seed, philox.dropped_levels(0.1))
        return torch.cat([total, F.layer_norm(total, (256,), w, c)])

    given = (residual, branch, weight, bias, branch_bias)
    ours, theirs = errors(run("triton"), run("reference"), *given), errors(plain, run("reference"), *given)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine <= 1.1 * other + 1e-4, (ours, theirs)


def test_linear_relu_errs_no_more_than_the_plain_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(5000, 256, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(1024, 256, device="cuda", dtype=torch.bfloat16) / 16
    bias = torch.randn(1024, device="cuda", dtype=torch.bfloat16)

    def plain(*given: Tensor) -> Tensor:
        return F.relu(F.linear(*given))

    ours = errors(lambda *given: linear_relu(*given, impl="triton"), plain, x, weight, bias)
    theirs = errors(plain, plain, x, weight, bias)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine <= 1.1 * other + 1e-4, (ours, theirs)


def test_elements_that_stay_are_those_of_the_reference() -> None:
    branch = torch.ones(1003, 256, device="cuda", dtype=torch.bfloat16)
    ones, seed = torch.ones(256, device="cuda"), philox.draw_seeds(1, branch.device)
    total, _ = dropout_add_norm(None, branch, ones, ones, dropout=0.1, seed=seed, impl="triton")
    assert torch.equal(total != 0, philox.kept(seed, 1003, 256, philox.dropped_levels(0.1)))


def test_each_replay_of_a_graph_drops_others() -> None:
    torch.manual_seed(0)
    model = CausalTransformer(width=64, layers=2, heads=2, dropout=0.3).cuda()
    tokens = torch.randn(4, 30, 64, device="cuda")
    with torch.autocast("cuda", torch.bfloat16), fused_transformers():
        assert runs_fused(model, tokens)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            model(tokens).float().sum().backward()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            output = model(tokens)
    graph.replay()
    first = output.clone()
    graph.replay()
    assert not torch.equal(output, first)


def test_a_training_falls_as_without_fused_kernels() -> None:
    """Losses of a short training, with dropout: in the band of stock runs that draw other dropout."""

    def curve(fused: bool, seed: int) -> float:
        torch.manual_seed(11)
        model = CausalTransformer(width=64, layers=2, heads=2, dropout=0.1).cuda()
        head, mix = torch.nn.Linear(64, 64).cuda(), torch.randn(64, 64, device="cuda") / 17
        optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=5e-3)
        data = torch.Generator("cuda").manual_seed(4)
        torch.manual_seed(seed)
        losses = []
        for _ in range(150):
            tokens = torch.randn(64, 30, 64, generator=data, device="cuda")
            with torch.autocast("cuda", torch.bfloat16), fused_transformers(fused):
                predicted = head(model(tokens)).float()
            loss = F.mse_loss(predicted, tokens.cumsum(1) @ mix)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return float(torch.stack(losses[-30:]).mean())

    band = torch.tensor([curve(False, seed) for seed in range(4)])
    ours = torch.tensor([curve(True, seed) for seed in range(4)])
    assert (ours.mean() - band.mean()).abs() < 4 * band.std() + 0.01 * band.mean()
