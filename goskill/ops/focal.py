"""Focal loss with the arguments of ``torch.nn.functional.cross_entropy``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor

from goskill.errors import InputError
from goskill.ops import operators, reference
from goskill.ops.checks import check_choice, check_device, check_floating, check_mask
from goskill.ops.dispatch import Implementation, choose


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["none", "mean", "sum"] = "mean",
    mask: Tensor | None = None,
    impl: Implementation = "auto",
) -> Tensor:
    """Focal loss ``-w (1 - p)^gamma log p`` of the target class (Lin et al. 2017).

    With ``gamma=0`` it is ``torch.nn.functional.cross_entropy``. Label smoothing weighs every class's
    ``-w_c (1 - p_c)^gamma log p_c`` by the smoothed target distribution. ``"mean"`` divides by the summed
    weight of the rows that count; where none counts the loss and its gradient are 0.

    Args:
        logits: [N, C] or [N, C, ...], float32, bfloat16, float16 or float64.
        target: class indices int64, [N] or [N, ...].
        gamma: focusing exponent, at least 0.
        weight: weight of each class [C].
        ignore_index: target value of rows that do not count.
        label_smoothing: in [0, 1].
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        mask: bool, as ``target``; rows with False do not count either.
        impl: ``"auto"``, ``"reference"``, ``"cpp"`` or ``"triton"``.

    Returns:
        A scalar, or losses shaped as ``target`` for ``reduction="none"``; float32, or float64 for float64
        logits. NaN logits give a NaN loss for their row.

    Raises:
        InputError: a wrong argument. A target out of range is named on the CPU; on a CUDA device its row's
            loss is NaN, and with TRITON_DEBUG=1 in the environment an assertion stops the device.
    """
    check_floating("logits", logits)
    check_choice("reduction", reduction, ("none", "mean", "sum"))
    if logits.ndim < 2 or logits.shape[1] == 0:
        raise InputError(f"logits must have shape [N, C] or [N, C, ...] with C > 0, got {list(logits.shape)}")
    expected = logits.shape[:1] + logits.shape[2:]
    if target.dtype != torch.int64:
        raise InputError(f"target must be an int64 tensor of class indices, got {target.dtype}")
    if target.shape != expected:
        raise InputError(f"target must have shape {list(expected)} to match logits, got {list(target.shape)}")
    check_device("target", target, logits.device)
    if weight is not None:
        check_floating("weight", weight)
        check_device("weight", weight, logits.device)
        if weight.shape != (logits.shape[1],):
            raise InputError(f"weight must have shape [{logits.shape[1]}], got {list(weight.shape)}")
    if mask is not None:
        check_mask(mask, expected, logits.device)
    if not (gamma >= 0 and math.isfinite(gamma)):
        raise InputError(f"gamma must be finite and at least 0, got {gamma}")
    if not 0 <= label_smoothing <= 1:
        raise InputError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
    rows = logits if logits.ndim == 2 else logits.movedim(1, -1).reshape(-1, logits.shape[1])
    row_target = target.reshape(-1)
    row_mask = None if mask is None else mask.reshape(-1)
    if choose(impl, logits) == "reference":
        losses = reference.focal_loss(
            rows, row_target, weight, row_mask, gamma, ignore_index, label_smoothing, reduction
        )
    else:
        options = (gamma, ignore_index, label_smoothing, operators.REDUCTIONS[reduction])
        if torch.is_grad_enabled() and logits.requires_grad:
            differentiable: Callable[..., Tensor] = _FocalLoss.apply
            losses = differentiable(rows, row_target, weight, row_mask, *options)
        else:
            losses, _ = torch.ops.goskill.focal_loss(rows, row_target, weight, row_mask, *options, False)
    return losses.reshape(expected) if reduction == "none" else losses


class _FocalLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None,
        mask: Tensor | None,
        gamma: float,
        ignore_index: int,
        label_smoothing: float,
        reduction: int,
    ) -> Tensor:
        loss, gradient = torch.ops.goskill.focal_loss(
            logits, target, weight, mask, gamma, ignore_index, label_smoothing, reduction, True
        )
        ctx.save_for_backward(gradient)
        return cast(Tensor, loss)

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        # A second buffer is needed only if the graph is kept: this gradient may be asked for again. What a
        # compiled step saved must not change.
        if torch.compiler.is_compiling() or torch._C._autograd._get_current_graph_task_keep_graph():
            return torch.ops.goskill.scale_rows(gradient, factor), *[None] * 7
        torch.ops.goskill.scale_rows_(gradient, factor)
        return gradient, *[None] * 7
