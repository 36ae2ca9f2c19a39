"""The torch operators on CUDA devices. Triton and the kernels are imported at the first call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import impl

from goskill.ops.operators import NONE


def _float_codes(codebook: Tensor) -> Tensor:
    return codebook.to(torch.float32).contiguous()


def nearest_code(x: Tensor, codebook: Tensor, cosine: bool, with_distance: bool) -> tuple[Tensor, Tensor]:
    from goskill.kernels import nearest_code as direct
    from goskill.kernels import screened

    codes = _float_codes(codebook)
    if cosine:
        codes = torch.nn.functional.normalize(codes, dim=-1)
    indices = x.new_empty(x.shape[0], dtype=torch.int64)
    distance = x.new_empty(x.shape[0] if with_distance else 0, dtype=torch.float32)
    kernels = screened if screened.pays(x.shape[0], *codes.shape) else direct
    kernels.nearest_code(x, codes, cosine, indices, distance if with_distance else None)
    return indices, distance


def vector_quantize(
    x: Tensor, codebook: Tensor, mask: Tensor | None, commitment_weight: float, codebook_weight: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    from goskill.kernels.vector_quantize import vector_quantize as launch

    codes = _float_codes(codebook)
    mask = None if mask is None else mask.contiguous()
    quantized = x.new_empty(x.shape)
    indices = x.new_empty(x.shape[0], dtype=torch.int64)
    loss, elements = (x.new_empty((), dtype=torch.float32) for _ in range(2))
    counts = codes.new_empty(codes.shape[0])
    sums = torch.empty_like(codes)
    weight = commitment_weight + codebook_weight
    launch(x, codes, mask, weight, quantized, indices, loss, counts, sums, elements)
    return quantized, indices, loss, counts, sums, elements


def straight_through(x: Tensor, *others: Any) -> Tensor:
    from goskill.kernels.vector_quantize import straight_through as launch

    out = x.new_empty(x.shape)
    launch(*[x, *others, out])
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
    from goskill.kernels.vector_quantize import move_codebook as launch

    launch(cluster_size, average, codes, counts.contiguous(), sums.contiguous(), decay, eps)


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
    from goskill.kernels.focal_loss import focal_loss as launch

    weight = None if weight is None else weight.contiguous()
    mask = None if mask is None else mask.contiguous()
    loss = logits.new_empty(target.shape if reduction == NONE else (), dtype=torch.float32)
    gradient = logits.new_empty(logits.shape if with_gradient else (0,))
    numbers = (gamma, ignore_index, label_smoothing, reduction)
    into = gradient if with_gradient else None
    launch(logits, target.contiguous(), weight, mask, *numbers, loss, into)
    return loss, gradient


def scale_rows(rows: Tensor, factor: Tensor, of: Tensor | None) -> Tensor:
    from goskill.kernels.focal_loss import scale_rows as launch

    out = torch.empty_like(rows)
    launch(rows, factor, out)
    return out


def scale_rows_(rows: Tensor, factor: Tensor) -> None:
    from goskill.kernels.focal_loss import scale_rows as launch

    launch(rows, factor, rows)


for operation in (
    nearest_code,
    vector_quantize,
    straight_through,
    move_codebook_,
    focal_loss,
    scale_rows,
    scale_rows_,
):
    impl(f"goskill::{operation.__name__}", "CUDA")(operation)
