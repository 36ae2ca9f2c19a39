"""A training pass of the transformer in few kernels, which move few bytes: for bfloat16 on a GPU.

The residual stream is bfloat16. Attention reads queries, keys and values as their product leaves them; dropout, the
addition to the stream and the next LayerNorm are one pass. On the CPU the same arithmetic runs in plain PyTorch, which
is what tests compare.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.ops.attention import HEAD_WIDTHS, packed_attention
from goskill.ops.linear import linear_relu
from goskill.ops.philox import draw_seeds
from goskill.ops.residual import WIDEST, dropout_add_norm
from goskill.ops.training_operators import without_autocast

if TYPE_CHECKING:
    from goskill.models.transformer import CausalTransformer

LONGEST = 128  # tokens, up to which attention by tiles pays
DTYPE = torch.bfloat16
Impl = Literal["auto", "reference", "triton"]
# These biases are added in float32 by what reads the product.
_FLOAT_BIASES = ("query_key_value.bias", "attention_output.bias", "feedforward_output.bias")

_wanted: ContextVar[bool] = ContextVar("fused_transformers", default=False)


@contextlib.contextmanager
def fused_transformers(wanted: bool = True) -> Iterator[None]:
    """Within, transformers run fused where they can."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def has_working_copy(name: str) -> bool:
    """Whether a fused pass takes this parameter of a linear layer in bfloat16."""
    return not name.endswith(_FLOAT_BIASES)


def runs_fused(transformer: CausalTransformer, tokens: Tensor) -> bool:
    """Whether ``transformer`` runs fused on ``tokens`` [B, L, width]."""
    if torch.compiler.is_compiling() or not _wanted.get() or not tokens.is_cuda:
        return False
    block: Any = transformer.blocks[0]
    if type(block.query_key_value) is not nn.Linear:  # what a subclass computes is not known here
        return False
    return (
        torch.is_autocast_enabled("cuda")
        and torch.get_autocast_dtype("cuda") == DTYPE
        and tokens.shape[1] <= LONGEST
        and transformer.width <= WIDEST
        and transformer.width // transformer.heads in HEAD_WIDTHS
    )


def fused_forward(transformer: CausalTransformer, tokens: Tensor, read: slice, impl: Impl = "auto") -> Tensor:
    """``CausalTransformer.forward`` with a residual stream in bfloat16: bfloat16 [B, L', width]."""
    blocks: list[Any] = list(transformer.blocks)
    probability = transformer.dropout if transformer.training else 0.0
    seeds = _seeds(1 + 3 * len(blocks), probability, tokens.device)
    norms = [*(block.attention_norm for block in blocks[1:]), transformer.final_norm]
    with without_autocast(tokens.device):

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

        normal: Tensor
        residual, normal = add(None, tokens, None, blocks[0].attention_norm)
        for block, following in zip(blocks, norms, strict=True):
            attended = packed_attention(
                _product(normal, block.query_key_value),
                block.heads,
                bias=block.query_key_value.bias,
                dropout=probability,
                seed=next(seeds),
                impl=impl,
            )
            if following is transformer.final_norm:
                residual, attended = residual[:, read], attended[:, read]
            branch = _product(attended, block.attention_output)
            residual, normal = add(residual, branch, block.attention_output.bias, block.feedforward_norm)
            wide = block.feedforward_input
            hidden = linear_relu(normal, wide.weight.to(DTYPE), wide.bias.to(DTYPE), impl=impl)
            branch = _product(hidden, block.feedforward_output)
            residual, normal = add(residual, branch, block.feedforward_output.bias, following)
    return normal


def _product(x: Tensor, linear: nn.Linear) -> Tensor:
    """Without the bias, which is added where the result is read next."""
    return F.linear(x, linear.weight.to(DTYPE))


def _seeds(count: int, probability: float, device: torch.device) -> Iterator[Tensor | None]:
    """Seeds of one pass, drawn together; None without dropout."""
    if probability == 0:
        return iter([None] * count)
    return iter(draw_seeds(count, device).unsqueeze(1).unbind(0))
