"""The code of a codebook that is nearest to each row."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

import goskill.ops.reference as reference
from goskill.ops.checks import check_choice, check_codebook
from goskill.ops.dispatch import Implementation, choose

Metric = Literal["euclidean", "cosine"]


@overload
def nearest_code(
    x: Tensor,
    codebook: Tensor,
    *,
    metric: Metric = ...,
    return_distance: Literal[False] = ...,
    impl: Implementation = ...,
) -> Tensor: ...
@overload
def nearest_code(
    x: Tensor,
    codebook: Tensor,
    *,
    metric: Metric = ...,
    return_distance: Literal[True],
    impl: Implementation = ...,
) -> tuple[Tensor, Tensor]: ...
def nearest_code(
    x: Tensor,
    codebook: Tensor,
    *,
    metric: Metric = "euclidean",
    return_distance: bool = False,
    impl: Implementation = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Index of the nearest code for every row.

    Args:
        x: rows [..., D], float32, bfloat16, float16 or float64.
        codebook: codes [M, D], any of these dtypes.
        metric: ``"euclidean"`` or ``"cosine"`` (1 - cosine similarity; a zero vector has similarity 0, and vectors
            have to have norms from 1e-12 to 1e19, whose squares float32 holds).
        return_distance: also return the distance [...] to the chosen code (squared when Euclidean),
            float32, or float64 for float64 rows.
        impl: ``"auto"``, ``"reference"``, ``"cpp"`` or ``"triton"``.

    Returns:
        Indices int64 [...]; the lowest index when several codes are equally near. A row that holds NaN gets
        index 0 and distance NaN; a code that holds NaN is never the nearest while another is not NaN. Neither
        result carries a gradient.

    Raises:
        InputError: wrong dtype, device or shape, an empty codebook, or an ``impl`` that does not fit.
    """
    check_codebook(x, codebook)
    check_choice("metric", metric, ("euclidean", "cosine"))
    if choose(impl, x) == "reference":
        indices = reference.nearest_code(x, codebook, metric)
        if not return_distance:
            return indices
        return indices, reference.code_distance(x, codebook, indices, metric)
    shape = x.shape[:-1]
    indices, distance = torch.ops.goskill.nearest_code(
        x.detach().reshape(-1, x.shape[-1]), codebook.detach(), metric == "cosine", return_distance
    )
    indices = indices.reshape(shape)
    return (indices, distance.reshape(shape)) if return_distance else indices
