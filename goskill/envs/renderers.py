"""MuJoCo's ways to draw: which of them works here, and beside what else in one process."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

from goskill.errors import InputError

_BACKENDS = ("egl", "osmesa")
# What raises is printed before what half-made objects say when they are deleted.
_PROBE = """
import importlib, os, sys
try:
    importlib.import_module('mujoco.' + os.environ['MUJOCO_GL']).GLContext(64, 64).make_current()
except Exception as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(1)
"""


def require_mujoco() -> None:
    """Import MuJoCo. Raises InputError where the variable ``MUJOCO_GL`` keeps it from loading."""
    try:
        importlib.import_module("mujoco")
    except Exception as error:
        chosen = os.environ.get("MUJOCO_GL")
        if not chosen:
            raise
        raise InputError(
            f"MUJOCO_GL: MuJoCo cannot be loaded with MUJOCO_GL={chosen!r}, {type(error).__name__}: {error}; expected "
            "egl (Debian: libegl1), osmesa (Debian: libosmesa6), glfw, or disabled where nothing is drawn"
        ) from error


def require_rendering() -> str:
    """Find a way to render without a screen and select it for this process (``MUJOCO_GL``).

    Each candidate is tried in a process of its own, since a broken graphics driver may end it. Raises
    InputError, saying what to install, when none works; a ``MUJOCO_GL`` that the user has set is the only
    candidate.
    """
    wanted = os.environ.get("MUJOCO_GL")
    problems = []
    for backend in (wanted,) if wanted else _BACKENDS:
        if backend == "glfw":
            return backend
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
            text=True,
        )
        if probe.returncode == 0:
            os.environ["MUJOCO_GL"] = backend
            prepare_for_mesa()
            return backend
        said = (
            " ".join(probe.stdout.split())
            or (probe.stderr.strip().splitlines() or ["ended without a word"])[-1]
        )
        problems.append(f"{backend}: {said}")
    raise InputError(
        "video: rendering is not possible on this machine; expected EGL (Debian: libegl1, libgl1-mesa-dri or "
        f"a graphics driver) or OSMesa (Debian: libosmesa6). {'; '.join(problems)}"
    )


def prepare_for_mesa() -> None:
    """Load Triton, if it is installed, before Mesa is loaded; what trains or acts on a GPU later needs it.

    Mesa's software renderers (OSMesa, and EGL without a graphics driver) and Triton bring an LLVM each. A process that
    loads Triton's after Mesa's crashes; the other order works.
    """
    loaded = ""
    with contextlib.suppress(OSError):
        loaded = Path("/proc/self/maps").read_text()
    if "libLLVM" not in loaded:
        with contextlib.suppress(ImportError, OSError):
            importlib.import_module("triton")
