"""The causal pre-LayerNorm transformer that every sequence model here is built on (GPT-2 without positions).

Nothing in it takes a padding mask. Padding on the right is invisible to what comes before it, because
attention is causal; padding on the left is moved to the right before the blocks (``goskill.models.padding``).
Attention can then run without a mask tensor, which the fast attention kernels require.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from goskill.errors import InputError
from goskill.models.attending import masked_attention, self_attention
from goskill.models.branches import activate, add_branch, product, runs_native
from goskill.models.dropout import dropout
from goskill.models.fused import fused_forward, runs_fused
from goskill.ops.decoding import HEAD_WIDTH_MULTIPLE, KEY_MULTIPLE, add_norm, cached_attention

ALL_POSITIONS = slice(None)
LAST_POSITION = slice(-1, None)
FEEDFORWARD_ROWS = 512  # of whose hidden layer 2 MiB at a width of 256 fit a core's cache


@dataclass
class KeyValueCache:
    """Keys and values of the tokens a transformer has seen, so that new tokens cost only themselves.

    ``keys`` and ``values`` are one tensor [B, heads, capacity, head width] per layer, of which the first
    ``length`` positions are filled. ``visible`` bool [B, capacity] hides single positions (padding); None
    where nothing is hidden. A ``native`` cache is laid out for ``goskill.ops.decoding``: float32, keys as
    [B, heads, head width, capacity rounded up].
    """

    keys: list[Tensor]
    values: list[Tensor]
    length: int = 0
    visible: Tensor | None = None
    native: bool = False

    @property
    def capacity(self) -> int:
        """Tokens that there is room for."""
        return self.values[0].shape[2]

    def truncate(self, length: int) -> None:
        """Forget everything after the first ``length`` positions."""
        self.length = min(self.length, length)

    def load(self, other: KeyValueCache, rows: Tensor) -> None:
        """Copy the tokens of another cache of at most this capacity: sequence b becomes its ``rows[b]``, int64 [B].

        Writes into this cache's own tensors. What is hidden is the caller's to say.
        """
        for own, source in zip([*self.keys, *self.values], [*other.keys, *other.values], strict=True):
            if source.shape[1:] == own.shape[1:]:
                torch.index_select(source, 0, rows, out=own)
            else:
                own[:, :, : source.shape[2], : source.shape[3]] = source.index_select(0, rows)
        self.length = other.length

    def attention_mask(self, new: int) -> Tensor | None:
        """What each of the last ``new`` tokens sees: bool [1 or B, 1, new, length], None for everything."""
        if new == 1 and self.visible is None:
            return None
        device = self.keys[0].device
        causal = torch.ones(new, self.length, dtype=torch.bool, device=device).tril(self.length - new)
        if self.visible is None:
            return causal[None, None]
        # A hidden token sees at least itself: a softmax over nothing would be NaN.
        itself = torch.zeros_like(causal)
        itself[:, self.length - new :].fill_diagonal_(True)
        return (causal & self.visible[:, None, None, : self.length]) | itself


class Block(nn.Module):
    """Self-attention, then a ReLU network four times as wide; each behind a LayerNorm, added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward_input = nn.Linear(width, 4 * width)
        self.feedforward_output = nn.Linear(4 * width, width)

    def forward(
        self, tokens: Tensor, normal: Tensor, following: nn.LayerNorm, read: slice
    ) -> tuple[Tensor, Tensor]:
        """tokens [B, L, width] and ``attention_norm`` of them -> [B, L', width], the positions ``read`` only, and
        ``following`` of these.
        """
        probability = self.dropout if self.training else 0.0
        linear, bias = self.query_key_value, None
        if runs_native(normal, linear, probability):
            projected, bias = product(normal, linear), linear.bias
        else:
            projected = linear(normal)
        attended = self_attention(self._by_heads(projected), probability, bias)
        return self._finish(tokens[:, read], attended[:, :, read], following, probability)

    def extend(
        self,
        tokens: Tensor,
        normal: Tensor,
        following: nn.LayerNorm,
        cache: KeyValueCache,
        layer: int,
        mask: Tensor | None,
        read: slice,
    ) -> tuple[Tensor, Tensor]:
        """As ``forward`` for tokens that follow the cached ones; their keys and values are added to it."""
        query, key, value = self._by_heads(self.query_key_value(normal)).permute(2, 0, 3, 1, 4).unbind(0)
        keys, values = cache.keys[layer], cache.values[layer]
        keys[:, :, cache.length - tokens.shape[1] : cache.length] = key
        values[:, :, cache.length - tokens.shape[1] : cache.length] = value
        attended = masked_attention(
            query[:, :, read],
            keys[:, :, : cache.length],
            values[:, :, : cache.length],
            None if mask is None else mask[:, :, read],
        )
        return self._finish(tokens[:, read], attended, following, 0.0)

    def _by_heads(self, projected: Tensor) -> Tensor:
        """Queries, keys and values: [B, L, 3 * width] -> [B, L, 3, heads, head width]."""
        return projected.view(*projected.shape[:2], 3, self.heads, -1)

    def _finish(
        self, tokens: Tensor, attended: Tensor, following: nn.LayerNorm, probability: float
    ) -> tuple[Tensor, Tensor]:
        attended = attended.transpose(1, 2).flatten(2)
        tokens, normal = add_branch(
            tokens, attended, self.attention_output, self.feedforward_norm, probability
        )
        hidden = activate(normal, self.feedforward_input, probability)
        return add_branch(tokens, hidden, self.feedforward_output, following, probability)


class CausalTransformer(nn.Module):
    """``layers`` blocks with dropout before and a LayerNorm after them; the caller embeds the tokens.

    Raises InputError if ``heads`` does not divide ``width`` or ``layers`` is not positive.
    """

    def __init__(self, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise InputError(f"heads: expected a divisor of the width {width}, got {heads}")
        if layers < 1:
            raise InputError(f"layers: expected at least 1, got {layers}")
        self.width = width
        self.heads = heads
        self.dropout = dropout
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.final_norm = nn.LayerNorm(width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, read: slice = ALL_POSITIONS) -> Tensor:
        """tokens [B, L, width] -> hidden states [B, L', width] of the positions ``read``.

        Positions that are not read still serve as keys and values, and skip the rest of the last block.
        """
        if runs_fused(self, tokens):
            return fused_forward(self, tokens, read)
        tokens = dropout(tokens, self.dropout if self.training else 0.0)
        normal = self._first_norm(tokens)
        for block, following in self._blocks_and_norms():
            own = read if following is self.final_norm else ALL_POSITIONS
            tokens, normal = block(tokens, normal, following, own)
        return normal

    def extend(self, tokens: Tensor, cache: KeyValueCache, read: slice = ALL_POSITIONS) -> Tensor:
        """tokens [B, n, width] that follow the cached ones -> hidden states [B, n', width]; no dropout.

        Equal to the last n positions of ``forward`` over the whole sequence, of which those that ``read``
        chooses are returned. Raises InputError when the cache is full.
        """
        new = tokens.shape[1]
        if cache.length + new > cache.capacity:
            raise InputError(
                f"cache: {cache.length} + {new} tokens do not fit its capacity of {cache.capacity}"
            )
        cache.length += new
        if cache.native:
            return self._extend_native(tokens, cache, read)
        mask = cache.attention_mask(new)
        normal = self._first_norm(tokens)
        for layer, (block, following) in enumerate(self._blocks_and_norms()):
            own = read if following is self.final_norm else ALL_POSITIONS
            tokens, normal = block.extend(tokens, normal, following, cache, layer, mask, own)
        return normal

    def new_cache(self, batch: int, capacity: int) -> KeyValueCache:
        """An empty cache for ``batch`` sequences of up to ``capacity`` tokens, for the precision in force.

        On the CPU and without gradients it is a native one where the widths allow that.
        """
        weight = self.final_norm.weight
        device = weight.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        head_width = self.width // self.heads
        native = (
            device == "cpu"
            and weight.dtype == torch.float32
            and not torch.is_grad_enabled()
            and head_width % HEAD_WIDTH_MULTIPLE == 0
        )
        values_shape = (batch, self.heads, capacity, head_width)
        keys_shape = values_shape
        if native:
            dtype = torch.float32
            keys_shape = (batch, self.heads, head_width, -(-capacity // KEY_MULTIPLE) * KEY_MULTIPLE)
        # Zeros, not empty: a hidden position still multiplies its value by a weight of zero.
        keys = [torch.zeros(keys_shape, dtype=dtype, device=weight.device) for _ in self.blocks]
        values = [torch.zeros(values_shape, dtype=dtype, device=weight.device) for _ in self.blocks]
        return KeyValueCache(keys, values, native=native)

    def _extend_native(self, tokens: Tensor, cache: KeyValueCache, read: slice) -> Tensor:
        """``extend`` with the sums, norms and attention of ``goskill.ops.decoding``."""
        n = tokens.shape[1]
        first, stop, step = read.indices(n)
        if stop < n or step > 1:
            return self._extend_native(tokens, cache, ALL_POSITIONS)[:, read]
        assert not torch.is_grad_enabled(), "a native cache keeps no gradients"
        pairs = self._blocks_and_norms()
        first_block = pairs[0][0]
        dtype = first_block.query_key_value.weight.dtype
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
        residual = tokens.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        normal = add_norm(residual, None, first_block.attention_norm, dtype)
        for layer, (block, following) in enumerate(pairs):
            skipped = first if following is self.final_norm else 0
            attended = cached_attention(
                block.query_key_value(normal),
                cache.keys[layer],
                cache.values[layer],
                cache.length,
                cache.visible,
                skipped,
            )
            residual = residual[:, skipped:].contiguous()
            normal = add_norm(residual, block.attention_output(attended), block.feedforward_norm, dtype)
            normal = add_norm(residual, _feedforward(block, normal), following, dtype)
        return normal

    def _blocks_and_norms(self) -> list[tuple[Block, nn.LayerNorm]]:
        """Each block and the LayerNorm that follows it."""
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        norms = [*(block.attention_norm for block in blocks[1:]), self.final_norm]
        return list(zip(blocks, norms, strict=True))

    def _first_norm(self, tokens: Tensor) -> Tensor:
        normal: Tensor = self._blocks_and_norms()[0][0].attention_norm(tokens)
        return normal


def _feedforward(block: Block, tokens: Tensor) -> Tensor:
    """The feedforward network of tokens [B, n, width] on the CPU, without gradients.

    In float32 it takes so many rows at a time that the hidden layer, four times as wide, stays in the cache.
    """
    first, second = block.feedforward_input, block.feedforward_output
    rows = tokens.flatten(0, 1)
    at_once = FEEDFORWARD_ROWS * torch.get_num_threads()
    if len(rows) <= at_once or torch.is_autocast_enabled("cpu"):
        output: Tensor = second(first(tokens).relu_())
        return output
    hidden, out = rows.new_empty(at_once, first.out_features), torch.empty_like(rows)
    for part, result in zip(torch.split(rows, at_once), torch.split(out, at_once), strict=True):
        filled = hidden[: len(part)]
        torch.addmm(first.bias, part, first.weight.t(), out=filled)
        torch.addmm(second.bias, filled.relu_(), second.weight.t(), out=result)
    return out.view_as(tokens)
