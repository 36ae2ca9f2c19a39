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
Chosen = Literal["reference", "cpp", "triton"]

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def implementation_for(tensor: Tensor) -> Chosen:
    """What ``impl="auto"`` picks for an input like ``tensor``."""
    if tensor.dtype not in KERNEL_DTYPES:
        return "reference"
    if tensor.device.type == "cpu":
        return "cpp"
    if tensor.device.type == "cuda" and triton_installed():
        return "triton"
    return "reference"


def choose(impl: str, tensor: Tensor) -> Chosen:
    """Resolves ``impl`` for ``tensor``; a forced choice that does not fit is an InputError."""
    check_choice("impl", impl, ("auto", "reference", "cpp", "triton"))
    if impl == "auto":
        return implementation_for(tensor)
    if impl == "reference":
        return "reference"
    device = "cpu" if impl == "cpp" else "cuda"
    if tensor.device.type != device:
        raise InputError(f"impl={impl!r} needs tensors on {device}, got {tensor.device}")
    if tensor.dtype not in KERNEL_DTYPES:
        raise InputError(f"impl={impl!r} takes float32, bfloat16 or float16, got {tensor.dtype}")
    if impl == "triton" and not triton_installed():
        raise InputError("impl='triton' needs the package triton, which is not installed")
    return "cpp" if impl == "cpp" else "triton"
