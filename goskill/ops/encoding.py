"""The goal encoder and the nearest code in one pass, on the CPU in C++.

``goskill.models.GoalEncoder`` followed by ``goskill.ops.nearest_code`` is the same computation in torch's
operations, for every other case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from goskill import _core
from goskill.errors import InputError

_SPREAD_MULTIPLE = 16  # outputs, the widest vector of the native pass


class RowsPerLevel(NamedTuple):
    """How many rows were computed in which arithmetic; a row that needed a better one counts in each.

    All are 0 for a single code, which needs none.
    """

    int8: int
    int16: int
    float32: int


def encodes_natively(tensor: Tensor) -> bool:
    """Whether :class:`NativeEncoder` is what is fastest for such a tensor: float32 on a CPU with AVX2 or better."""
    fits = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    return fits and _core.instruction_set() != "baseline"


class NativeEncoder:
    """A goal encoder and its codebook, made ready for :meth:`codes`: without gradients, and as they are now.

    An embedding is ``linears[0]`` and ``norm``, then the others with ReLU between them, and Tanh at the end.

    Args:
        linears: at least two float32 layers with biases, the first of K inputs, the last of E outputs.
        norm: LayerNorm of the first layer's outputs, with weight and bias. codebook: float32 [M, E].

    Raises:
        InputError: tensors of other shapes or dtypes, not contiguous or not on the CPU.
    """

    def __init__(self, linears: Sequence[nn.Linear], norm: nn.LayerNorm, codebook: Tensor) -> None:
        _check_tensor("codebook", codebook, torch.float32)
        for name, module in (*((f"linears[{i}]", layer) for i, layer in enumerate(linears)), ("norm", norm)):
            for key, weight in module.named_parameters():
                _check_tensor(f"{name}.{key}", weight, torch.float32)
        _check_shapes(linears, norm, codebook)
        folded = _fold_norm(linears[0], norm, linears[1])
        others = [(_copied(layer.weight), _copied(layer.bias)) for layer in linears[2:]]
        self._layers = [(folded.weight, folded.bias), *others]
        self._spread, self._shift = folded.spread, folded.shift
        self._epsilon = norm.eps
        self._codebook = _copied(codebook)

    def codes(
        self,
        rows: Tensor,
        *,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        from_row: Tensor | None = None,
        to_row: Tensor | None = None,
    ) -> tuple[Tensor, RowsPerLevel]:
        """The code nearest to the embedding of each change of ``rows`` [R, K].

        The change is ``rows[to_row] - rows[from_row]``, and each of ``rows`` itself if neither is given, of rows that
        become ``(rows - mean) / std`` in float32 before if these are given.

        Below 4,096 rows, for two linear layers, and without AVX-512 VNNI, the codes are those of float32, for which
        each row's sums are taken in one order, whatever the number of rows and threads. Other processors and other
        code may round differently and so choose otherwise between codes that are equally near within float32's
        rounding.

        Otherwise most rows are only computed in 8-bit integers (in 16 bits up to LayerNorm): that is held to be
        enough where the embedding lies farther from the boundary between two codes (the plane of points equally near
        to both) than the error reaches. The others, and a sample of all, are computed again in 16 bits (in float32 up
        to LayerNorm), and in the same way the rest in float32. How far the error reaches is estimated from the errors
        of all rows that were computed again, measured as changes of the distance from the boundary: six times their
        root mean square, and at least one and a half times the greatest. (They are found to be normally distributed.)
        Rows that integers round more coarsely than nine in ten of the sample are taken to err in proportion. A row
        whose error is greater than that would keep an integer's code, which may not be float32's and may depend on
        the rows beside it; no such row is known, but none is proven impossible.

        Args:
            rows: float32 [R, K]. mean, std: float32 [K], both or neither. from_row, to_row: int64 [N], both or neither.

        Returns:
            int64 [N] codes (0 for embeddings that are NaN), and how many rows were computed at which level.

        Raises:
            InputError: tensors of other shapes or dtypes, not contiguous or not on the CPU. IndexError: rows that
                are not there.
        """
        for name, tensor, dtype in (
            ("rows", rows, torch.float32),
            ("mean", mean, torch.float32),
            ("std", std, torch.float32),
            ("from_row", from_row, torch.int64),
            ("to_row", to_row, torch.int64),
        ):
            if tensor is not None:
                _check_tensor(name, tensor, dtype)
        inputs = self._layers[0][0].shape[1]
        if rows.ndim != 2 or rows.shape[1] != inputs:
            raise InputError(f"rows must have shape [R, {inputs}], got {list(rows.shape)}")
        _check_both(
            "from_row", from_row, "to_row", to_row, "[N]", None if to_row is None else to_row.shape[:1]
        )
        _check_both("mean", mean, "std", std, f"[{inputs}]", (inputs,))
        count = rows.shape[0] if to_row is None else to_row.shape[0]
        indices = torch.empty(count, dtype=torch.int64)
        levels = _core.encoded_codes(
            rows=rows.data_ptr(),
            row_count=rows.shape[0],
            dim=inputs,
            mean=_address(mean),
            std=_address(std),
            from_row=_address(from_row),
            to_row=_address(to_row),
            count=count,
            weights=[weight.data_ptr() for weight, _ in self._layers],
            biases=[bias.data_ptr() for _, bias in self._layers],
            sizes=[(weight.shape[1], weight.shape[0]) for weight, _ in self._layers],
            spread=self._spread,
            shift=self._shift.data_ptr(),
            epsilon=self._epsilon,
            codebook=self._codebook.data_ptr(),
            codes=self._codebook.shape[0],
            indices=indices.data_ptr(),
            threads=torch.get_num_threads(),
        )
        return indices, RowsPerLevel(*levels)


class _Folded(NamedTuple):
    """``y[spread:] / sqrt(sum(y[:spread]^2) + eps) + shift`` of ``y = weight @ x + bias``, all float32."""

    weight: Tensor
    bias: Tensor
    shift: Tensor
    spread: int


def _fold_norm(first: nn.Linear, norm: nn.LayerNorm, second: nn.Linear) -> _Folded:
    """``second(norm(first(x)))`` with one product, as nothing but a division by one number lies between the layers.

    With A = [W b] of the first layer less the mean of each column, LayerNorm divides A [x 1] by the root of its mean
    square, which is |R [x 1]|^2 / width for R of A = QR, or |A [x 1]|^2 / width where A has fewer rows. Both R and
    the product of the layers are found in float64, and not by LAPACK, whose threads would get in the way of the
    native pass.
    """
    inputs, outputs = first.in_features, second.out_features
    spread = -(-min(inputs + 1, first.out_features) // _SPREAD_MULTIPLE) * _SPREAD_MULTIPLE
    weight, bias, shift = (
        torch.empty(spread + outputs, inputs),
        torch.empty(spread + outputs),
        torch.empty(outputs),
    )
    _core.fold_norm(
        first_weight=first.weight.data_ptr(),
        first_bias=first.bias.data_ptr(),
        inputs=inputs,
        width=first.out_features,
        norm_weight=norm.weight.data_ptr(),
        norm_bias=norm.bias.data_ptr(),
        second_weight=second.weight.data_ptr(),
        second_bias=second.bias.data_ptr(),
        outputs=outputs,
        spread=spread,
        weight=weight.data_ptr(),
        bias=bias.data_ptr(),
        shift=shift.data_ptr(),
    )
    return _Folded(weight, bias, shift, spread)


def _check_tensor(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if (tensor.device.type, tensor.dtype) != ("cpu", dtype) or not tensor.is_contiguous():
        raise InputError(
            f"{name} must be a contiguous {dtype} tensor on the CPU, "
            f"got {tensor.dtype} on {tensor.device} with strides {tensor.stride()}"
        )


def _check_shapes(linears: Sequence[nn.Linear], norm: nn.LayerNorm, codebook: Tensor) -> None:
    if len(linears) < 2:
        raise InputError(f"linears must hold at least two layers, got {len(linears)}")
    width = linears[0].in_features
    for i, layer in enumerate(linears):
        if layer.bias is None or layer.in_features != width:
            raise InputError(f"linears[{i}] must have a bias and {width} inputs, got {layer}")
        width = layer.out_features
    first = linears[0].out_features
    if norm.normalized_shape != (first,) or norm.bias is None:
        raise InputError(f"norm must have weights and biases for {first} values, got {norm}")
    if codebook.ndim != 2 or codebook.shape[1] != width or codebook.shape[0] == 0:
        raise InputError(f"codebook must have shape [codes, {width}], got {list(codebook.shape)}")


def _check_both(
    name: str,
    tensor: Tensor | None,
    other_name: str,
    other: Tensor | None,
    wanted: str,
    shape: Sequence[int] | None,
) -> None:
    """Both of ``shape``, or neither there."""
    if tensor is None and other is None:
        return
    if tensor is None or other is None or not tensor.shape == other.shape == torch.Size(shape or ()):
        got = [None if it is None else list(it.shape) for it in (tensor, other)]
        raise InputError(f"{name} and {other_name} must both have shape {wanted}, got {got[0]} and {got[1]}")


def _copied(tensor: Tensor) -> Tensor:
    """A copy made by this thread alone: torch's others would still spin beside the native pass."""
    return torch.from_numpy(tensor.detach().numpy().copy())


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
