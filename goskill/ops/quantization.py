"""Vector quantisation: lookup, straight-through codes, losses and codebook statistics in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

import goskill.ops.reference as reference
from goskill.errors import InputError
from goskill.ops.checks import check_choice, check_codebook, check_mask, check_number
from goskill.ops.dispatch import Implementation, choose, in_batches


class CodeStatistics(NamedTuple):
    """What an exponential moving average of the codebook needs from a batch; carries no gradient."""

    counts: Tensor  # [M] rows that chose each code
    sums: Tensor  # [M, D] sum of these rows


@overload
def vector_quantize(
    x: Tensor,
    codebook: Tensor,
    *,
    mode: Literal["ema", "gradient"] = ...,
    commitment_weight: float = ...,
    codebook_weight: float = ...,
    freeze: bool = ...,
    mask: Tensor | None = ...,
    return_statistics: Literal[False] = ...,
    impl: Implementation = ...,
) -> tuple[Tensor, Tensor, Tensor]: ...
@overload
def vector_quantize(
    x: Tensor,
    codebook: Tensor,
    *,
    mode: Literal["ema", "gradient"] = ...,
    commitment_weight: float = ...,
    codebook_weight: float = ...,
    freeze: bool = ...,
    mask: Tensor | None = ...,
    return_statistics: Literal[True],
    impl: Implementation = ...,
) -> tuple[Tensor, Tensor, Tensor, CodeStatistics]: ...
def vector_quantize(
    x: Tensor,
    codebook: Tensor,
    *,
    mode: Literal["ema", "gradient"] = "ema",
    commitment_weight: float = 1.0,
    codebook_weight: float = 1.0,
    freeze: bool = False,
    mask: Tensor | None = None,
    return_statistics: bool = False,
    impl: Implementation = "auto",
) -> tuple[Tensor, Tensor, Tensor] | tuple[Tensor, Tensor, Tensor, CodeStatistics]:
    """Replaces every row by its nearest code (van den Oord et al. 2017).

    The gradient of ``quantized`` goes to ``x`` unchanged (straight-through) and not to the codebook. The loss
    is ``commitment_weight * mean((x - sg(e))^2)``, plus ``codebook_weight * mean((sg(x) - e)^2)`` in mode
    ``"gradient"``, with the mean over rows and dimensions. In mode ``"ema"`` the codebook gets no gradient:
    move it with the returned statistics.

    Args:
        x: rows [..., D], float32, bfloat16, float16 or float64.
        codebook: codes [M, D].
        mode: how the codebook learns.
        freeze: the codebook learns nothing: no gradient, whatever the mode.
        mask: bool [...]; rows with False stay out of loss and statistics, get quantized 0 and index -1.
        return_statistics: also return :class:`CodeStatistics`, taken in the same pass over ``x``.
        impl: ``"auto"``, ``"reference"``, ``"cpp"`` or ``"triton"``.

    Returns:
        quantized [..., D] in the dtype of ``x``, indices int64 [...], loss (a scalar, at least float32; 0
        when no row counts), and the statistics if asked for.

    Raises:
        InputError: wrong dtype, device or shape, an empty codebook, a weight that is no number, or an ``impl``
            that does not fit.
    """
    check_codebook(x, codebook)
    check_choice("mode", mode, ("ema", "gradient"))
    check_number("commitment_weight", commitment_weight)
    check_number("codebook_weight", codebook_weight)
    if mask is not None:
        check_mask(mask, x.shape[:-1], x.device)
    learning = mode == "gradient" and not freeze
    quantize = reference.vector_quantize if choose(impl, x) == "reference" else _vector_quantize
    quantized, indices, loss, counts, sums = quantize(
        x,
        codebook if learning else codebook.detach(),
        mask,
        commitment_weight,
        codebook_weight if learning else 0.0,
    )
    if return_statistics:
        return quantized, indices, loss, CodeStatistics(counts, sums)
    return quantized, indices, loss


@torch.no_grad()
def move_codebook(
    cluster_size: Tensor,
    average: Tensor,
    codes: Tensor,
    statistics: CodeStatistics,
    *,
    decay: float = 0.8,
    eps: float = 1e-5,
    impl: Implementation = "auto",
) -> None:
    """Moves a codebook by exponential moving averages of its statistics, in place.

    ``cluster_size`` and ``average`` move by ``1 - decay`` towards the counts and sums; a code becomes its
    average over its cluster size, Laplace-smoothed by ``eps`` (van den Oord et al. 2017, appendix A.1).

    Args:
        cluster_size: averaged counts [M]. average: averaged sums [M, D]. codes: [M, D]. All contiguous.
        statistics: of a batch, as :func:`vector_quantize` returns them.
        decay: share of the old value. eps: smoothing.
        impl: ``"auto"``, ``"reference"``, ``"cpp"`` or ``"triton"``.

    Raises:
        InputError: shapes that do not fit each other, memory that is not contiguous, or an ``impl`` that does
            not fit.
    """
    for name, tensor, shape in (
        ("cluster_size", cluster_size, codes.shape[:1]),
        ("average", average, codes.shape),
        ("statistics.counts", statistics.counts, codes.shape[:1]),
        ("statistics.sums", statistics.sums, codes.shape),
    ):
        if tensor.shape != shape:
            raise InputError(f"{name} must have shape {list(shape)}, got {list(tensor.shape)}")
    for name, tensor in (("cluster_size", cluster_size), ("average", average), ("codes", codes)):
        if not tensor.is_contiguous():
            raise InputError(f"{name} must be contiguous, got strides {tensor.stride()}")
    kernel = choose(impl, codes) != "reference"
    float32 = all(
        t.dtype == torch.float32 for t in (cluster_size, average, codes, statistics.counts, statistics.sums)
    )
    move = torch.ops.goskill.move_codebook_ if kernel and float32 else reference.move_codebook
    move(cluster_size, average, codes, statistics.counts, statistics.sums, decay, eps)


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        codebook: Tensor,
        mask: Tensor | None,
        commitment_weight: float,
        codebook_weight: float,
    ) -> tuple[Tensor, ...]:
        quantized, indices, loss, counts, sums, elements = torch.ops.goskill.vector_quantize(
            x, codebook, mask, commitment_weight, codebook_weight
        )
        # Copies, for the codebook moves before its gradient is asked for and the outputs are the caller's to change.
        codes = codebook.to(torch.float32, copy=True)
        pull = counts.unsqueeze(-1) * codes - sums if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(x if commitment_weight else None, codes, indices.clone(), elements, pull)
        ctx.mark_non_differentiable(indices, counts, sums)
        ctx.weights, ctx.codebook_dtype = (commitment_weight, codebook_weight), codebook.dtype
        # For second derivatives, of which compiled graphs have none.
        compiling = torch.compiler.is_compiling()
        ctx.of_codebook = None if compiling or pull is None else (codebook, counts.unsqueeze(-1).clone())
        return quantized, indices, loss, counts, sums

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _indices: Any, loss_gradient: Tensor, *_statistics: Any) -> Any:
        x, codes, indices, elements, pull = ctx.saved_tensors
        commitment_weight, codebook_weight = ctx.weights
        # The kernels know neither second derivatives nor batches of gradients; the formula does.
        by_formula = torch.is_grad_enabled() or in_batches(gradient, loss_gradient)
        to_x = to_codebook = None
        if ctx.needs_input_grad[0] and (by_formula or x is None):
            to_x = gradient
            if x is not None:
                factor = 2 * commitment_weight * loss_gradient / elements.clamp(min=1)
                to_x = (gradient + factor * (x.float() - codes[indices])).to(gradient.dtype)
            to_x = torch.where((indices >= 0).unsqueeze(-1), to_x, 0)
        elif ctx.needs_input_grad[0]:
            to_x = torch.ops.goskill.straight_through(
                x, codes, indices, gradient, loss_gradient, elements, commitment_weight
            )
        if pull is not None:
            if by_formula:
                codebook, counts = ctx.of_codebook
                # The value of the codebook then, the derivative of the codebook now.
                pull = pull + counts * (codebook - codebook.detach())
            factor = 2 * codebook_weight * loss_gradient / elements.clamp(min=1)
            to_codebook = (pull * factor).to(ctx.codebook_dtype)
        return to_x, to_codebook, None, None, None


def _vector_quantize(
    x: Tensor, codebook: Tensor, mask: Tensor | None, commitment_weight: float, codebook_weight: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = x.reshape(-1, x.shape[-1])
    row_mask = None if mask is None else mask.reshape(-1)
    quantize: Callable[..., tuple[Tensor, ...]] = torch.ops.goskill.vector_quantize
    if torch.is_grad_enabled() and (x.requires_grad or codebook.requires_grad):
        quantize = _Quantize.apply
    quantized, indices, loss, counts, sums = quantize(
        rows, codebook, row_mask, commitment_weight, codebook_weight
    )[:5]
    return quantized.reshape(x.shape), indices.reshape(x.shape[:-1]), loss, counts, sums
