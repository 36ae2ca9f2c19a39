"""Where, in which precision and how to run steps: chosen by looking at the machine, and said."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import goskill.training.distributed as distributed
from goskill.errors import InputError
from goskill.models.fused import fused_transformers
from goskill.training.objectives import TrainingSettings


@dataclass(frozen=True)
class Execution:
    """How steps are run. ``precision`` is float32, tf32 or bfloat16."""

    device: torch.device
    precision: str
    compile: bool
    graphs: bool
    kernels: bool = False

    def __str__(self) -> str:
        device = str(self.device)
        if self.device.type == "cuda":
            device = f"{device} ({torch.cuda.get_device_name(self.device)})"
        else:
            threads = torch.get_num_threads()
            device = f"{device} ({threads} thread{'s' if threads > 1 else ''})"
        how = [device, self.precision]
        how += ["compiled"] if self.compile else []
        how += ["fused kernels"] if self.kernels else []
        how += ["whole-step CUDA graphs"] if self.graphs else []
        how += [f"{distributed.world_size()} ranks"] if distributed.world_size() > 1 else []
        return ", ".join(how)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Around a forward pass: its precision, and whether transformers run fused."""
        if self.precision != "bfloat16":
            yield
            return
        with torch.autocast(self.device.type, dtype=torch.bfloat16), fused_transformers(self.kernels):
            yield

    def current_device(self) -> AbstractContextManager[Any]:
        """Around training: streams, events and random states are those of this device unless another is named."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()

    def matmul_precision(self) -> AbstractContextManager[None]:
        """Around training: float32 products as ``precision`` says, whatever the process had before."""
        return matmul_precision("high" if self.precision == "tf32" else "highest")


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Within, ``torch.set_float32_matmul_precision(precision)``."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def choose_execution(settings: TrainingSettings) -> Execution:
    """What ``settings`` ask for, with every "auto" decided. Raises InputError for what is not there."""
    device = choose_device(settings.device)
    precision = settings.precision
    if precision == "auto":
        precision = "bfloat16" if fast_at_bfloat16(device) else "float32"
    if precision == "tf32" and device.type != "cuda":
        raise InputError("training.precision: tf32 needs a CUDA device, got a CPU")
    graphs = settings.cuda_graphs == "on" or (
        settings.cuda_graphs == "auto" and device.type == "cuda" and distributed.world_size() == 1
    )
    if graphs and device.type != "cuda":
        raise InputError("training.cuda_graphs: on needs a CUDA device, got a CPU")
    if graphs and distributed.world_size() > 1:
        raise InputError("training.cuda_graphs: on needs a single rank, got several")
    return Execution(device, precision, settings.compile, graphs, _kernels(settings, device, precision))


def _kernels(settings: TrainingSettings, device: torch.device, precision: str) -> bool:
    """Fused kernels are for bfloat16 on a GPU; what is compiled has kernels of its own."""
    return (
        settings.kernels == "auto"
        and device.type == "cuda"
        and precision == "bfloat16"
        and not settings.compile
        and importlib.util.find_spec("triton") is not None
    )


def choose_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is the GPU where there is one. Raises InputError if absent.

    Under torchrun, "auto" and "cuda" are the GPU of this rank.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", distributed.local_rank())
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise InputError(f"device: {device} is not there, this machine has {torch.cuda.device_count()} GPUs")
    return device


def fast_at_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products have instructions of their own there (AVX512-BF16, AMX, tensor cores)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
