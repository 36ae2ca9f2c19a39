"""A training pass of the transformer in few kernels, which move few bytes: for bfloat16 on a GPU.

The residual stream is bfloat16. Attention reads queries, keys and values as their product leaves them; dropout, the
addition to the stream and the next LayerNorm are one pass; weights are cast together. On the CPU the same arithmetic
runs in plain PyTorch, which is what tests compare.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.ops.attention import HEAD_WIDTHS, packed_attention
from goskill.ops.linear import linear_relu
from goskill.ops.philox import draw_seeds
from goskill.ops.residual import WIDEST, dropout_add_norm

if TYPE_CHECKING:
    from goskill.models.transformer import CausalTransformer

LONGEST = 128  # tokens, up to which attention by tiles pays
DTYPE = torch.bfloat16
Impl = Literal["auto", "reference", "triton"]

_wanted: ContextVar[bool] = ContextVar("fused_transformers", default=False)


@contextlib.contextmanager
def fused_transformers(wanted: bool = True) -> Iterator[None]:
    """Within, transformers run fused where they can."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def runs_fused(transformer: CausalTransformer, tokens: Tensor) -> bool:
    """Whether ``transformer`` runs fused on ``tokens`` [B, L, width]."""
    if torch.compiler.is_compiling() or not _wanted.get() or not tokens.is_cuda:
        return False
    return (
        torch.is_autocast_enabled("cuda")
        and torch.get_autocast_dtype("cuda") == DTYPE
        and tokens.shape[1] <= LONGEST
        and transformer.width <= WIDEST
        and transformer.width // transformer.heads in HEAD_WIDTHS
    )


def fused_forward(
    transformer: CausalTransformer, tokens: Tensor, read: slice, impl: Impl = "auto"
) -> Tensor:
    """``CausalTransformer.forward`` with a residual stream in bfloat16: bfloat16 [B, L', width]."""
    blocks: list[Any] = list(transformer.blocks)
    probability = transformer.dropout if transformer.training else 0.0
    seeds = _seeds(1 + 3 * len(blocks), probability, tokens.device)
    norms = [*(block.attention_norm for block in blocks[1:]), transformer.final_norm]
    working = iter(_working_weights([parameter for block in blocks for parameter in _cast_parameters(block)]))
    with torch.autocast(tokens.device.type, enabled=False):

        def add(residual: Tensor | None, branch: Tensor, bias: Tensor | None, norm: nn.LayerNorm) -> Any:
            return dropout_add_norm(
                residual,
                branch,
                norm.weight,
                norm.bias,
                branch_bias=bias,
                dropout=probability,
                seed=next(seeds),
                eps=norm.eps,
                dtype=DTYPE,
                impl=impl,
            )

        residual, normal = add(None, tokens, None, blocks[0].attention_norm)
        for block, following in zip(blocks, norms, strict=True):
            projection, output, widening, widening_bias, narrowing = (next(working) for _ in range(5))
            attended = packed_attention(
                F.linear(normal, projection),
                block.heads,
                bias=block.query_key_value.bias,
                dropout=probability,
                seed=next(seeds),
                impl=impl,
            )
            if following is transformer.final_norm:
                residual, attended = residual[:, read], attended[:, read]
            branch = F.linear(attended, output)
            residual, normal = add(residual, branch, block.attention_output.bias, block.feedforward_norm)
            hidden = linear_relu(normal, widening, widening_bias, impl=impl)
            branch = F.linear(hidden, narrowing)
            residual, normal = add(residual, branch, block.feedforward_output.bias, following)
    return normal


def _cast_parameters(block: Any) -> tuple[Tensor, ...]:
    """What products take of a block; the other biases are added in float32."""
    return (
        block.query_key_value.weight,
        block.attention_output.weight,
        block.feedforward_input.weight,
        block.feedforward_input.bias,
        block.feedforward_output.weight,
    )


def _seeds(count: int, probability: float, device: torch.device) -> Iterator[Tensor | None]:
    """Seeds of one pass, drawn together; None without dropout."""
    if probability == 0:
        return iter([None] * count)
    return iter(draw_seeds(count, device).split(1))


def _working_weights(parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Copies in bfloat16, made by one kernel for all, as their gradients are cast back by one."""
    copies: tuple[Tensor, ...] = _Cast.apply(*parameters)  # type: ignore[no-untyped-call]
    return copies


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.types = [parameter.dtype for parameter in parameters]
        ctx.set_materialize_grads(False)
        return _cast(parameters, [DTYPE] * len(parameters))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        there = [index for index, gradient in enumerate(gradients) if gradient is not None]
        cast = _cast([gradients[index] for index in there], [ctx.types[index] for index in there])  # type: ignore[misc]
        result: list[Tensor | None] = [None] * len(gradients)
        for index, gradient in zip(there, cast, strict=True):
            result[index] = gradient
        return tuple(result)


def _cast(tensors: Sequence[Tensor], types: Sequence[torch.dtype]) -> tuple[Tensor, ...]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor, dtype in zip(tensors, types, strict=True)]
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return tuple(copies)
