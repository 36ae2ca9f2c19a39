"""Moving padding behind the rows that count, so that causal attention never sees it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def padding_last(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Order that puts valid rows first, keeping their order, and the way back.

    ``mask`` bool [B, L], True where a row counts. Returns ``order`` and ``position``, both int64 [B, L]:
    reordered row i is row ``order[b, i]``, and row j stands at ``position[b, j]``.
    """
    order = torch.sort(mask.logical_not().to(torch.uint8), dim=1, stable=True).indices
    position = torch.zeros_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return order, position


def take_rows(rows: Tensor, order: Tensor) -> Tensor:
    """rows [B, L, D], order int64 [B, N] -> [B, N, D], row ``order[b, i]`` of each sequence b."""
    B, L, _ = rows.shape
    offsets = torch.arange(B, device=order.device)[:, None] * L
    return rows.flatten(0, 1).index_select(0, (order + offsets).flatten()).view(B, order.shape[1], -1)


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """Rows of ``table`` [N, width] by ``index`` int64 [...]: [..., width], as an embedding.

    On a GPU the gradient adds rows as they come: sorting thousands of indices first takes two dozen launches.
    """
    if table.device.type == "cpu":
        return F.embedding(index, table)
    return table.index_select(0, index.flatten()).view(*index.shape, table.shape[1])
