"""A linear layer and its ReLU, whose gradients take one pass over the activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from goskill.errors import InputError
from goskill.ops.checks import check_choice, check_device, check_floating
from goskill.ops.training_operators import runs_triton, sum_parts


def linear_relu(
    x: Tensor, weight: Tensor, bias: Tensor, *, impl: Literal["auto", "reference", "triton"] = "auto"
) -> Tensor:
    """``relu(x @ weight.T + bias)``, as ``torch.nn.functional.linear`` and ``relu``.

    On a GPU the bias and the ReLU are the product's epilogue, and their gradients are found together.

    Args:
        x: [..., K], float32, bfloat16, float16 or float64.
        weight: [N, K], of the type of ``x``.
        bias: [N], of the type of ``x``.
        impl: ``"auto"``, ``"reference"``, or ``"triton"`` (CUDA).

    Returns:
        [..., N] in the type of ``x``.

    Raises:
        InputError: a wrong argument.
    """
    check_choice("impl", impl, ("auto", "reference", "triton"))
    check_floating("x", x)
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        last = x.shape[-1] if x.ndim else "K"
        raise InputError(f"weight must have shape [N, {last}] to match x, got {list(weight.shape)}")
    if bias.shape != weight.shape[:1]:
        raise InputError(f"bias must have shape [{weight.shape[0]}], got {list(bias.shape)}")
    for name, value in (("weight", weight), ("bias", bias)):
        check_device(name, value, x.device)
        if value.dtype != x.dtype:
            raise InputError(f"{name} must be {x.dtype} as x, got {value.dtype}")
    if runs_triton(impl, x, True, "anything"):
        differentiable: Callable[..., Tensor] = _LinearReLU.apply
        return differentiable(x, weight, bias)
    return F.relu(F.linear(x, weight, bias))


class _LinearReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        activation = torch._addmm_activation(bias, rows, weight.t())
        ctx.save_for_backward(rows, weight, activation)
        ctx.shape = x.shape
        return activation.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        rows, weight, activation = ctx.saved_tensors
        gradient = gradient.reshape(activation.shape).contiguous()
        slope, sums = torch.ops.goskill.relu_gradient(activation, gradient)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            (slope @ weight).view(ctx.shape) if needs_x else None,
            slope.t() @ rows if needs_weight else None,
            sum_parts(sums).to(weight.dtype) if needs_bias else None,
        )
