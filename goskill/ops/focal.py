"""Focal loss with the arguments of ``torch.nn.functional.cross_entropy``."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor

import goskill.ops.reference as reference
from goskill.errors import InputError
from goskill.ops.checks import (
    check_choice,
    check_device,
    check_floating,
    check_focal_numbers,
    check_mask,
    target_error,
)
from goskill.ops.dispatch import Implementation, choose, in_batches, transforms_active
from goskill.ops.operators import REDUCTIONS
from goskill.ops.tracing import as_tensor, changes


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
    traced = torch.compiler.is_compiling() and any(map(changes, (gamma, label_smoothing, ignore_index)))
    if not traced:
        check_focal_numbers(gamma, label_smoothing)
    rows = logits if logits.ndim == 2 else logits.movedim(1, -1).reshape(-1, logits.shape[1])
    row_target = target if target.ndim == 1 else target.reshape(-1)
    row_mask = None if mask is None else mask.reshape(-1)
    chosen = choose(impl, logits)
    if weight is not None and weight.requires_grad and chosen != "reference":
        if impl != "auto":
            raise InputError(f"impl={impl!r} has no gradient for weight: use impl='auto' or 'reference'")
        chosen = "reference"
    options: tuple[float | Tensor, int, float | Tensor] = (gamma, ignore_index, label_smoothing)
    if traced:
        options = (as_tensor(gamma), ignore_index, as_tensor(label_smoothing))
    if chosen == "reference":
        if logits.device.type == "cpu" and not (torch.compiler.is_compiling() or transforms_active()):
            _check_targets(row_target, row_mask, ignore_index, logits.shape[1])
        if traced:
            torch._check(gamma >= 0)  # type: ignore[no-untyped-call]
        losses = reference.focal_loss(rows, row_target, weight, row_mask, *options, reduction)
    else:
        losses = _focal_loss(rows, row_target, weight, row_mask, *options, reduction)
    return losses.reshape(expected) if reduction == "none" else losses


def _check_targets(target: Tensor, mask: Tensor | None, ignore_index: int, classes: int) -> None:
    bad = ((target < 0) | (target >= classes)) & (target != ignore_index)
    bad = bad if mask is None else bad & mask
    if bad.any():
        row = int(bad.int().argmax())
        raise target_error(int(target[row]), row, classes, ignore_index)


def _focal_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    gamma: float | Tensor,
    ignore_index: int,
    label_smoothing: float | Tensor,
    reduction: str,
) -> Tensor:
    arguments = (logits, target, weight, mask, gamma, ignore_index, label_smoothing, REDUCTIONS[reduction])
    if torch.is_grad_enabled() and logits.requires_grad:
        return cast(Tensor, _FocalLoss.apply(*arguments))  # type: ignore[no-untyped-call]
    return cast(Tensor, _operator(gamma)(*arguments, False)[0])


def _operator(gamma: float | Tensor) -> Any:
    """The operator that takes its numbers as ``gamma`` comes."""
    operators = torch.ops.goskill
    return operators.focal_loss_of_tensors if isinstance(gamma, Tensor) else operators.focal_loss


class _FocalLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None,
        mask: Tensor | None,
        gamma: float | Tensor,
        ignore_index: int,
        label_smoothing: float | Tensor,
        reduction: int,
    ) -> Tensor:
        arguments = (logits, target, weight, mask, gamma, ignore_index, label_smoothing, reduction)
        loss, gradient = _operator(gamma)(*arguments, True)
        compiling = torch.compiler.is_compiling()
        ctx.save_for_backward(gradient, logits if compiling else None)
        # For second derivatives. Not among the saved tensors: first derivatives do not mind if the logits change.
        ctx.formula = None if compiling else (arguments, _versions(arguments[:4]))
        return cast(Tensor, loss)

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> Any:
        gradient, logits = ctx.saved_tensors
        if torch.is_grad_enabled() and ctx.formula is not None:
            kept, versions = ctx.formula
            return _gradient_by_formula(kept, versions, factor), *[None] * 7
        if in_batches(factor):
            return (gradient * factor.unsqueeze(-1)).to(gradient.dtype), *[None] * 7
        # A second buffer is needed only if the graph is kept: this gradient may be asked for again. What a
        # compiled step saved must not change.
        if torch.compiler.is_compiling() or torch._C._autograd._get_current_graph_task_keep_graph():
            return torch.ops.goskill.scale_rows(gradient, factor, logits), *[None] * 7
        ctx.formula = None
        torch.ops.goskill.scale_rows_(gradient, factor)
        return gradient, *[None] * 7


def _versions(tensors: tuple[Any, ...]) -> list[int]:
    """How often each tensor has been changed in place; nobody counts that for those of inference mode."""
    return [one._version for one in tensors if one is not None and not one.is_inference()]


def _gradient_by_formula(arguments: tuple[Any, ...], versions: list[int], factor: Tensor) -> Tensor:
    """The gradient by the logits, which can itself be differentiated by them and by ``factor``."""
    if _versions(arguments[:4]) != versions:
        raise RuntimeError(
            "the second derivative of focal_loss needs its inputs, of which one has been changed in place since"
        )
    logits, *others, reduction = arguments
    name = next(name for name, number in REDUCTIONS.items() if number == reduction)
    with torch.enable_grad():
        formula: Any = reference.focal_loss
        loss = formula(logits, *others, name)
        return cast(Tensor, torch.autograd.grad(loss, logits, factor, create_graph=True)[0])
