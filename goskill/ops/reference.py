"""Plain references of the operations: readable, differentiable by autograd, right in float64.

Tests and benchmarks compare every other implementation with these. Low-precision inputs are computed in
float32; autocast does not reach into them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which an operation on ``dtype`` is computed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def nearest_code(x: Tensor, codebook: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Index int64 [...] and distance [...] of the code nearest to each row of ``x`` [..., D]."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        dtype = working_dtype(x.dtype)
        rows, codes = x.to(dtype), codebook.to(dtype)
        if metric == "cosine":
            codes = F.normalize(codes, dim=-1)
            scores = -(rows @ codes.T)
        else:
            # |x - e|^2 without |x|^2, which is the same for all codes.
            scores = codes.square().sum(-1) - 2 * (rows @ codes.T)
        indices = scores.nan_to_num(nan=torch.inf).argmin(-1)
        chosen = codes[indices]
        if metric == "cosine":
            distance = 1 - F.cosine_similarity(rows, chosen, dim=-1)
        else:
            distance = (rows - chosen).square().sum(-1)
    return indices, distance


def code_statistics(x: Tensor, indices: Tensor, mask: Tensor | None, num_codes: int) -> tuple[Tensor, Tensor]:
    """How many rows chose each code [M] and their sums [M, D]; rows with mask False do not count."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        dtype = working_dtype(x.dtype)
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        assigned = F.one_hot(indices.reshape(-1), num_codes).to(dtype)
        if mask is not None:
            assigned = assigned * mask.reshape(-1, 1)
            rows = torch.where(mask.reshape(-1, 1), rows, 0)
        return assigned.sum(0), assigned.T @ rows


def vector_quantize(
    x: Tensor, codebook: Tensor, mask: Tensor | None, commitment_weight: float, codebook_weight: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Straight-through codes, indices, loss, counts and sums; see :func:`goskill.ops.vector_quantize`."""
    dtype = working_dtype(x.dtype)
    indices, _ = nearest_code(x, codebook, "euclidean")
    counts, sums = code_statistics(x, indices, mask, codebook.shape[0])
    rows, codes = x.to(dtype), F.embedding(indices, codebook).to(dtype)
    selected = torch.ones_like(indices, dtype=torch.bool) if mask is None else mask
    elements = (selected.sum() * x.shape[-1]).clamp(min=1)
    pull_rows = torch.where(selected.unsqueeze(-1), rows - codes.detach(), 0).square().sum() / elements
    pull_codes = torch.where(selected.unsqueeze(-1), rows.detach() - codes, 0).square().sum() / elements
    loss = commitment_weight * pull_rows + codebook_weight * pull_codes
    # The value is the code exactly, the gradient that of x.
    quantized = codes.detach().to(x.dtype) + (x - x.detach())
    quantized = torch.where(selected.unsqueeze(-1), quantized, 0)
    return quantized, torch.where(selected, indices, -1), loss, counts, sums


def move_codebook(
    cluster_size: Tensor,
    average: Tensor,
    codes: Tensor,
    counts: Tensor,
    sums: Tensor,
    decay: float,
    eps: float,
) -> None:
    """Moves averages and codes in place; see :func:`goskill.ops.move_codebook`."""
    cluster_size.lerp_(counts.to(cluster_size.dtype), 1 - decay)
    average.lerp_(sums.to(average.dtype), 1 - decay)
    total = cluster_size.sum()
    # Laplace smoothing keeps codes that no row chose finite.
    smoothed = (cluster_size + eps) / (total + cluster_size.shape[0] * eps) * total
    codes.copy_(average / smoothed.unsqueeze(-1))


def focal_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    gamma: float,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> Tensor:
    """Focal loss of ``logits`` [N, C] and ``target`` [N]; see :func:`goskill.ops.focal_loss`."""
    with torch.autocast(logits.device.type, enabled=False):
        dtype = working_dtype(logits.dtype)
        log_p = F.log_softmax(logits.to(dtype), dim=-1)
        # The clamp keeps the power's gradient finite where p is 1.
        one_minus_p = (-torch.expm1(log_p)).clamp(min=torch.finfo(dtype).tiny)
        class_loss = -(one_minus_p**gamma) * log_p
        classes = logits.shape[-1]
        class_weight = torch.ones(classes, dtype=dtype, device=logits.device)
        if weight is not None:
            class_weight = weight.to(dtype)
        selected = target != ignore_index
        if mask is not None:
            selected = selected & mask
        safe_target = torch.where(selected, target, 0)
        target_weight = torch.where(selected, class_weight[safe_target], 0)
        losses = target_weight * class_loss.gather(-1, safe_target.unsqueeze(-1)).squeeze(-1)
        if label_smoothing > 0:
            spread = (class_loss * class_weight).sum(-1) / classes
            losses = (1 - label_smoothing) * losses + label_smoothing * torch.where(selected, spread, 0)
        losses = torch.where(selected, losses, 0)
        if reduction == "none":
            return losses
        if reduction == "sum":
            return losses.sum()
        total_weight = target_weight.sum()
        return losses.sum() / torch.where(total_weight > 0, total_weight, 1)
