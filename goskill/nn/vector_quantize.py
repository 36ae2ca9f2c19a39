"""Drop-in for ``vector_quantize_pytorch.VectorQuantize`` for plain Euclidean codebooks."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from goskill import ops
from goskill.errors import InputError
from goskill.nn.codebook import Codebook
from goskill.ops.checks import check_mask, check_number

# What vector_quantize_pytorch.VectorQuantize takes besides, and the values at which that changes nothing.
_ARGUMENTS_AT_DEFAULT: Mapping[str, object] = {
    "heads": 1,
    "separate_codebook_per_head": False,
    "sync_kmeans": True,
    "use_cosine_sim": False,
    "layernorm_after_project_in": False,
    "commitment_use_cross_entropy_loss": False,
    "orthogonal_reg_weight": 0.0,
    "orthogonal_reg_active_codes_only": False,
    "orthogonal_reg_max_codes": None,
    "codebook_diversity_loss_weight": 0.0,
    "codebook_diversity_temperature": 100.0,
    "stochastic_sample_codes": False,
    "sample_codebook_temp": 1.0,
    "straight_through": False,
    "directional_reparam": False,
    "directional_reparam_variance": 5e-3,
    "sync_affine_param": False,
    "vq_bridge": None,
    "manual_ema_update": False,
    "in_place_codebook_optimizer": None,
    "manual_in_place_optimizer_update": False,
    "affine_param": False,
    "affine_param_batch_decay": 0.99,
    "affine_param_codebook_decay": 0.9,
    "sync_update_v": 0.0,
    "return_zeros_for_masked_padding": True,
    "route_gradients_to_input": True,
}
_OPTIONS_AT_DEFAULT: Mapping[str, object] = {
    "indices": None,
    "topk": None,
    "sample_codebook_temp": None,
    "return_loss_breakdown": False,
    "codebook_transform_fn": None,
    "ema_update_weight": None,
    "accum_ema_update": False,
    "ema_update": None,
}


class VectorQuantize(nn.Module):
    """Replaces vectors by codes that follow them by exponential moving averages or by gradient.

    Arguments, results and state-dict names are those of ``vector_quantize_pytorch.VectorQuantize``. Its other
    arguments are taken at their defaults and refused by name at any other value. The numbers are the same too,
    except that the gradient is always straight-through (there the rotation trick is the default) and for what
    DIFFERENCES.md lists. Nothing in a step depends on values on the host, so the step can be captured in a CUDA
    graph once k-means has run.

    Args:
        dim: size of the vectors.
        codebook_size: number of codes M.
        codebook_dim: size of the codes; linear projections lead in and out when it is not ``dim``.
        decay: share of the old value in the moving averages.
        eps: Laplace smoothing of the code counts.
        freeze_codebook: the codebook stays as it is; may be changed or overridden per call.
        kmeans_init: k-means on the first batch with rows that count gives the codes, in training and evaluation (on
            several ranks in training only). Codes that come from elsewhere before are kept, whichever way the buffers
            got them.
        kmeans_iters: iterations of k-means, at least 1.
        threshold_ema_dead_code: a code whose averaged count falls below this is replaced by a random row of
            the batch; 0 switches it off.
        channel_last: vectors lie in the last dimension; else in dimension 1.
        accept_image_fmap: the same as ``channel_last=False``, for [B, D, height, width].
        accept_3d_fmap: the same for [B, D, depth, height, width].
        commitment_weight: weight of the loss, at least 0.
        learnable_codebook: the codebook is a parameter that learns from the loss, without ``ema_update``.
        ema_update: move the codebook by moving averages; None: unless it is learnable.
        rotation_trick: only False, which None stands for too.
        sync_codebook: sum statistics over all ranks; None: when torch.distributed runs on several.
        impl: implementation, as in :func:`goskill.ops.vector_quantize`.

    Raises:
        InputError: a wrong argument, or one that is not supported at another value than its default.
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
        accept_3d_fmap: bool = False,
        commitment_weight: float = 1.0,
        learnable_codebook: bool | None = None,
        ema_update: bool | None = None,
        rotation_trick: bool | None = None,
        sync_codebook: bool | None = None,
        impl: ops.Implementation = "auto",
        **unsupported: object,
    ) -> None:
        super().__init__()
        _refuse_others(unsupported, _ARGUMENTS_AT_DEFAULT)
        if rotation_trick:
            raise InputError("rotation_trick must be False: only straight-through gradients are supported")
        sizes = {"dim": dim, "codebook_size": codebook_size, "codebook_dim": codebook_dim}
        for name, value in {**sizes, "kmeans_iters": kmeans_iters}.items():
            if value is not None and (not isinstance(value, numbers.Integral) or value < 1):
                raise InputError(f"{name} must be a whole number of at least 1, got {value!r:.80}")
        if not 0 <= decay <= 1:
            raise InputError(f"decay must be in [0, 1], got {decay}")
        for name, number in (("commitment_weight", commitment_weight), ("eps", eps)):
            check_number(name, number)
            if not 0 <= number < math.inf:
                raise InputError(f"{name} must be finite and at least 0, got {number}")
        if not -math.inf < threshold_ema_dead_code < math.inf:
            raise InputError(f"threshold_ema_dead_code must be finite, got {threshold_ema_dead_code}")
        learnable_codebook = bool(learnable_codebook)
        if learnable_codebook and ema_update:
            raise InputError("ema_update must be False when learnable_codebook is True")
        self.dim = dim
        self.codebook_size = codebook_size
        self.channel_last = channel_last and not (accept_image_fmap or accept_3d_fmap)
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
    def ema_update(self) -> bool:
        """Whether the codes move by moving averages."""
        return self._codebook.ema_update

    @property
    def codebook(self) -> Tensor:
        """The codes [M, codebook_dim]."""
        return self._codebook.embed[0]

    @codebook.setter
    def codebook(self, codes: Tensor) -> None:
        self._codebook.set_codes(codes)

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Codes [..., codebook_dim] of indices [...], 0 for -1; channels come second if the inputs' do."""
        codes = _zero_where(indices < 0, self.codebook[indices])
        return codes if self.channel_last else codes.movedim(-1, 1)

    def get_output_from_indices(self, indices: Tensor) -> Tensor:
        """What the module returns as ``quantized`` for these indices: 0 for -1, that of rows that do not count."""
        output = _zero_where(indices < 0, self.project_out(self.codebook[indices]))
        return output if self.channel_last else output.movedim(-1, 1)

    def forward(
        self,
        x: Tensor,
        indices: None = None,
        mask: Tensor | None = None,
        lens: Tensor | None = None,
        topk: None = None,
        sample_codebook_temp: None = None,
        freeze_codebook: bool | None = None,
        **unsupported: object,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Quantises ``x`` and, in training mode, moves the codebook afterwards.

        Args:
            x: [..., dim], or [B, dim, ...] if channels come first.
            mask: bool, shaped as the indices; rows with False come out as 0 with index -1 and teach nothing.
            lens: int [B], instead of a mask: how many of the N rows count in each sequence of x [B, N, dim].
            freeze_codebook: overrides the attribute for this call.
            indices, topk, sample_codebook_temp, and what else that package takes: only at their defaults.

        Returns:
            quantized shaped as ``x``; indices int64, shaped as ``x`` without its channels; loss, a scalar,
            0 in evaluation mode, where ``quantized`` does not pass gradients to ``x`` either.

        Raises:
            InputError: wrong shapes or dtypes, or an argument that is not supported.
        """
        if unsupported or not (indices is None and topk is None and sample_codebook_temp is None):
            options = {"indices": indices, "topk": topk, "sample_codebook_temp": sample_codebook_temp}
            _refuse_others({**options, **unsupported}, _OPTIONS_AT_DEFAULT)
        channels_first = not self.channel_last and x.ndim > 2
        if channels_first:
            x = x.movedim(1, -1)
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise InputError(f"x must hold vectors of size {self.dim}, got shape {list(x.shape)}")
        if lens is not None:
            mask = _mask_of(lens, mask, x)
        if mask is not None:
            check_mask(mask, x.shape[:-1], x.device)
        rows: Tensor = self.project_in(x)
        self._codebook.initialize(rows, mask)
        frozen = self.freeze_codebook if freeze_codebook is None else freeze_codebook
        if self.training:
            quantized, chosen, loss = self._train_step(rows, mask, frozen)
        else:
            quantized, chosen = self._assign(rows, mask)
            loss = torch.zeros((), device=x.device)
        output: Tensor = self.project_out(quantized)
        if mask is not None and not isinstance(self.project_out, nn.Identity):
            output = _zero_where(~mask, output)
        return output.movedim(-1, 1) if channels_first else output, chosen, loss

    def _train_step(self, rows: Tensor, mask: Tensor | None, frozen: bool) -> tuple[Tensor, Tensor, Tensor]:
        learns = self.learnable_codebook and self.commitment_weight > 0
        quantized, indices, loss, statistics = ops.vector_quantize(
            rows,
            self.codebook,
            mode="gradient" if learns else "ema",
            commitment_weight=self.commitment_weight,
            codebook_weight=self.commitment_weight,
            freeze=frozen,
            mask=mask,
            return_statistics=True,
            impl=self.impl,
        )
        if learns and not frozen:
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
        return _zero_where(~mask, quantized), torch.where(mask, indices, -1)


def _zero_where(where: Tensor, rows: Tensor) -> Tensor:
    """The rows [..., D], but 0 where ``where`` [...] is True."""
    return torch.where(where.unsqueeze(-1), 0, rows)


def _refuse_others(arguments: Mapping[str, object], defaults: Mapping[str, object]) -> None:
    """An InputError for arguments that are not among ``defaults``, or not at their value."""

    def refused(name: str, value: object) -> bool:
        plain = value is None or isinstance(value, (bool, int, float))
        return name not in defaults or not plain or value != defaults[name]

    names = sorted(name for name, value in arguments.items() if refused(name, value))
    if names:
        known = ", ".join(f"{name}={defaults[name]}" for name in names if name in defaults)
        only = f": takes {known} only" if known else ""
        raise InputError(f"VectorQuantize does not support the argument(s) {', '.join(names)}{only}")


def _mask_of(lens: Tensor, mask: Tensor | None, x: Tensor) -> Tensor:
    """The mask [B, N] that is True for the first ``lens`` [B] rows of each sequence of ``x`` [B, N, dim]."""
    if mask is not None:
        raise InputError("lens must not be given with a mask")
    if lens.dtype not in (torch.int64, torch.int32):
        raise InputError(f"lens must be an int64 tensor, got {lens.dtype}")
    if x.ndim != 3 or lens.shape != x.shape[:1]:
        raise InputError(
            f"lens must have shape [B] for x of [B, N, dim], got {list(lens.shape)} for {list(x.shape)}"
        )
    if lens.device != x.device:
        raise InputError(f"lens must be on {x.device}, got {lens.device}")
    return torch.arange(x.shape[1], device=x.device) < lens.unsqueeze(-1)
