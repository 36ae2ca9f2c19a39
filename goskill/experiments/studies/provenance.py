"""What a row says about the program and the machine that made it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import goskill
from goskill.doctor import processor_name


def commit() -> str | None:
    """The commit of the checkout that goskill is imported from, marked if there are changes; None without one."""
    folder = Path(goskill.__file__).parent
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def machine() -> dict[str, Any]:
    """Processor, cores and GPUs."""
    import torch

    found: dict[str, Any] = {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
