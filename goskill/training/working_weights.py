"""Weights in bfloat16 for the products of a step, cast by one kernel for all of an objective's networks.

Autocast does so weight by weight, a launch each, and casts their gradients back as often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from goskill.models.fused import has_working_copy

DTYPE = torch.bfloat16


class WorkingWeights:
    """Calls ``module`` with copies in bfloat16 of what its linear layers hold; gradients reach its parameters."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._parameters = {
            f"{layer}.{name}": parameter
            for layer, linear in module.named_modules()
            if isinstance(linear, nn.Linear)
            for name, parameter in linear.named_parameters(recurse=False)
            if parameter.dtype == torch.float32 and has_working_copy(f"{layer}.{name}")
        }

    def __call__(self, *args: Any) -> Any:
        copies = _Cast.apply(*self._parameters.values())  # type: ignore[no-untyped-call]
        return functional_call(self._module, dict(zip(self._parameters, copies, strict=True)), args)


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        copies = _cast(parameters, DTYPE)
        frozen = [copy for copy, trained in zip(copies, ctx.needs_input_grad, strict=True) if not trained]
        ctx.mark_non_differentiable(*frozen)
        return copies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        there = [gradient for gradient in gradients if gradient is not None]
        cast = iter(_cast(there, torch.float32))
        return tuple(None if gradient is None else next(cast) for gradient in gradients)


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return tuple(copies)
