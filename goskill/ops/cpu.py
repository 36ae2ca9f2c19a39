"""The torch operators on the CPU, in C++ with threads and vector instructions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import impl

from goskill import _core
from goskill.ops.checks import target_error
from goskill.ops.operators import NONE

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's memory begins."""
    return None if tensor is None else tensor.data_ptr()


def _as_float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().to(torch.float32).contiguous()


def _as_codes(codebook: Tensor) -> Tensor:
    """Contiguous float32, without the microseconds that asking torch for it takes where it is so already."""
    if codebook.dtype == torch.float32 and codebook.is_contiguous():
        return codebook
    return codebook.to(torch.float32).contiguous()


def nearest_code(x: Tensor, codebook: Tensor, cosine: bool, with_distance: bool) -> tuple[Tensor, Tensor]:
    codes = _as_codes(codebook)
    codes = torch.nn.functional.normalize(codes, dim=-1) if cosine else codes
    indices = x.new_empty(x.shape[0], dtype=torch.int64)
    distance = x.new_empty(x.shape[0] if with_distance else 0, dtype=torch.float32)
    _core.nearest_code(
        x=x.data_ptr(),
        dtype=DTYPES[x.dtype],
        count=x.shape[0],
        dim=x.shape[1],
        row_stride=x.stride(0),
        column_stride=x.stride(1),
        codebook=codes.data_ptr(),
        codes=codes.shape[0],
        cosine=cosine,
        indices=indices.data_ptr(),
        distance=distance.data_ptr() if with_distance else None,
        threads=torch.get_num_threads(),
    )
    return indices, distance


def vector_quantize(
    x: Tensor, codebook: Tensor, mask: Tensor | None, commitment_weight: float, codebook_weight: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    codes = _as_codes(codebook)
    quantized_codes = codes if x.dtype == torch.float32 else codes.to(x.dtype)
    mask = None if mask is None else mask.contiguous()
    quantized = x.new_empty(x.shape)
    indices = x.new_empty(x.shape[0], dtype=torch.int64)
    error, elements = torch.empty((), dtype=torch.float32), torch.empty((), dtype=torch.float32)
    counts = x.new_empty(codes.shape[0], dtype=torch.float32)
    sums = torch.empty_like(codes)
    _core.vector_quantize(
        x=x.data_ptr(),
        dtype=DTYPES[x.dtype],
        count=x.shape[0],
        dim=x.shape[1],
        row_stride=x.stride(0),
        column_stride=x.stride(1),
        codebook=codes.data_ptr(),
        codes=codes.shape[0],
        mask=address(mask),
        indices=indices.data_ptr(),
        quantized_codes=quantized_codes.data_ptr(),
        quantized=quantized.data_ptr(),
        counts=counts.data_ptr(),
        sums=sums.data_ptr(),
        mean_squared_error=error.data_ptr(),
        elements=elements.data_ptr(),
        threads=torch.get_num_threads(),
    )
    weight = commitment_weight + codebook_weight
    return quantized, indices, error if weight == 1 else error.mul_(weight), counts, sums, elements


def straight_through(
    x: Tensor,
    codes: Tensor,
    indices: Tensor,
    gradient: Tensor,
    loss_gradient: Tensor,
    elements: Tensor,
    commitment_weight: float,
) -> Tensor:
    out = x.new_empty(x.shape)
    if gradient.stride(0) == 0:  # that of a sum: one row is read again and again
        gradient = gradient[:1].contiguous().expand(x.shape)
    _core.straight_through(
        x=x.data_ptr(),
        dtype=DTYPES[x.dtype],
        count=x.shape[0],
        dim=x.shape[1],
        row_stride=x.stride(0),
        column_stride=x.stride(1),
        gradient=gradient.data_ptr(),
        gradient_row_stride=gradient.stride(0),
        gradient_column_stride=gradient.stride(1),
        codes=codes.data_ptr(),
        indices=indices.data_ptr(),
        scale=2 * commitment_weight * float(loss_gradient) / max(1.0, float(elements)),
        out=out.data_ptr(),
        threads=torch.get_num_threads(),
    )
    return out


def move_codebook_(
    cluster_size: Tensor,
    average: Tensor,
    codes: Tensor,
    counts: Tensor,
    sums: Tensor,
    decay: float,
    eps: float,
) -> None:
    counts, sums = counts.contiguous(), sums.contiguous()
    _core.move_codebook(
        cluster_size=cluster_size.data_ptr(),
        average=average.data_ptr(),
        codes=codes.data_ptr(),
        count=codes.shape[0],
        dim=codes.shape[1],
        counts=counts.data_ptr(),
        sums=sums.data_ptr(),
        decay=decay,
        eps=eps,
        threads=torch.get_num_threads(),
    )


def focal_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    gamma: float,
    ignore_index: int,
    label_smoothing: float,
    reduction: int,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    target = target.contiguous()
    weight = _as_float(weight)
    mask = None if mask is None else mask.contiguous()
    losses = logits.new_empty(target.shape, dtype=torch.float32)
    reduced = None if reduction == NONE else logits.new_empty((), dtype=torch.float32)
    gradient = logits.new_empty(logits.shape if with_gradient else (0,))
    bad = _core.focal_loss(
        logits=logits.data_ptr(),
        dtype=DTYPES[logits.dtype],
        rows=logits.shape[0],
        classes=logits.shape[1],
        row_stride=logits.stride(0),
        target=target.data_ptr(),
        weight=address(weight),
        mask=address(mask),
        gamma=gamma,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        losses=losses.data_ptr(),
        reduced=address(reduced),
        gradient=gradient.data_ptr() if with_gradient else None,
        threads=torch.get_num_threads(),
    )
    if bad >= 0:
        raise target_error(int(target[bad]), bad, logits.shape[1], ignore_index)
    return losses if reduced is None else reduced, gradient


def scale_rows(rows: Tensor, factor: Tensor, of: Tensor | None) -> Tensor:
    return rows.clone().mul_(factor.unsqueeze(-1) if factor.ndim else factor)


def scale_rows_(rows: Tensor, factor: Tensor) -> None:
    if factor.ndim:
        rows.mul_(factor.unsqueeze(-1))
    elif float(factor) != 1.0:
        rows.mul_(factor)


for operation in (
    nearest_code,
    vector_quantize,
    straight_through,
    move_codebook_,
    focal_loss,
    scale_rows,
    scale_rows_,
):
    impl(f"goskill::{operation.__name__}", "CPU")(operation)
