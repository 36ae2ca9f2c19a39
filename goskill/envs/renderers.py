"""Triton beside Mesa's software renderers (OSMesa, and EGL without a graphics driver) in one process.

Each brings an LLVM. A process that loads Triton's after Mesa's crashes; the other order works.
"""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path


def prepare_for_mesa() -> None:
    """Load Triton, if it is installed, before Mesa is loaded; what trains or acts on a GPU later needs it."""
    loaded = ""
    with contextlib.suppress(OSError):
        loaded = Path("/proc/self/maps").read_text()
    if "libLLVM" not in loaded:
        with contextlib.suppress(ImportError, OSError):
            importlib.import_module("triton")
