"""What a bug report needs: versions, processor, GPU, what MetaWorld code runs, whether rendering works."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib import metadata
from typing import Any

import goskill
from goskill.errors import InputError

PACKAGES = (
    "torch",
    "numpy",
    "triton",
    "gymnasium",
    "metaworld",
    "mujoco",
    "safetensors",
    "typer",
    "matplotlib",
)


def report() -> dict[str, Any]:
    """Facts by name, JSON-able. Costs the import of torch and nothing else that is heavy."""
    import torch

    facts: dict[str, Any] = {
        "goskill": goskill.__version__,
        "python": f"{platform.python_version()} ({platform.platform()})",
    }
    for name in PACKAGES:
        facts[name] = metadata.version(name) if importlib.util.find_spec(name) else "not installed"
    facts["cores"] = len(os.sched_getaffinity(0))
    facts["processor"] = processor_name()
    facts["vector instructions"] = torch.backends.cpu.get_cpu_capability()
    facts["CUDA devices"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts["native core"], facts["native instructions"] = _native_core()
    facts["MUJOCO_GL"] = os.environ.get("MUJOCO_GL", "not set")
    return facts


def processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()


def _native_core() -> tuple[str, str]:
    """Where it lies and the instruction set that it chose, or why not."""
    try:
        from goskill import _core
    except ImportError as error:
        return f"cannot be imported: {error}", "unknown"
    try:
        return str(_core.__file__), _core.instruction_set()
    except InputError as error:
        return str(_core.__file__), str(error)
