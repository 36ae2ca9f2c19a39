"""Derivatives beyond the first gradient: each is right or refused, whatever implementation runs.

``python tests/ops/test_derivatives.py`` holds the loss to torch's own samples of cross-entropy as well.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from goskill import ops
from goskill.errors import InputError

ROWS, CLASSES = 7, 5
Sample = tuple[Tensor, Tensor, dict[str, Any]]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


TARGET = torch.tensor([0, 4, 1, -100, 2, 2, 3])


def plain_focal(logits: Tensor, gamma: float, weight: Tensor | None = None) -> Tensor:
    """The formula in float64, summed over the rows that count."""
    kept = TARGET >= 0
    log_p = torch.log_softmax(logits.double(), -1)[kept].gather(1, TARGET[kept, None]).squeeze(1)
    scale = 1.0 if weight is None else weight.double()[TARGET[kept]]
    return -(scale * (1 - log_p.exp()) ** gamma * log_p).sum()


def focal(logits: Tensor, gamma: float, **options: Any) -> Tensor:
    return ops.focal_loss(logits, TARGET, gamma=gamma, reduction="sum", **options)


def plain_quantize(x: Tensor, codebook: Tensor) -> Tensor:
    """A function of what ``vector_quantize`` returns with mode gradient, from the definition."""
    index = (x[:, None] - codebook).square().sum(-1).argmin(-1)
    codes = codebook[index]
    quantized = x + (codes - x).detach()
    loss = 0.3 * (x - codes.detach()).square().mean() + 0.7 * (x.detach() - codes).square().mean()
    return (quantized**3).sum() * loss


def quantize(x: Tensor, codebook: Tensor, **options: Any) -> Tensor:
    quantized, _, loss = ops.vector_quantize(
        x, codebook, mode="gradient", commitment_weight=0.3, codebook_weight=0.7, **options
    )
    return (quantized**3).sum() * loss


def second(function: Any, *inputs: Tensor) -> list[Tensor]:
    """The gradient of a weighted sum of the gradient, in float64."""
    leaves = [one.detach().clone().requires_grad_() for one in inputs]
    gradients = torch.autograd.grad(function(*leaves), leaves, create_graph=True)
    total = sum((g.double() * normal(*g.shape, seed=9).double()).sum() for g in gradients)
    return [one.double() for one in torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_second_derivatives_of_focal_loss(gamma: float) -> None:
    logits = normal(ROWS, CLASSES)
    expected = second(lambda x: plain_focal(x, gamma), logits.double())
    for impl in ("auto", "cpp", "reference"):
        found = second(lambda x, impl=impl: focal(x, gamma, impl=impl), logits)
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-5)


def test_second_derivatives_of_vector_quantize() -> None:
    x, codebook = normal(9, 3), normal(4, 3, seed=1)
    expected = second(plain_quantize, x.double(), codebook.double())
    for impl in ("auto", "cpp", "reference"):
        found = second(lambda *both, impl=impl: quantize(*both, impl=impl), x, codebook)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_the_weight_of_classes_gets_its_gradient() -> None:
    weight = torch.tensor([1.0, 2.0, 0.5, 1.5, 3.0])
    found, expected = (one.clone().requires_grad_() for one in (weight, weight.double()))
    focal(normal(ROWS, CLASSES), 2.0, weight=found).backward()
    plain_focal(normal(ROWS, CLASSES), 2.0, expected).backward()
    assert found.grad is not None
    torch.testing.assert_close(found.grad.double(), expected.grad, atol=1e-6, rtol=1e-5)
    with pytest.raises(InputError, match="no gradient for weight"):
        focal(normal(ROWS, CLASSES), 2.0, weight=found, impl="cpp")


def test_forward_mode() -> None:
    logits, direction = normal(ROWS, CLASSES), normal(ROWS, CLASSES, seed=3)
    leaf = logits.double().requires_grad_()
    (gradient,) = torch.autograd.grad(plain_focal(leaf, 2.0), leaf)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(logits, direction)
        tangent = forward_ad.unpack_dual(focal(dual, 2.0)).tangent
        with pytest.raises(InputError, match="forward mode"):
            focal(dual, 2.0, impl="cpp")
    expected = (gradient * direction.double()).sum()
    assert tangent is not None
    torch.testing.assert_close(tangent.double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.func.jvp(lambda x: focal(x, 2.0), (logits,), (direction,))[1].allclose(tangent)


def test_transforms_of_torch_func() -> None:
    logits, x, codebook = normal(ROWS, CLASSES), normal(9, 3), normal(4, 3, seed=1)
    leaf = logits.double().requires_grad_()
    expected = torch.autograd.grad(plain_focal(leaf, 2.0), leaf)[0]
    close = {"atol": 1e-5, "rtol": 1e-4}
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(transform(lambda x: focal(x, 2.0))(logits).double(), expected, **close)
    hessian = torch.func.hessian(lambda x: focal(x, 2.0))(logits).double()
    plain = torch.autograd.functional.hessian(lambda x: plain_focal(x, 2.0), logits.double())
    torch.testing.assert_close(hessian, plain, **close)
    batches = torch.stack([logits, logits * 2])
    each = torch.func.vmap(torch.func.grad(lambda x: focal(x, 2.0)))(batches)
    for one, batch in zip(each, batches, strict=True):
        torch.testing.assert_close(one, torch.func.grad(lambda x: focal(x, 2.0))(batch), **close)
    both = torch.func.grad(quantize, argnums=(0, 1))(x, codebook)
    leaves = [one.double().requires_grad_() for one in (x, codebook)]
    right = torch.autograd.grad(plain_quantize(*leaves), leaves)
    torch.testing.assert_close([one.double() for one in both], list(right), **close)
    per_sample = torch.func.vmap(lambda row: ops.nearest_code(row, codebook))(x[:, None])
    assert torch.equal(per_sample[:, 0], ops.nearest_code(x, codebook))


def test_batches_of_gradients() -> None:
    logits = normal(ROWS, CLASSES).requires_grad_()
    losses = ops.focal_loss(logits, TARGET, reduction="none")
    rows = torch.eye(ROWS)
    (together,) = torch.autograd.grad(losses, logits, rows, retain_graph=True, is_grads_batched=True)
    each = [torch.autograd.grad(losses, logits, row, retain_graph=True)[0] for row in rows]
    torch.testing.assert_close(together, torch.stack(each))
    x, codebook = normal(9, 3).requires_grad_(), normal(4, 3, seed=1)
    quantized = ops.vector_quantize(x, codebook)[0]
    several = normal(2, 9, 3, seed=5)
    (together,) = torch.autograd.grad(quantized, x, several, is_grads_batched=True)
    torch.testing.assert_close(together, several)


def test_export_keeps_the_operators() -> None:
    class Losses(torch.nn.Module):
        def forward(self, logits: Tensor, x: Tensor, codebook: Tensor) -> tuple[Tensor, ...]:
            return focal(logits, 2.0), *ops.vector_quantize(x, codebook), ops.nearest_code(x, codebook)

    inputs = normal(ROWS, CLASSES), normal(9, 3), normal(4, 3, seed=1)
    program = torch.export.export(Losses(), inputs)
    assert {str(node.target) for node in program.graph.nodes} >= {
        f"goskill.{name}.default" for name in ("focal_loss", "vector_quantize", "nearest_code")
    }
    torch.testing.assert_close(program.module()(*inputs), Losses()(*inputs))


@pytest.mark.parametrize(
    ("changing", "dtype"),
    [(one, torch.float32) for one in ("rows", "gamma", "label_smoothing", "ignore_index")]
    + [("gamma", torch.float64)],
)
def test_one_whole_graph_takes_any_sizes_and_numbers(changing: str, dtype: torch.dtype) -> None:
    """With a backend that only captures: code for kernels is compiled in test_operators. float64: the reference."""
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")  # type: ignore[no-untyped-call]
    compiled = torch.compile(ops.focal_loss, fullgraph=True, backend=counter)
    values = {
        "rows": range(4, 28),
        "gamma": [number / 4 for number in range(24)],
        "label_smoothing": [number / 24 for number in range(24)],
        "ignore_index": [number % CLASSES for number in range(24)],
    }
    usual: dict[str, Any] = {"rows": 4, "gamma": 2.0, "label_smoothing": 0.0, "ignore_index": 0}
    for value in values[changing]:
        options = {**usual, changing: value}
        rows = options.pop("rows")
        logits, target = (
            normal(rows, CLASSES, seed=rows).to(dtype).requires_grad_(),
            torch.arange(rows) % CLASSES,
        )
        exact = logits.detach().double().requires_grad_()
        found, expected = (
            compiled(logits, target, **options),
            mean_loss_by_definition(exact, target, **options),
        )
        gradients = [torch.autograd.grad(*one)[0].double() for one in ((found, logits), (expected, exact))]
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    assert counter.frame_count <= 2, "one for the first value, one for all others"


def mean_loss_by_definition(
    logits: Tensor, target: Tensor, gamma: float, label_smoothing: float, ignore_index: int
) -> Tensor:
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    losses = -((1 - p) ** gamma) * p.log()
    shares = torch.nn.functional.one_hot(target, CLASSES) * (1 - label_smoothing) + label_smoothing / CLASSES
    return (shares * losses).sum(1)[target != ignore_index].mean()


def test_whole_graphs_name_a_gamma_that_is_wrong() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(ops.focal_loss, fullgraph=True, backend="eager")
    logits, target = normal(4, CLASSES), torch.arange(4) % CLASSES
    for gamma in (0.5, 1.0, 2.0):
        compiled(logits, target, gamma=gamma)
    with pytest.raises(InputError, match="gamma must be finite and at least 0, got -1"):
        compiled(logits, target, gamma=-1.0)


def samples_like_torchs() -> list[Sample]:
    """The shapes and options of the lists below, which take eight seconds to import."""
    random, shapes = torch.Generator().manual_seed(0), [(2, 3), (2, 3, 1), (2, 3, 1, 2), (2, 3, 1, 2, 3)]
    weight = torch.rand(3, generator=random, dtype=torch.float64)
    options: list[dict[str, Any]] = [{"reduction": one} for one in ("mean", "sum", "none")]
    options += [{**one, "weight": weight} for one in options]
    options += [{"ignore_index": 1}, {"label_smoothing": 0.1}, {"label_smoothing": 0.15, "weight": weight}]
    found: list[Sample] = []
    for shape, given in [*((shape, {}) for shape in shapes), *(((2, 3), one) for one in options)]:
        logits = torch.randn(shape, generator=random, dtype=torch.float64)
        target = torch.randint(0, 3, shape[:1] + shape[2:], generator=random)
        found += [(logits, target, given), (logits, logits.softmax(1), given)]
    return [*found, (torch.randn(3), torch.tensor(1), {})]


def samples_of_torch() -> list[Sample]:
    """torch's own samples of cross-entropy: of its operators, and of its module."""
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

    operator = next(one for one in op_db if one.name == "nn.functional.cross_entropy")
    module = next(one for one in module_db if one.module_cls is torch.nn.CrossEntropyLoss)
    given = {"device": "cpu", "dtype": torch.float64, "requires_grad": True}
    of_operator = [(one.input, *one.args, one.kwargs) for one in operator.sample_inputs(**given)]
    of_module = [
        (*one.forward_input.args, one.constructor_input.kwargs)
        for one in module.module_inputs_func(module, training=True, **given)
    ]
    return of_operator + of_module


def equal_or_refused(sample: Sample, dtype: torch.dtype) -> bool:
    """Whether gamma 0 gives cross-entropy's value, gradient and second gradient; False if it is refused by name."""
    logits, target, options = sample
    x = logits.detach().to(dtype).requires_grad_()
    ours = {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in options.items() if v is not None}
    if target.is_floating_point() or x.ndim == 1:
        with pytest.raises(InputError, match=r"target must be an int64|logits must have shape"):
            ops.focal_loss(x, target, gamma=0.0, **ours)
        return False
    found, expected = ops.focal_loss(x, target, gamma=0.0, **ours), F.cross_entropy(x, target, **ours)
    torch.testing.assert_close(found, expected, equal_nan=True)
    derivatives = []
    for loss in (found, expected):
        (first,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
        derivatives += [first, torch.autograd.grad((first * first.detach().cos()).sum(), x)[0]]
    torch.testing.assert_close(derivatives[:2], derivatives[2:], atol=1e-6, rtol=1e-5)
    return True


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_of_cross_entropy_at_gamma_zero_are_equal_or_refused(dtype: torch.dtype) -> None:
    compared = [equal_or_refused(sample, dtype) for sample in samples_like_torchs()]
    assert (sum(compared), len(compared)) == (13, 27)


if __name__ == "__main__":
    for dtype in (torch.float32, torch.float64):
        compared = [equal_or_refused(sample, dtype) for sample in samples_of_torch()]
        print(f"{dtype}: {sum(compared)} equal, {len(compared) - sum(compared)} refused by name")


@pytest.mark.parametrize("name", ["gamma", "label_smoothing", "commitment_weight", "codebook_weight"])
@pytest.mark.parametrize("value", [torch.tensor(0.5, requires_grad=True), "0.5"])
def test_numbers_that_would_lose_their_gradient_are_refused(name: str, value: Any) -> None:
    rows = torch.randn(3, 4, requires_grad=True)
    of_loss = name in ("gamma", "label_smoothing")
    operation, other = (
        (ops.focal_loss, torch.tensor([0, 1, 2])) if of_loss else (ops.vector_quantize, torch.randn(5, 4))
    )
    with pytest.raises(InputError, match=f"{name} must be a number, got (a tensor|'0.5')"):
        operation(rows, other, **{name: value})
