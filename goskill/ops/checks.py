"""Input checks that the operations share. None of them reads a tensor's values."""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor

from goskill.errors import InputError

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_floating(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOATING:
        raise InputError(f"{name} must be a floating-point tensor, got {tensor.dtype}")


def check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise InputError(f"{name} must be on {device}, got {tensor.device}")


def check_codebook(x: Tensor, codebook: Tensor) -> None:
    check_floating("x", x)
    check_floating("codebook", codebook)
    check_device("codebook", codebook, x.device)
    if codebook.ndim != 2:
        raise InputError(f"codebook must have shape [codes, dim], got {list(codebook.shape)}")
    if codebook.shape[0] == 0 or codebook.shape[1] == 0:
        raise InputError(f"codebook must hold at least one code of one dimension, got {list(codebook.shape)}")
    if x.ndim == 0 or x.shape[-1] != codebook.shape[1]:
        raise InputError(
            f"x must have shape [..., {codebook.shape[1]}] to match the codebook, got {list(x.shape)}"
        )


def check_mask(mask: Tensor, shape: torch.Size, device: torch.device) -> None:
    if mask.dtype != torch.bool:
        raise InputError(f"mask must be a bool tensor, got {mask.dtype}")
    if mask.shape != shape:
        raise InputError(f"mask must have shape {list(shape)}, got {list(mask.shape)}")
    check_device("mask", mask, device)


def check_number(name: str, value: object) -> None:
    """A tensor is none: its gradient would be lost."""
    if not isinstance(value, numbers.Real):
        got = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise InputError(f"{name} must be a number, got {got}")


def check_focal_numbers(gamma: float, label_smoothing: float) -> None:
    check_number("gamma", gamma)
    check_number("label_smoothing", label_smoothing)
    if not 0 <= gamma < math.inf:
        raise InputError(f"gamma must be finite and at least 0, got {gamma}")
    if not 0 <= label_smoothing <= 1:
        raise InputError(f"label_smoothing must be in [0, 1], got {label_smoothing}")


def target_error(value: int, row: int, classes: int, ignore_index: int) -> InputError:
    return InputError(f"target must be in [0, {classes}) or {ignore_index}, got {value} at row {row}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
