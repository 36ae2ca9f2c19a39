"""The operations as torch operators: schemas and fakes. Implementations are registered by device.

Gradients are autograd functions beside the public operations, which cost a third of registered ones.

- ``goskill::nearest_code``: x [N, D], codebook [M, D] to indices [N], distance [N] (or empty)
- ``goskill::vector_quantize``: x, codebook to quantized [N, D], indices [N], loss, counts [M], sums [M, D], and how
  many numbers of x count
- ``goskill::straight_through``: the gradient of ``vector_quantize`` by x, from float32 codes [M, D] and its indices
- ``goskill::move_codebook_``: moves averages [M], [M, D] and codes [M, D] by counts [M] and sums [M, D]
- ``goskill::focal_loss``: logits [N, C], target [N] to the loss and the logits' gradient (or empty)
- ``goskill::focal_loss_of_tensors``: the same, of numbers that change from call to call of a compiled graph
- ``goskill::scale_rows``: a saved gradient times the loss's, one factor for all rows or one per row. ``of`` is what
  the gradient is taken by, and not read: torch.compile refuses second derivatives if it sees what they are of
- ``goskill::scale_rows_``: the same in place
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.library import define, impl, register_fake

from goskill.ops.checks import check_focal_numbers

NONE, MEAN, SUM = 0, 1, 2
REDUCTIONS = {"none": NONE, "mean": MEAN, "sum": SUM}

define(
    "goskill::nearest_code",
    "(Tensor x, Tensor codebook, bool cosine, bool with_distance) -> (Tensor, Tensor)",
)
define(
    "goskill::vector_quantize",
    "(Tensor x, Tensor codebook, Tensor? mask, float commitment_weight, float codebook_weight) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
define(
    "goskill::straight_through",
    "(Tensor x, Tensor codes, Tensor indices, Tensor gradient, Tensor loss_gradient, Tensor elements, "
    "float commitment_weight) -> Tensor",
)
define(
    "goskill::move_codebook_",
    "(Tensor(a!) cluster_size, Tensor(b!) average, Tensor(c!) codes, Tensor counts, Tensor sums, "
    "float decay, float eps) -> ()",
)
define(
    "goskill::focal_loss",
    "(Tensor logits, Tensor target, Tensor? weight, Tensor? mask, float gamma, int ignore_index, "
    "float label_smoothing, int reduction, bool with_gradient) -> (Tensor, Tensor)",
)
define(
    "goskill::focal_loss_of_tensors",
    "(Tensor logits, Tensor target, Tensor? weight, Tensor? mask, Tensor gamma, SymInt ignore_index, "
    "Tensor label_smoothing, int reduction, bool with_gradient) -> (Tensor, Tensor)",
)
define("goskill::scale_rows", "(Tensor rows, Tensor factor, Tensor? of) -> Tensor")
define("goskill::scale_rows_", "(Tensor(a!) rows, Tensor factor) -> ()")


def _fake_nearest_code(
    x: Tensor, codebook: Tensor, cosine: bool, with_distance: bool
) -> tuple[Tensor, Tensor]:
    rows = x.shape[0]
    indices = x.new_empty(rows, dtype=torch.int64)
    return indices, x.new_empty(rows if with_distance else 0, dtype=torch.float32)


def _fake_vector_quantize(
    x: Tensor, codebook: Tensor, mask: Tensor | None, commitment_weight: float, codebook_weight: float
) -> tuple[Tensor, ...]:
    return (
        x.new_empty(x.shape),
        x.new_empty(x.shape[0], dtype=torch.int64),
        x.new_empty((), dtype=torch.float32),
        x.new_empty(codebook.shape[0], dtype=torch.float32),
        x.new_empty(codebook.shape, dtype=torch.float32),
        x.new_empty((), dtype=torch.float32),
    )


def _fake_like_the_first(first: Tensor, *_others: Any) -> Tensor:
    return first.new_empty(first.shape)


def _fake_in_place(*_arguments: Any) -> None:
    return None


def _fake_focal_loss(logits: Tensor, target: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    *_, reduction, with_gradient = others
    loss = logits.new_empty(target.shape if reduction == NONE else (), dtype=torch.float32)
    return loss, logits.new_empty(logits.shape if with_gradient else (0,))


def _focal_loss_of_tensors(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    gamma: Tensor,
    ignore_index: int,
    label_smoothing: Tensor,
    reduction: int,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    exponent, smoothing = float(gamma), float(label_smoothing)
    check_focal_numbers(exponent, smoothing)
    numbers = (exponent, ignore_index, smoothing)
    found = torch.ops.goskill.focal_loss(logits, target, weight, mask, *numbers, reduction, with_gradient)
    return cast(tuple[Tensor, Tensor], found)


impl("goskill::focal_loss_of_tensors", "default", _focal_loss_of_tensors)
register_fake("goskill::nearest_code", _fake_nearest_code)
register_fake("goskill::vector_quantize", _fake_vector_quantize)
register_fake("goskill::straight_through", _fake_like_the_first)
register_fake("goskill::move_codebook_", _fake_in_place)
register_fake("goskill::focal_loss", _fake_focal_loss)
register_fake("goskill::focal_loss_of_tensors", _fake_focal_loss)
register_fake("goskill::scale_rows", _fake_like_the_first)
register_fake("goskill::scale_rows_", _fake_in_place)
