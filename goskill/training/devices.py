"""Where and in which precision to train."""

from __future__ import annotations

import torch

from goskill.errors import InputError


def choose_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is the GPU where there is one. Raises InputError if absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device must be auto, cpu, cuda or cuda:N, not {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device must be auto, cpu, cuda or cuda:N, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {name!r} is not there: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device
