"""The residual stream of a pre-LayerNorm transformer: dropout of a branch, its addition, the next LayerNorm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

import goskill.ops.philox as philox
from goskill.errors import InputError
from goskill.ops.checks import check_choice, check_device, check_floating
from goskill.ops.training_operators import check_seed, runs_triton, sum_parts

WIDEST = 8192  # elements of a row that a program holds


def dropout_add_norm(
    residual: Tensor | None,
    branch: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    branch_bias: Tensor | None = None,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    eps: float = 1e-5,
    dtype: torch.dtype | None = None,
    impl: Literal["auto", "reference", "triton"] = "auto",
) -> tuple[Tensor, Tensor]:
    """``total = residual + dropout(branch + branch_bias)``, and the LayerNorm of ``total``.

    Sums and norms are computed in float32 and stored in ``dtype``; the norm is that of ``total`` as stored. Dropped
    elements are drawn by counting from ``seed`` (:mod:`goskill.ops.philox`).

    Args:
        residual: [..., W], or None for zeros (the beginning of the stream).
        branch: [..., W], float32, bfloat16, float16 or float64.
        weight, bias: of the LayerNorm, [W].
        branch_bias: [W].
        dropout: probability to drop an element, rounded to 1 / 65536.
        seed: int64 [1] on the device of ``branch``, needed with dropout.
        eps: of the LayerNorm.
        dtype: of both results; None: that of ``residual``, or of ``branch`` without one.
        impl: ``"auto"``, ``"reference"``, or ``"triton"`` (CUDA, W up to 8192).

    Returns:
        ``total`` and its norm, both shaped as ``branch``.

    Raises:
        InputError: a wrong argument.
    """
    check_choice("impl", impl, ("auto", "reference", "triton"))
    check_floating("branch", branch)
    if branch.ndim == 0 or branch.shape[-1] == 0:
        raise InputError(f"branch must have shape [..., W] with W > 0, got {list(branch.shape)}")
    for name, value in (("weight", weight), ("bias", bias), ("branch_bias", branch_bias)):
        if value is not None:
            check_device(name, value, branch.device)
            if value.shape != branch.shape[-1:]:
                raise InputError(f"{name} must have shape [{branch.shape[-1]}], got {list(value.shape)}")
    if residual is not None:
        check_device("residual", residual, branch.device)
        check_floating("residual", residual)
        if residual.shape != branch.shape:
            raise InputError(
                f"residual must have shape {list(branch.shape)} as branch, got {list(residual.shape)}"
            )
    dtype = dtype or (branch if residual is None else residual).dtype
    dropped = check_seed(dropout, seed, branch.device)
    if runs_triton(impl, branch, branch.shape[-1] <= WIDEST, f"rows of up to {WIDEST} elements"):
        differentiable: Callable[..., tuple[Tensor, Tensor]] = _DropoutAddNorm.apply
        return differentiable(residual, branch, branch_bias, weight, bias, seed, dropped, eps, dtype)
    return reference_dropout_add_norm(residual, branch, branch_bias, weight, bias, seed, dropped, eps, dtype)


def reference_dropout_add_norm(
    residual: Tensor | None,
    branch: Tensor,
    branch_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    seed: Tensor | None,
    dropped: int,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch: in float64 for float64, in float32 for everything else."""
    exact = torch.promote_types(branch.dtype, torch.float32)
    x = branch.to(exact) if branch_bias is None else branch.to(exact) + branch_bias.to(exact)
    x = philox.dropout(x, seed, dropped)
    total = (x if residual is None else x + residual.to(exact)).to(dtype)
    normal = F.layer_norm(total.to(exact), total.shape[-1:], weight.to(exact), bias.to(exact), eps)
    return total, normal.to(dtype)


class _DropoutAddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor | None,
        branch: Tensor,
        branch_bias: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        seed: Tensor | None,
        dropped: int,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        width = branch.shape[-1]
        total, normal = torch.ops.goskill.dropout_add_norm(
            None if residual is None else residual.reshape(-1, width).contiguous(),
            branch.reshape(-1, width).contiguous(),
            branch_bias,
            weight,
            bias,
            seed,
            dropped,
            eps,
            dtype,
        )
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(total, weight, seed)
        ctx.options = dropped, eps
        ctx.shape = branch.shape
        ctx.types = [
            None if value is None else value.dtype for value in (residual, branch, branch_bias, weight, bias)
        ]
        return total.view(branch.shape), normal.view(branch.shape)

    @staticmethod
    def backward(ctx: Any, total_gradient: Tensor | None, normal_gradient: Tensor | None) -> Any:
        total, weight, seed = ctx.saved_tensors
        residual_type, branch_type, branch_bias_type, weight_type, bias_type = ctx.types
        if total_gradient is None and normal_gradient is None:
            return (None,) * 9
        residual, branch, sums = torch.ops.goskill.dropout_add_norm_gradient(
            total,
            weight,
            seed,
            *ctx.options,
            *(
                None if part is None else part.reshape(total.shape).contiguous()
                for part in (total_gradient, normal_gradient)
            ),
            branch_type,
            residual_type is not None,
        )
        weight_gradient, bias_gradient, branch_bias_gradient = sum_parts(sums).unbind(0)
        return (
            None if residual_type is None else residual.to(residual_type).view(ctx.shape),
            branch.view(ctx.shape),
            None if branch_bias_type is None else branch_bias_gradient.to(branch_bias_type),
            weight_gradient.to(weight_type),
            bias_gradient.to(bias_type),
            *(None,) * 4,
        )
