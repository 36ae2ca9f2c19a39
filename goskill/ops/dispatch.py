"""Which implementation of an operation runs on a tensor."""

from __future__ import annotations

import functools
import importlib.util
from typing import Literal

import torch
from torch import Tensor

from goskill.errors import InputError
from goskill.ops.checks import check_choice

Implementation = Literal["auto", "reference", "cpp", "triton"]

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def implementation_for(tensor: Tensor) -> Literal["reference", "cpp", "triton"]:
    """What ``impl="auto"`` picks for an input like ``tensor``."""
    if tensor.dtype not in KERNEL_DTYPES:
        return "reference"
    if tensor.device.type == "cpu":
        return "cpp"
    return "reference"


def choose(impl: str, tensor: Tensor) -> Literal["reference", "cpp", "triton"]:
    """Resolves ``impl`` for ``tensor``; a forced choice that does not fit is an InputError."""
    check_choice("impl", impl, ("auto", "reference", "cpp", "triton"))
    if impl == "auto":
        return implementation_for(tensor)
    if impl == "reference":
        return "reference"
    if impl == "cpp":
        expected, chosen = "cpu", "cpp"
    else:
        expected, chosen = "cuda", "triton"
    if tensor.device.type != expected:
        raise InputError(f"impl={impl!r} needs tensors on {expected}, got {tensor.device}")
    if tensor.dtype not in KERNEL_DTYPES:
        raise InputError(f"impl={impl!r} takes float32, bfloat16 or float16, got {tensor.dtype}")
    if chosen == "triton":
        raise InputError("impl='triton' is not built")
    return "cpp"
