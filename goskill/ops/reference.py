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


def nearest_code(x: Tensor, codebook: Tensor, metric: str) -> Tensor:
    """Index int64 [...] of the code nearest to each row of ``x`` [..., D]."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        dtype = working_dtype(x.dtype)
        rows, codes = x.detach().to(dtype), codebook.detach().to(dtype)
        if metric == "cosine":
            scores = -(rows @ F.normalize(codes, dim=-1).T)
        else:
            # |x - e|^2 without |x|^2, which is the same for all codes.
            centre = codebook_centre(codes)
            rows, codes = rows - centre, codes - centre
            scores = codes.square().sum(-1) - 2 * (rows @ codes.T)
        return scores.nan_to_num(nan=torch.inf).argmin(-1)


def code_distance(x: Tensor, codebook: Tensor, indices: Tensor, metric: str) -> Tensor:
    """Distance [...] of each row of ``x`` [..., D] to the code that it chose."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        dtype = working_dtype(x.dtype)
        rows, chosen = x.detach().to(dtype), codebook.detach()[indices].to(dtype)
        if metric == "cosine":
            return 1 - F.cosine_similarity(rows, chosen, dim=-1)
        return (rows - chosen).square().sum(-1)


def codebook_centre(codes: Tensor) -> Tensor:
    """About which scores lose nothing to an offset that all codes share [D].

    In each dimension the middle of the finite codes, rounded to a multiple of a power of two that is 2 to 4 times
    their range: 0 for codes around zero, and no code is farther away than 2.5 times the range. So the rounding of
    a score grows with the extent of the codebook and with the row's distance from it, not with the offset.
    """
    finite = codes.isfinite()
    least = torch.where(finite, codes, torch.inf).amin(0)
    spread = torch.where(finite, codes, -torch.inf).amax(0) - least
    spacing = torch.ldexp(torch.ones_like(spread), spread.frexp().exponent + 1)
    centre = spacing * ((least + spread / 2) / spacing).round()
    centre = torch.where(spread == 0, least, centre)
    return torch.where(centre.isfinite(), centre, 0)


def code_statistics(x: Tensor, indices: Tensor, mask: Tensor | None, num_codes: int) -> tuple[Tensor, Tensor]:
    """How many rows chose each code [M] and their sums [M, D]; rows with mask False do not count."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        dtype = working_dtype(x.dtype)
        rows = x.detach().reshape(-1, x.shape[-1]).to(dtype)
        # F.one_hot looks at the values, which vmap refuses.
        assigned = (indices.reshape(-1, 1) == torch.arange(num_codes, device=x.device)).to(dtype)
        if mask is not None:
            assigned = assigned * mask.reshape(-1, 1)
            rows = torch.where(mask.reshape(-1, 1), rows, 0)
        return assigned.sum(0), assigned.T @ rows


def vector_quantize(
    x: Tensor, codebook: Tensor, mask: Tensor | None, commitment_weight: float, codebook_weight: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Straight-through codes, indices, loss, counts and sums; see :func:`goskill.ops.vector_quantize`."""
    dtype = working_dtype(x.dtype)
    indices = nearest_code(x, codebook, "euclidean")
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
    size = smoothed.unsqueeze(-1)
    codes.copy_(torch.where(size > 0, average / size, codes))


def focal_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    gamma: float | Tensor,
    ignore_index: int,
    label_smoothing: float | Tensor,
    reduction: str,
) -> Tensor:
    """Focal loss of ``logits`` [N, C] and ``target`` [N]; see :func:`goskill.ops.focal_loss`."""
    with torch.autocast(logits.device.type, enabled=False):
        dtype = working_dtype(logits.dtype)
        log_p = F.log_softmax(logits.to(dtype), dim=-1)
        classes = logits.shape[-1]
        class_weight = torch.ones(classes, dtype=dtype, device=logits.device)
        if weight is not None:
            class_weight = weight.to(dtype)
        selected = target != ignore_index
        if mask is not None:
            selected = selected & mask
        valid = (target >= 0) & (target < classes)
        safe_target = torch.where(selected & valid, target, 0)
        target_weight = torch.where(selected, class_weight[safe_target], 0)
        losses = target_weight * class_loss(log_p.gather(-1, safe_target.unsqueeze(-1)).squeeze(-1), gamma)
        if isinstance(label_smoothing, Tensor) or label_smoothing > 0:
            spread = (class_loss(log_p, gamma) * class_weight).sum(-1) / classes
            # Without smoothing, an infinite loss of another class counts nothing.
            spread = torch.where(selected & torch.as_tensor(label_smoothing > 0), spread, 0)
            losses = (1 - label_smoothing) * losses + label_smoothing * spread
        losses = torch.where(selected, torch.where(valid, losses, torch.nan), 0)
        if reduction == "none":
            return losses
        if reduction == "sum":
            return losses.sum()
        total_weight = target_weight.sum()
        return losses.sum() / torch.where(total_weight == 0, 1, total_weight)


def class_loss(log_p: Tensor, gamma: float | Tensor) -> Tensor:
    """``-(1 - p)^gamma log p``; all derivatives are finite where p is 0 or 1."""
    # Autograd multiplies the derivatives of branches that are not taken by 0: they must be finite, too.
    p_is_0, p_is_1 = log_p == -torch.inf, log_p > -torch.finfo(log_p.dtype).tiny
    inside = torch.where(p_is_0 | p_is_1, -1.0, log_p)
    focus = torch.where(p_is_1, 0.0**gamma, (-torch.expm1(inside)) ** gamma)
    return torch.where(p_is_0, -log_p, -focus * torch.where(p_is_0, -1.0, log_p))
