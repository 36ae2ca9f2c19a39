"""Scaled dot-product attention as the transformer needs it: causal with dropout, and over a cache."""

from __future__ import annotations

import contextlib
import math
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from goskill.models.dropout import dropout
from goskill.ops.random import LEVELS, random_levels
from goskill.ops.self_attention import dropped_attention, random_shape, runs_native

# Without cuDNN: some of its kernels round dropout to sixteenths, and it makes a plan for every new shape.
_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def self_attention(projected: Tensor, probability: float, bias: Tensor | None = None) -> Tensor:
    """``causal_attention`` of queries, keys and values [B, L, 3, heads, head width] -> [B, heads, L, head width].

    ``bias`` float32 [3 * heads * head width] is added to what is projected.
    """
    if probability > 0 and runs_native(projected) and not torch.compiler.is_compiling():
        random = random_levels(random_shape(projected))
        return dropped_attention(projected, random, round(probability * LEVELS), LEVELS, bias).transpose(1, 2)
    if bias is not None:
        projected = projected + bias.view(projected.shape[2:]).to(projected.dtype)
    query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
    return causal_attention(query, key, value, probability)


def causal_attention(query: Tensor, key: Tensor, value: Tensor, probability: float) -> Tensor:
    """Causal attention with dropout of the weights: [B, heads, L, head width] each -> the same shape."""
    if probability == 0 or query.device.type != "cpu" or torch.compiler.is_compiling():
        with _backends(query):
            return F.scaled_dot_product_attention(query, key, value, dropout_p=probability, is_causal=True)
    # The stock CPU kernels have no dropout: composed here with random numbers that are cheap on a CPU.
    B, heads, L, D = query.shape
    query, key, value = (part.reshape(B * heads, L, D) for part in (query, key, value))
    future = torch.full((L, L), -math.inf, dtype=query.dtype).triu(1)
    weights = torch.baddbmm(future, query, key.transpose(1, 2), alpha=1 / math.sqrt(D)).softmax(-1)
    return torch.bmm(dropout(weights, probability).to(value.dtype), value).view(B, heads, L, D)


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of n queries [B, heads, n, head width] to L keys where bool ``mask`` [1 or B, 1, n, L] says so.

    None: to all of them.
    """
    with _backends(query):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def _backends(query: Tensor) -> AbstractContextManager[None]:
    """Around attention: on a GPU, the kernels that may do it."""
    return contextlib.nullcontext() if query.device.type == "cpu" else sdpa_kernel(_BACKENDS)
