"""The operations of a fused transformer block as torch operators for CUDA: schemas, fakes, implementations.

- ``goskill::packed_attention``: qkv [B, L, 3 * W], bias, seed to [B, L, W] and log sums (empty for one block)
- ``goskill::packed_attention_gradient``: its gradient by qkv, and partial sums of it for the bias (or empty)
- ``goskill::dropout_add_norm``: residual, branch [N, W] to their sum and its LayerNorm
- ``goskill::dropout_add_norm_gradient``: gradients of both inputs, and partial sums for the parameters [P, 3, W]
- ``goskill::relu_gradient``: a gradient [N, W] where the activation is positive, and partial sums [P, W] of it
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.library import define, impl, register_fake

from goskill.errors import InputError
from goskill.ops.checks import check_device
from goskill.ops.dispatch import KERNEL_DTYPES, implementation_for
from goskill.ops.philox import LEVELS, dropped_levels

ATTENTION_BLOCK = 32  # as in goskill.kernels.packed_attention
PROGRAMS = 528  # that share the rows of a backward pass: four for each multiprocessor of an H200

define(
    "goskill::packed_attention",
    "(Tensor qkv, Tensor? bias, Tensor? seed, int heads, int dropped) -> (Tensor, Tensor)",
)
define(
    "goskill::packed_attention_gradient",
    "(Tensor qkv, Tensor? bias, Tensor? seed, int heads, int dropped, Tensor? out, Tensor? log_sums, "
    "Tensor gradient) -> (Tensor, Tensor)",
)
define(
    "goskill::dropout_add_norm",
    "(Tensor? residual, Tensor branch, Tensor? branch_bias, Tensor weight, Tensor bias, Tensor? seed, "
    "int dropped, float eps, ScalarType dtype) -> (Tensor, Tensor)",
)
define(
    "goskill::dropout_add_norm_gradient",
    "(Tensor total, Tensor weight, Tensor? seed, int dropped, float eps, Tensor? total_gradient, "
    "Tensor? normal_gradient, ScalarType branch_dtype, bool with_residual) -> (Tensor, Tensor, Tensor)",
)
define("goskill::relu_gradient", "(Tensor activation, Tensor gradient) -> (Tensor, Tensor)")


def check_seed(dropout: float, seed: Tensor | None, device: torch.device) -> int:
    """How many of 65,536 numbers drop an element. Raises InputError for a wrong probability or seed."""
    if not 0 <= dropout < 1:
        raise InputError(f"dropout must be at least 0 and below 1, got {dropout}")
    dropped = min(dropped_levels(dropout), LEVELS - 1)
    if dropped == 0:
        return 0
    if seed is None or seed.dtype != torch.int64 or seed.shape != (1,):
        came = "None" if seed is None else f"{seed.dtype} {list(seed.shape)}"
        raise InputError(f"seed must be an int64 tensor of shape [1] with dropout, got {came}")
    check_device("seed", seed, device)
    return dropped


def runs_triton(choice: str, tensor: Tensor, fits: bool, what_fits: str) -> bool:
    """Whether kernels run on ``tensor``. Raises InputError where they are asked for and cannot."""
    if choice == "auto":
        return fits and implementation_for(tensor) == "triton"
    if choice == "reference":
        return False
    # Of tensors without values, the kernels' operators give shapes.
    if tensor.device.type not in ("cuda", "meta"):
        raise InputError(f"impl='triton' needs tensors on cuda, got {tensor.device}")
    if tensor.dtype not in KERNEL_DTYPES:
        raise InputError(f"impl='triton' takes float32, bfloat16 or float16, got {tensor.dtype}")
    if not fits:
        raise InputError(f"impl='triton' takes {what_fits}")
    return True


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Within, products have the types of what is multiplied."""
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def sum_parts(parts: Tensor) -> Tensor:
    """The sum over the first dimension of float32 [P, ...], as one product with ones: one launch."""
    flat = parts.view(parts.shape[0], -1)
    with without_autocast(parts.device):
        return torch.mv(flat.t(), _ones(parts)).view(parts.shape[1:])


_kept_ones: dict[tuple[torch.device, int], Tensor] = {}


def _ones(parts: Tensor) -> Tensor:
    key = (parts.device, parts.shape[0])
    if key in _kept_ones:
        return _kept_ones[key]
    ones = torch.ones(parts.shape[0], dtype=torch.float32, device=parts.device)
    # What is made during a capture is written when that graph runs, and belongs to it alone.
    if type(ones) is Tensor and not (parts.is_cuda and torch.cuda.is_current_stream_capturing()):
        _kept_ones[key] = ones
    return ones


def programs(rows: int) -> int:
    """How many programs share the rows of a backward pass."""
    return max(1, min(PROGRAMS, -(-rows // 4)))


# What each operator returns, by its arguments in the order of its schema.


def _new_packed_attention(
    qkv: Tensor, bias: Tensor | None, seed: Tensor | None, heads: int, dropped: int
) -> tuple[Tensor, Tensor]:
    B, L, width = qkv.shape
    kept = L if L > ATTENTION_BLOCK else 0
    return qkv.new_empty(B, L, width // 3), qkv.new_empty(B * heads, kept, dtype=torch.float32)


def _new_packed_attention_gradient(qkv: Tensor, bias: Tensor | None, *_others: Any) -> tuple[Tensor, Tensor]:
    B, L, width = qkv.shape
    parts = (B, -(-L // ATTENTION_BLOCK), width) if bias is not None else (0,)
    return qkv.new_empty(qkv.shape), qkv.new_empty(parts, dtype=torch.float32)


def _new_dropout_add_norm(residual: Tensor | None, branch: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    *_, dtype = others
    return branch.new_empty(branch.shape, dtype=dtype), branch.new_empty(branch.shape, dtype=dtype)


def _new_dropout_add_norm_gradient(total: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, branch_dtype, with_residual = others
    rows, width = total.shape
    return (
        total.new_empty((rows, width) if with_residual else (0,)),
        total.new_empty(rows, width, dtype=branch_dtype),
        total.new_empty(programs(rows), 3, width, dtype=torch.float32),
    )


def _new_relu_gradient(activation: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    rows, width = activation.shape
    return activation.new_empty(rows, width), activation.new_empty(programs(rows), width, dtype=torch.float32)


register_fake("goskill::packed_attention")(_new_packed_attention)
register_fake("goskill::packed_attention_gradient")(_new_packed_attention_gradient)
register_fake("goskill::dropout_add_norm")(_new_dropout_add_norm)
register_fake("goskill::dropout_add_norm_gradient")(_new_dropout_add_norm_gradient)
register_fake("goskill::relu_gradient")(_new_relu_gradient)


@impl("goskill::packed_attention", "CUDA")
def _packed_attention(
    qkv: Tensor, bias: Tensor | None, seed: Tensor | None, heads: int, dropped: int
) -> tuple[Tensor, Tensor]:
    from goskill.kernels import packed_attention as kernels

    out, log_sums = _new_packed_attention(qkv, bias, seed, heads, dropped)
    kernels.attention(qkv, bias, seed, heads, dropped, out, log_sums if log_sums.numel() else None)
    return out, log_sums


@impl("goskill::packed_attention_gradient", "CUDA")
def _packed_attention_gradient(qkv: Tensor, bias: Tensor | None, *others: Any) -> tuple[Tensor, Tensor]:
    from goskill.kernels import packed_attention as kernels

    result, sums = _new_packed_attention_gradient(qkv, bias)
    kernels.attention_gradient(*[qkv, bias, *others, result, None if bias is None else sums])
    return result, sums


@impl("goskill::dropout_add_norm", "CUDA")
def _dropout_add_norm(*given: Any) -> tuple[Tensor, Tensor]:
    from goskill.kernels import add_norm as kernels

    *inputs, _ = given
    total, normal = _new_dropout_add_norm(*given)
    kernels.dropout_add_norm(*[*inputs, total, normal])
    return total, normal


@impl("goskill::dropout_add_norm_gradient", "CUDA")
def _dropout_add_norm_gradient(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    from goskill.kernels import add_norm as kernels

    *inputs, _, with_residual = given
    residual, branch, sums = _new_dropout_add_norm_gradient(*given)
    kernels.dropout_add_norm_gradient(*[*inputs, residual if with_residual else None, branch, sums])
    return residual, branch, sums


@impl("goskill::relu_gradient", "CUDA")
def _relu_gradient(activation: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    from goskill.kernels import relu_gradient as kernels

    result, sums = _new_relu_gradient(activation, gradient)
    kernels.relu_gradient(activation, gradient, result, sums)
    return result, sums
