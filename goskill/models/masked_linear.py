"""Linear layers that several tasks share under a binary mask of each, applied in one batched product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.models.transformer import CausalTransformer
from goskill.ops import masking as ops
from goskill.ops.cpu import DTYPES

LAYERS = ("query_key_value", "attention_output", "feedforward_input", "feedforward_output")


class MaskedLinear(nn.Linear):
    """A linear layer of which each of ``tasks`` uses the weights that its mask keeps; biases are shared whole.

    Rows come task by task, equally many of each task in ``order``: all tasks are one batched matrix product. Weight
    and bias are named as those of ``nn.Linear``, beside them a state dict holds ``mask_bits`` uint8
    [tasks, ceil(weights / 8)], the lowest bit first. Masks keep everything at first.
    """

    mask_bits: Tensor
    mask: Tensor  # bool [tasks, outputs, inputs]

    def __init__(self, inputs: int, outputs: int, tasks: int) -> None:
        super().__init__(inputs, outputs)
        mask = torch.ones(tasks, outputs, inputs, dtype=torch.bool)
        self.register_buffer("mask_bits", pack_bits(mask.flatten(1)))
        self.register_buffer("mask", mask, persistent=False)
        self.order: Tensor | None = None  # int64 [tasks in a batch]: whose rows come; None: all tasks in turn
        self.task_weight: Tensor | None = (
            None  # [tasks in a batch, outputs, inputs], to use in place of masked ones
        )

    def forward(self, x: Tensor) -> Tensor:
        """[tasks · n, L, inputs], task by task -> [tasks · n, L, outputs]."""
        return self._apply_masked(x, self.bias)

    def product(self, x: Tensor) -> Tensor:
        """As ``forward``, without the bias."""
        return self._apply_masked(x, None)

    def _apply_masked(self, x: Tensor, bias: Tensor | None) -> Tensor:
        tasks = len(self.mask) if self.order is None else len(self.order)
        dtype = self.weight.dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        rows = x.reshape(tasks, -1, self.in_features).to(dtype)
        bias = None if bias is None else bias.to(dtype)
        if self.task_weight is None and self.weight.device.type == "cpu" and dtype in DTYPES:
            product: Tensor = _Product.apply(rows, self.weight, bias, self.mask, self.order)  # type: ignore[no-untyped-call]
        else:
            weight = self.task_weight
            if weight is None:
                weight = masked_weights(self.weight.to(dtype), self.mask, self.order)
            product = _multiply(rows, weight.to(dtype), bias)
        return product.view(*x.shape[:-1], self.out_features)

    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> None:
        """Keep other weights from now on: bool [tasks, outputs, inputs]. Writes into the tensors that are there."""
        self.mask.copy_(mask)
        self.mask_bits.copy_(pack_bits(self.mask.flatten(1)))

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        with torch.no_grad():
            kept = unpack_bits(self.mask_bits, self.weight.numel()).view(self.mask.shape)
            if self.mask.device == kept.device:
                self.mask.copy_(kept)
            else:
                self.mask = kept


def _multiply(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[T, R, N], [T, M, N] and, if there is one, [M] -> [T, R, M]."""
    if bias is None:
        return torch.bmm(rows, weight.transpose(1, 2))
    return torch.baddbmm(bias, rows, weight.transpose(1, 2))


class _Product(torch.autograd.Function):
    """rows [T, R, N], float32 weight [M, N], bias [M] or None, masks bool [any, M, N], order int64 [T] or
    None -> [T, R, M].

    On the CPU, where weights are masked, and their gradients summed, in C++.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, masks: Tensor, order: Tensor | None
    ) -> Tensor:
        order = torch.arange(len(masks)) if order is None else order
        masked = ops.mask_weights(weight, masks, order, rows.dtype)
        ctx.save_for_backward(rows, masked, masks, order)
        return _multiply(rows, masked, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, masked, masks, order = ctx.saved_tensors
        needs_rows, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        return (
            torch.bmm(gradient, masked) if needs_rows else None,
            ops.sum_masked(torch.bmm(gradient.transpose(1, 2), rows), masks, order) if needs_weight else None,
            gradient.sum((0, 1)) if needs_bias else None,
            None,
            None,
        )


class _Masked(torch.autograd.Function):
    """weight [M, N], masks bool [any, M, N], order int64 [T] or None -> [T, M, N], as ``masked_weights``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, masks: Tensor, order: Tensor | None) -> Tensor:
        if order is not None:
            masks = masks.index_select(0, order)
        ctx.save_for_backward(masks)
        masked = weight.new_empty(masks.shape)
        for own, kept in zip(masked, masks, strict=True):  # task by task: no temporary of all
            torch.mul(weight, kept, out=own)
        return masked

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (masks,) = ctx.saved_tensors
        total = (gradient[0] * masks[0]).float()
        for own, kept in zip(gradient[1:], masks[1:], strict=True):
            total += own * kept
        return total.to(gradient.dtype), None, None


def masked_weights(weight: Tensor, masks: Tensor, order: Tensor | None = None) -> Tensor:
    """Each task's weights: [M, N], bool [any, M, N] and whose mask each of T tasks has, int64 [T] -> [T, M, N].

    Without ``order`` there is a task for each mask. Gradients add up over the tasks, masked.
    """
    masked: Tensor = _Masked.apply(weight, masks, order)  # type: ignore[no-untyped-call]
    return masked


def mask_transformer(transformer: CausalTransformer, tasks: int) -> None:
    """Put masked layers, of equal weights, in place of all linear layers in the blocks of ``transformer``."""
    for block in transformer.blocks:
        for name in LAYERS:
            plain = getattr(block, name)
            masked = MaskedLinear(plain.in_features, plain.out_features, tasks)
            masked.weight, masked.bias = plain.weight, plain.bias
            setattr(block, name, masked)


def masked_layers(module: nn.Module) -> Iterator[MaskedLinear]:
    """All masked layers in ``module``, in its order."""
    return (part for part in module.modules() if isinstance(part, MaskedLinear))


def pack_bits(values: Tensor) -> Tensor:
    """bool [T, n] -> uint8 [T, ceil(n / 8)], the lowest bit first."""
    padded = F.pad(values.to(torch.uint8), (0, -values.shape[1] % 8)).view(len(values), -1, 8)
    places = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=values.device)
    return (padded * places).sum(-1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, count: int) -> Tensor:
    """uint8 [T, ceil(count / 8)] -> bool [T, count]."""
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[..., None] >> shifts) & 1).flatten(1)[:, :count].bool()
