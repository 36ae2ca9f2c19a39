"""Which implementation of an operation runs on a tensor."""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from goskill.errors import InputError
from goskill.ops.checks import check_choice

Implementation = Literal["auto", "reference", "cpp", "triton"]
Chosen = Literal["reference", "cpp", "triton"]

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# At import: torch.compile cannot trace a search for modules.
TRITON_INSTALLED = importlib.util.find_spec("triton") is not None


def implementation_for(tensor: Tensor) -> Chosen:
    """What ``impl="auto"`` picks for an input like ``tensor``."""
    if tensor.dtype not in KERNEL_DTYPES or transforms_active():
        return "reference"
    if tensor.device.type == "cpu":
        return "cpp"
    if tensor.device.type == "cuda" and TRITON_INSTALLED:
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
    if impl == "triton" and not TRITON_INSTALLED:
        raise InputError("impl='triton' needs the package triton, which is not installed")
    if transforms_active():
        raise InputError(
            f"impl={impl!r} has no forward mode and no torch.func transforms: use impl='auto' or 'reference'"
        )
    return "cpp" if impl == "cpp" else "triton"


def transforms_active() -> bool:
    """Whether forward mode or a transform of ``torch.func`` is at work, which only the references know."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def in_batches(*gradients: Tensor) -> bool:
    """Whether a backward pass takes several gradients at once: ``is_grads_batched``, or under ``vmap``."""
    if torch.compiler.is_compiling():
        return False
    batched = torch._C._functorch.is_legacy_batchedtensor
    return transforms_active() or any(map(batched, gradients))
