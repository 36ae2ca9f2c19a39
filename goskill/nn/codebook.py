"""The codes of a :class:`goskill.nn.VectorQuantize` and how they move."""

from __future__ import annotations

from typing import Any, overload

import torch
import torch.distributed
from torch import Tensor, nn

from goskill import ops
from goskill.errors import InputError
from goskill.ops.reference import code_statistics


class Codebook(nn.Module):
    """Buffers named and shaped as in ``vector_quantize_pytorch``, with one leading dimension of 1.

    ``cluster_size`` [1, M] and ``embed_avg`` [1, M, D] are the moving averages of the counts and sums;
    ``embed`` [1, M, D] are the codes, a parameter if they learn by gradient.
    """

    initted: Tensor
    cluster_size: Tensor
    embed_avg: Tensor
    embed: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        decay: float,
        eps: float,
        kmeans_init: bool,
        kmeans_iters: int,
        threshold_ema_dead_code: float,
        learnable: bool,
        ema_update: bool,
        synchronize: bool | None,
        impl: ops.Implementation,
    ) -> None:
        super().__init__()
        self.decay = decay
        self.eps = eps
        self.kmeans_iters = kmeans_iters
        self.threshold_ema_dead_code = threshold_ema_dead_code
        self.ema_update = ema_update
        self.synchronize = synchronize
        self.impl: ops.Implementation = impl
        if kmeans_init:
            embed = torch.zeros(1, codebook_size, dim)
        else:
            embed = nn.init.kaiming_uniform_(torch.empty(1, codebook_size, dim))
        # A copy of `initted` on the host: reading the buffer would wait for the device in every step.
        self._initialized = not kmeans_init
        self.register_buffer("initted", torch.tensor(not kmeans_init))
        self.register_buffer("cluster_size", torch.ones(1, codebook_size))
        self.register_buffer("embed_avg", embed.clone())
        if learnable:
            self.embed = nn.Parameter(embed)
        else:
            self.register_buffer("embed", embed)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._initialized = bool(self.initted)

    @torch.no_grad()
    def set_codes(self, codes: Tensor) -> None:
        if codes.shape != self.embed.shape[1:]:
            raise InputError(
                f"codebook must have shape {list(self.embed.shape[1:])}, got {list(codes.shape)}"
            )
        self.embed.copy_(codes.unsqueeze(0))
        self._mark_initialized()

    @torch.no_grad()
    def initialize(self, x: Tensor, mask: Tensor | None) -> None:
        """k-means on ``x`` [..., D] unless the codes are already there."""
        if self._initialized:
            return
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        row_mask = None if mask is None else mask.reshape(-1)
        everyone, everyone_mask = self._from_all_ranks(rows), self._from_all_ranks(row_mask)
        means = everyone[_sample_rows(everyone, everyone_mask, self.embed.shape[1])]
        means = self._same_on_all_ranks(means)
        counts = torch.zeros(means.shape[0], device=rows.device)
        for _ in range(self.kmeans_iters):
            indices = ops.nearest_code(rows, means, impl=self.impl)
            counts, sums = self._sum_over_ranks(*code_statistics(rows, indices, row_mask, means.shape[0]))
            means = torch.where(counts.unsqueeze(-1) > 0, sums / counts.clamp(min=1).unsqueeze(-1), means)
        # With no share of the old value the averages become these statistics.
        statistics = ops.CodeStatistics(counts, means * counts.unsqueeze(-1))
        self._follow(statistics, self.embed[0].detach(), decay=0.0)
        self._mark_initialized()

    @torch.no_grad()
    def update(self, statistics: ops.CodeStatistics, x: Tensor, mask: Tensor | None) -> None:
        """Moves averages and codes by a batch: its statistics, and its rows for replacing dead codes."""
        if not self.ema_update and self.threshold_ema_dead_code <= 0:
            return
        # A codebook that learns by gradient keeps its averages only to know its dead codes.
        codes = self.embed[0] if self.ema_update else torch.empty_like(self.embed[0])
        self._follow(ops.CodeStatistics(*self._sum_over_ranks(*statistics)), codes, self.decay)
        if self.threshold_ema_dead_code > 0:
            self._replace_dead_codes(x.detach().reshape(-1, x.shape[-1]), mask)

    def _follow(self, statistics: ops.CodeStatistics, codes: Tensor, decay: float) -> None:
        ops.move_codebook(
            self.cluster_size[0],
            self.embed_avg[0],
            codes,
            statistics,
            decay=decay,
            eps=self.eps,
            impl=self.impl,
        )

    def _replace_dead_codes(self, rows: Tensor, mask: Tensor | None) -> None:
        if rows.shape[0] == 0:
            return
        row_mask = None if mask is None else mask.reshape(-1)
        dead = self.cluster_size[0] < self.threshold_ema_dead_code
        # Each dead code takes another row; codes beyond the number of rows wait for a later batch.
        turn = (dead.cumsum(0) - 1).clamp(min=0)
        # The rows come from the first rank, and so does their number.
        available = rows.shape[0] if row_mask is None else self._same_on_all_ranks(row_mask.sum())
        replaced = (dead & (turn < available)).unsqueeze(-1)
        chosen = rows[_sample_rows(rows, row_mask, dead.shape[0])].to(self.embed.dtype)
        fresh = self._same_on_all_ranks(chosen)[turn]
        threshold = float(self.threshold_ema_dead_code)
        self.embed.copy_(torch.where(replaced, fresh, self.embed))
        self.embed_avg.copy_(torch.where(replaced, fresh * threshold, self.embed_avg))
        self.cluster_size.copy_(torch.where(replaced.squeeze(-1), threshold, self.cluster_size))

    def _mark_initialized(self) -> None:
        self.initted.fill_(True)
        self._initialized = True

    def _distributed(self) -> bool:
        running = torch.distributed.is_available() and torch.distributed.is_initialized()
        return running if self.synchronize is None else self.synchronize

    def _sum_over_ranks(self, counts: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        if not self._distributed():
            return counts, sums
        packed = torch.cat([counts.unsqueeze(-1), sums], dim=-1)
        torch.distributed.all_reduce(packed)
        return packed[:, 0], packed[:, 1:]

    @overload
    def _from_all_ranks(self, rows: Tensor) -> Tensor: ...
    @overload
    def _from_all_ranks(self, rows: Tensor | None) -> Tensor | None: ...
    def _from_all_ranks(self, rows: Tensor | None) -> Tensor | None:
        """The rows of all ranks, of which each has as many, in the order of the ranks."""
        if rows is None or not self._distributed():
            return rows
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def _same_on_all_ranks(self, rows: Tensor) -> Tensor:
        if self._distributed():
            rows = rows.contiguous()
            torch.distributed.broadcast(rows, src=0)
        return rows


def _sample_rows(rows: Tensor, mask: Tensor | None, count: int) -> Tensor:
    """Indices int64 [count] of random rows, distinct while there are enough rows to choose from."""
    total = rows.shape[0]
    if total == 0:
        raise InputError("x must hold at least one row to initialise the codebook, got none")
    if mask is None:
        if total >= count:
            return torch.randperm(total, device=rows.device)[:count]
        return torch.randint(0, total, (count,), device=rows.device)
    keys = torch.rand(total, device=rows.device).masked_fill(~mask, 2.0)
    order = keys.argsort()
    return order[torch.arange(count, device=rows.device) % mask.sum().clamp(min=1)]
