"""Drop-in for ``vector_quantize_pytorch.VectorQuantize`` for plain Euclidean codebooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from goskill import ops
from goskill.errors import InputError
from goskill.nn.codebook import Codebook


class VectorQuantize(nn.Module):
    """Replaces vectors by codes that follow them by exponential moving averages or by gradient.

    Arguments, results and state-dict names are those of ``vector_quantize_pytorch.VectorQuantize``; arguments
    of that class that are not listed here are refused by name. The numbers are the same too, except that the
    gradient is always straight-through (there the rotation trick is the default) and that dead codes draw
    other random rows. Nothing in a step depends on values on the host, so the step can be captured in a CUDA
    graph once k-means has run.

    Args:
        dim: size of the vectors.
        codebook_size: number of codes M.
        codebook_dim: size of the codes; linear projections lead in and out when it is not ``dim``.
        decay: share of the old value in the moving averages.
        eps: Laplace smoothing of the code counts.
        freeze_codebook: the codebook stays as it is; may be changed or overridden per call.
        kmeans_init: the first batch initialises the codebook by k-means, in training and evaluation.
        kmeans_iters: iterations of k-means.
        threshold_ema_dead_code: a code whose averaged count falls below this is replaced by a random row of
            the batch; 0 switches it off.
        channel_last: vectors lie in the last dimension; else in dimension 1.
        accept_image_fmap: the same as ``channel_last=False``, for [B, D, height, width].
        commitment_weight: weight of the loss.
        learnable_codebook: the codebook is a parameter that learns from the loss, without ``ema_update``.
        ema_update: move the codebook by moving averages; None: unless it is learnable.
        rotation_trick: only False.
        sync_codebook: sum statistics over all ranks; None: when torch.distributed is running.
        impl: implementation, as in :func:`goskill.ops.vector_quantize`.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        codebook_dim: int | None = None,
        *,
        decay: float = 0.8,
        eps: float = 1e-5,
        freeze_codebook: bool = False,
        kmeans_init: bool = False,
        kmeans_iters: int = 10,
        threshold_ema_dead_code: float = 0,
        channel_last: bool = True,
        accept_image_fmap: bool = False,
        commitment_weight: float = 1.0,
        learnable_codebook: bool = False,
        ema_update: bool | None = None,
        rotation_trick: bool = False,
        sync_codebook: bool | None = None,
        impl: ops.Implementation = "auto",
        **unsupported: object,
    ) -> None:
        super().__init__()
        if unsupported:
            _refuse(unsupported)
        if rotation_trick:
            raise InputError("rotation_trick must be False: only straight-through gradients are supported")
        for name, value in (("dim", dim), ("codebook_size", codebook_size), ("codebook_dim", codebook_dim)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if not 0 <= decay <= 1:
            raise InputError(f"decay must be in [0, 1], got {decay}")
        if learnable_codebook and ema_update:
            raise InputError("ema_update must be False when learnable_codebook is True")
        self.dim = dim
        self.codebook_size = codebook_size
        self.channel_last = channel_last and not accept_image_fmap
        self.commitment_weight = commitment_weight
        self.freeze_codebook = freeze_codebook
        self.learnable_codebook = learnable_codebook
        self.impl: ops.Implementation = impl
        code_dim = dim if codebook_dim is None else codebook_dim
        projected = code_dim != dim
        self.project_in: nn.Module = nn.Linear(dim, code_dim) if projected else nn.Identity()
        self.project_out: nn.Module = nn.Linear(code_dim, dim) if projected else nn.Identity()
        self._codebook = Codebook(
            code_dim,
            codebook_size,
            decay=decay,
            eps=eps,
            kmeans_init=kmeans_init,
            kmeans_iters=kmeans_iters,
            threshold_ema_dead_code=threshold_ema_dead_code,
            learnable=learnable_codebook,
            ema_update=(not learnable_codebook) if ema_update is None else ema_update,
            synchronize=sync_codebook,
            impl=impl,
        )

    @property
    def codebook(self) -> Tensor:
        """The codes [M, codebook_dim]."""
        return self._codebook.embed[0]

    @codebook.setter
    def codebook(self, codes: Tensor) -> None:
        self._codebook.set_codes(codes)

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Codes [..., codebook_dim] of indices [...]; channels come second if the inputs' do."""
        codes = self.codebook[indices]
        return codes if self.channel_last else codes.movedim(-1, 1)

    def get_output_from_indices(self, indices: Tensor) -> Tensor:
        """What the module returns as ``quantized`` for these indices."""
        output: Tensor = self.project_out(self.codebook[indices])
        return output if self.channel_last else output.movedim(-1, 1)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, freeze_codebook: bool | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Quantises ``x`` and, in training mode, moves the codebook afterwards.

        Args:
            x: [..., dim], or [B, dim, ...] if channels come first.
            mask: bool, shaped as the indices; rows with False come out as 0 with index -1 and teach nothing.
            freeze_codebook: overrides the attribute for this call.

        Returns:
            quantized shaped as ``x``; indices int64, shaped as ``x`` without its channels; loss, a scalar,
            0 in evaluation mode, where ``quantized`` does not pass gradients to ``x`` either.
        """
        channels_first = not self.channel_last and x.ndim > 2
        if channels_first:
            x = x.movedim(1, -1)
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise InputError(f"x must hold vectors of size {self.dim}, got shape {list(x.shape)}")
        rows: Tensor = self.project_in(x)
        self._codebook.initialize(rows, mask)
        frozen = self.freeze_codebook if freeze_codebook is None else freeze_codebook
        if self.training:
            quantized, indices, loss = self._train_step(rows, mask, frozen)
        else:
            quantized, indices = self._assign(rows, mask)
            loss = torch.zeros((), device=x.device)
        output: Tensor = self.project_out(quantized)
        if mask is not None and not isinstance(self.project_out, nn.Identity):
            output = torch.where(mask.unsqueeze(-1), output, 0)
        return output.movedim(-1, 1) if channels_first else output, indices, loss

    def _train_step(self, rows: Tensor, mask: Tensor | None, frozen: bool) -> tuple[Tensor, Tensor, Tensor]:
        quantized, indices, loss, statistics = ops.vector_quantize(
            rows,
            self.codebook,
            mode="gradient" if self.learnable_codebook else "ema",
            commitment_weight=self.commitment_weight,
            codebook_weight=self.commitment_weight,
            freeze=frozen,
            mask=mask,
            return_statistics=True,
            impl=self.impl,
        )
        if self.learnable_codebook and not frozen:
            # The package counts the squared error once and lets both sides learn from it.
            loss = loss - loss.detach() / 2
        if not frozen:
            self._codebook.update(statistics, rows, mask)
        return quantized, indices, loss

    def _assign(self, rows: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        indices = ops.nearest_code(rows, self.codebook, impl=self.impl)
        quantized = self.codebook[indices].to(rows.dtype)
        if mask is None:
            return quantized, indices
        return torch.where(mask.unsqueeze(-1), quantized, 0), torch.where(mask, indices, -1)


def _refuse(unsupported: Mapping[str, Any]) -> NoReturn:
    names = ", ".join(sorted(unsupported))
    raise InputError(f"VectorQuantize does not support the argument(s) {names}")
