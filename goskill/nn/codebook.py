"""The codes of a :class:`goskill.nn.VectorQuantize` and how they move."""

from __future__ import annotations

from typing import Any

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
        # What the host knows of `initted`, which may say True when this does not: reading it in every step would wait
        # for the device. And whether all ranks have agreed that the codes are there.
        self._initialized = self._agreed = not kmeans_init
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
        self._agreed = self._agreed and self._initialized

    @torch.no_grad()
    def set_codes(self, codes: Tensor) -> None:
        if codes.shape != self.embed.shape[1:]:
            raise InputError(
                f"codebook must have shape {list(self.embed.shape[1:])}, got {list(codes.shape)}"
            )
        self.embed.copy_(codes.unsqueeze(0))
        self.initted.fill_(True)
        self._initialized = True

    @torch.no_grad()
    def initialize(self, x: Tensor, mask: Tensor | None) -> None:
        """k-means on ``x`` [..., D] unless the codes are already there; waits for a batch with rows that count.

        On several ranks, on the rows of all; if only some ranks have codes, the others take those of the first of them.
        """
        if self._initialized and (self._agreed or not self.training or not self._distributed()):
            return
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        row_mask = None if mask is None else mask.reshape(-1)
        if torch.compiler.is_compiling():
            self._initialize_in_graph(rows, row_mask)
        elif not self._codes_are_there():
            if not self._run_kmeans(rows if row_mask is None else rows[row_mask], None):
                return
            self.initted.fill_(True)
        self._initialized = True
        self._agreed = self.training or not self._distributed()

    def _codes_are_there(self) -> bool:
        """Whether this rank has codes, or takes them from another now."""
        if not self._distributed():
            return bool(self.initted)
        if not self.training:
            # Not a matter of all ranks: one may be evaluating alone.
            if self.initted:
                return True
            raise InputError(
                "the codebook must be initialised before evaluation on several ranks: by a batch in training mode, "
                "or by loading it"
            )
        rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        source = self.initted.long() * (ranks - rank)
        torch.distributed.all_reduce(source, torch.distributed.ReduceOp.MAX)
        if source == 0:
            return False
        for buffer in (*self._codes_and_averages(), self.initted):
            torch.distributed.broadcast(buffer, src=ranks - int(source))
        return True

    def _initialize_in_graph(self, rows: Tensor, mask: Tensor | None) -> None:
        """A graph of torch.compile cannot ask whether the codes are there: they are kept, whatever k-means finds."""
        before = [buffer.clone() for buffer in self._codes_and_averages()]
        self._run_kmeans(rows, mask)
        found = torch.ones_like(self.initted) if mask is None else mask.any()
        for buffer, kept in zip(self._codes_and_averages(), before, strict=True):
            buffer.copy_(torch.where(self.initted | ~found, kept, buffer))
        self.initted.logical_or_(found)

    def _codes_and_averages(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.cluster_size, self.embed_avg, self.embed.detach()

    def _run_kmeans(self, rows: Tensor, mask: Tensor | None) -> bool:
        """Sets codes and averages from rows [N, D]; False if there are none."""
        everyone = self._from_all_ranks(rows)
        if everyone.shape[0] == 0:
            return False
        means = self._same_on_all_ranks(everyone[_sample_rows(everyone, mask, self.embed.shape[1])])
        counts = torch.zeros(means.shape[0], device=rows.device)
        for _ in range(self.kmeans_iters):
            indices = ops.nearest_code(rows, means, impl=self.impl)
            counts, sums = self._sum_over_ranks(*code_statistics(rows, indices, mask, means.shape[0]))
            means = torch.where(counts.unsqueeze(-1) > 0, sums / counts.clamp(min=1).unsqueeze(-1), means)
        # With no share of the old value the averages become these statistics.
        statistics = ops.CodeStatistics(counts, means * counts.unsqueeze(-1))
        self._follow(statistics, self.embed[0].detach(), decay=0.0)
        return True

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
        dead = self.cluster_size[0] < self.threshold_ema_dead_code
        # Each dead code takes another row; codes beyond the number of rows wait for a later batch.
        turn = (dead.cumsum(0) - 1).clamp(min=0)
        available, chosen = self._replacements(rows, None if mask is None else mask.reshape(-1))
        replaced = (dead & (turn < available)).unsqueeze(-1)
        fresh = chosen[turn]
        threshold = float(self.threshold_ema_dead_code)
        self.embed.copy_(torch.where(replaced, fresh, self.embed))
        self.embed_avg.copy_(torch.where(replaced, fresh * threshold, self.embed_avg))
        self.cluster_size.copy_(torch.where(replaced.squeeze(-1), threshold, self.cluster_size))

    def _replacements(self, rows: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """How many rows there are, a scalar, and a random one for each code [M, D]: of the first rank that has any."""
        codes = self.embed.shape[1]
        available = torch.full((1,), rows.shape[0], device=rows.device) if mask is None else mask.sum()[None]
        chosen = rows.new_zeros(codes, rows.shape[1], dtype=self.embed.dtype)
        if rows.shape[0] > 0:
            chosen = rows[_sample_rows(rows, mask, codes)].to(self.embed.dtype)
        if not self._distributed():
            return available[0], chosen
        all_available = available.new_empty(torch.distributed.get_world_size())
        torch.distributed.all_gather_into_tensor(all_available, available)
        source = (all_available > 0).int().argmax()
        chosen = torch.where(source == torch.distributed.get_rank(), chosen, 0)
        torch.distributed.all_reduce(chosen)
        return all_available[source], chosen

    def _distributed(self) -> bool:
        if self.synchronize is not None:
            return self.synchronize
        running = torch.distributed.is_available() and torch.distributed.is_initialized()
        return running and torch.distributed.get_world_size() > 1

    def _sum_over_ranks(self, counts: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        if not self._distributed():
            return counts, sums
        packed = torch.cat([counts.unsqueeze(-1), sums], dim=-1)
        torch.distributed.all_reduce(packed)
        return packed[:, 0], packed[:, 1:]

    def _from_all_ranks(self, rows: Tensor) -> Tensor:
        """The rows [N, D] of all ranks, each of which may have as many as it likes, in the order of the ranks."""
        if not self._distributed():
            return rows
        ranks = torch.distributed.get_world_size()
        counts = torch.zeros(ranks, dtype=torch.int64, device=rows.device)
        counts[torch.distributed.get_rank()] = rows.shape[0]
        torch.distributed.all_reduce(counts)
        longest = int(counts.max())
        padded = rows.new_zeros(longest, rows.shape[1])
        padded[: rows.shape[0]] = rows
        parts = [torch.empty_like(padded) for _ in range(ranks)]
        torch.distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts.tolist(), strict=True)])

    def _same_on_all_ranks(self, rows: Tensor) -> Tensor:
        if self._distributed():
            rows = rows.contiguous()
            torch.distributed.broadcast(rows, src=0)
        return rows


def _sample_rows(rows: Tensor, mask: Tensor | None, count: int) -> Tensor:
    """Indices int64 [count] of random rows, distinct while there are enough rows to choose from."""
    total = rows.shape[0]
    if mask is None:
        if total >= count:
            return torch.randperm(total, device=rows.device)[:count]
        return torch.randint(0, total, (count,), device=rows.device)
    keys = torch.rand(total, device=rows.device).masked_fill(~mask, 2.0)
    order = keys.argsort()
    return order[torch.arange(count, device=rows.device) % mask.sum().clamp(min=1)]
