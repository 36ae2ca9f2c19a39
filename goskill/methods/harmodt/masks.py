"""Which weights a task uses: at random to begin with, and exchanged where tasks disagree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def erdos_renyi_densities(shapes: Sequence[tuple[int, int]], density: float) -> list[float]:
    """The share of each matrix that is kept, ``density`` in all: in proportion to (rows + columns) / entries.

    Matrices of which that would be more than all are kept whole (Evci et al., Rigging the Lottery, 2020).
    """
    sizes = [rows * columns for rows, columns in shapes]
    raw = [(rows + columns) / size for (rows, columns), size in zip(shapes, sizes, strict=True)]
    whole: set[int] = set()
    while True:
        free = [index for index in range(len(shapes)) if index not in whole]
        if not free:
            return [1.0] * len(shapes)
        wanted = density * sum(sizes) - sum(sizes[index] for index in whole)
        scale = wanted / sum(raw[index] * sizes[index] for index in free)
        most = max(raw[index] for index in free)
        if scale * most <= 1:
            break
        whole |= {index for index in free if raw[index] == most}
    return [1.0 if index in whole else scale * raw[index] for index in range(len(shapes))]


def changes_at(progress: float, most: int) -> int:
    """Weights to exchange at ``progress`` in [0, 1] of the training: 0, up to ``most`` halfway, and 0 again."""
    return round(most * (1 - math.cos(2 * math.pi * progress)) / 2)


@torch.no_grad()
def exchanged(
    masks: Tensor,
    gradients: Tensor,
    weights: Tensor,
    changes: int,
    *,
    agreement_weight: float,
    importance: str,
) -> Tensor:
    """Masks in which every task has given up ``changes`` weights for as many others.

    Args:
        masks: bool [T, N].
        gradients: [T, N], of each task's loss by the weights that it sees, also by those that are masked to 0.
        weights: [N], that all tasks share.
        agreement_weight, importance: see ``HarmoDTSettings``.

    A task drops, of what it keeps, the lowest agreement_weight · A + F, and takes up, of the rest, the highest A. A is
    its gradient times the mean of the tasks' gradients; to drop, only the gradients of what tasks keep count.
    Returns new masks; with fewer weights than ``changes`` to drop or to take up, so many are exchanged.
    """
    mean = gradients.mean(0)
    mean_kept = torch.zeros_like(mean)
    for own, kept in zip(gradients, masks, strict=True):
        mean_kept += own * kept
    mean_kept /= len(masks)
    result = masks.clone()
    for own, kept, new in zip(gradients, masks, result, strict=True):
        most = int(torch.minimum(kept.sum(), (~kept).sum()))
        count = min(changes, most)
        value = own.square() if importance == "fisher" else weights.abs()
        drop = (agreement_weight * mean_kept * own + value).masked_fill(~kept, math.inf)
        take = (mean * own).masked_fill(kept, -math.inf)
        new[drop.topk(count, largest=False).indices] = False
        new[take.topk(count).indices] = True
    return result
