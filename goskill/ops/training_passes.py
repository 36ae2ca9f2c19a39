"""What a transformer in training does between its products on the CPU, in C++: a pass over the tokens each way.

``goskill.models.branches`` has the same computation in torch's operations, for every other case.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from goskill import _core
from goskill.ops.cpu import DTYPES

WIDTH_MULTIPLE = 16


def dropped_sum(
    residual: Tensor,
    branch: Tensor,
    branch_bias: Tensor,
    norm: nn.LayerNorm,
    random: Tensor,
    dropped: int,
    levels: int,
) -> tuple[Tensor, Tensor]:
    """``total = residual + dropout(branch + branch_bias)``, float32, and its LayerNorm in the type of ``branch``.

    Args:
        residual: float32 [..., W], W a multiple of 16.
        branch: [..., W], float32, bfloat16 or float16.
        branch_bias: float32 [W].
        norm: float32, with weight and bias.
        random: int16 [..., W], contiguous, evenly distributed numbers.
        dropped: of ``levels`` (2^16) numbers, the lowest so many drop their element; the others are scaled up.
    """
    differentiable: Any = _DroppedSum.apply
    total, normal = differentiable(
        residual, branch, branch_bias, norm.weight, norm.bias, norm.eps, random, dropped, levels
    )
    return total, normal


def bias_relu(product: Tensor, bias: Tensor) -> Tensor:
    """``relu(product + bias)`` in the memory of ``product``, whose values nobody else may need.

    ``product`` [..., W], float32, bfloat16 or float16, ``bias`` float32 [W], W a multiple of 16.
    """
    differentiable: Any = _BiasReLU.apply
    activation: Tensor = differentiable(product, bias)
    return activation


class _DroppedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        branch: Tensor,
        branch_bias: Tensor,
        weight: Tensor,
        bias: Tensor,
        epsilon: float,
        random: Tensor,
        dropped: int,
        levels: int,
    ) -> tuple[Tensor, Tensor]:
        residual, branch = residual.contiguous(), branch.contiguous()
        total, normal = torch.empty_like(residual), torch.empty_like(branch)
        ctx.options = {
            "least_kept": dropped - levels // 2,
            "kept_scale": levels / (levels - dropped),
            "epsilon": epsilon,
            "dtype": DTYPES[branch.dtype],
        }
        _core.dropped_sum(
            residual=residual.data_ptr(),
            branch=branch.data_ptr(),
            branch_bias=branch_bias.data_ptr(),
            normal=normal.data_ptr(),
            **_shared(total, random, weight, bias),
            **ctx.options,
        )
        ctx.save_for_backward(total, random, weight, bias)
        return total, normal

    @staticmethod
    def backward(ctx: Any, by_total: Tensor, by_normal: Tensor) -> tuple[Tensor | None, ...]:
        total, random, weight, bias = ctx.saved_tensors
        by_total, by_normal = by_total.contiguous(), by_normal.contiguous()
        by_residual, by_branch = torch.empty_like(by_total), torch.empty_like(by_normal)
        sums = torch.zeros(_core.SUM_PARTS, 3, len(weight))
        _core.dropped_sum_gradient(
            by_total=by_total.data_ptr(),
            by_normal=by_normal.data_ptr(),
            by_residual=by_residual.data_ptr(),
            by_branch=by_branch.data_ptr(),
            sums=sums.data_ptr(),
            **_shared(total, random, weight, bias),
            **ctx.options,
        )
        by_weight, by_bias, by_branch_bias = sums.sum(0).unbind(0)
        return by_residual, by_branch, by_branch_bias, by_weight, by_bias, None, None, None, None


def _shared(total: Tensor, random: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Any]:
    """Arguments that the sum and its gradient have in common."""
    return {
        "total": total.data_ptr(),
        "random": random.data_ptr(),
        "weight": weight.data_ptr(),
        "bias": bias.data_ptr(),
        "rows": total.numel() // len(weight),
        "width": len(weight),
        "threads": torch.get_num_threads(),
    }


class _BiasReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, product: Tensor, bias: Tensor) -> Tensor:
        product = product.contiguous()
        activation = product.detach()
        _core.bias_relu(
            values=product.data_ptr(),
            bias=bias.data_ptr(),
            dtype=DTYPES[product.dtype],
            rows=product.numel() // len(bias),
            width=len(bias),
            out=activation.data_ptr(),
            threads=torch.get_num_threads(),
        )
        ctx.save_for_backward(activation)
        return activation

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (activation,) = ctx.saved_tensors
        gradient, width = gradient.contiguous(), activation.shape[-1]
        slope, sums = torch.empty_like(activation), torch.zeros(_core.SUM_PARTS, width)
        _core.bias_relu_gradient(
            activation=activation.data_ptr(),
            gradient=gradient.data_ptr(),
            dtype=DTYPES[activation.dtype],
            rows=activation.numel() // width,
            width=width,
            out=slope.data_ptr(),
            sums=sums.data_ptr(),
            threads=torch.get_num_threads(),
        )
        return slope, sums.sum(0)
