"""Runs benchmark suites and keeps their results as rows: ``goskill bench``.

A suite is a pytest module of this folder whose tests use the ``benchmark`` fixture. Tests of one group are
compared with each other; ``peer`` in ``benchmark.extra_info`` marks what the others are measured against.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from goskill.errors import InputError, closest
from goskill.files import write_atomically

FOLDER = Path(__file__).parent
NOT_SUITES = {"__init__", "runner", "report", "precision", "recipes", "goal_probe", "conftest"}
PACKAGES = ("goskill", "torch", "numpy", "triton", "metaworld", "mujoco")


def suites() -> list[str]:
    """The names of the suites that are installed."""
    return sorted(file.stem for file in FOLDER.glob("*.py") if file.stem not in NOT_SUITES)


def run(
    suite: str, *, gpu: bool = False, select: str | None = None, limit: float | None = None
) -> tuple[list[dict[str, Any]], str | None]:
    """Runs one suite in a process of its own; returns a row per benchmark, and what went wrong with others.

    Args:
        suite: a name of :func:`suites`.
        gpu: run the benchmarks marked ``gpu`` instead of the others.
        select: a pytest ``-k`` expression.
        limit: seconds after which the suite is interrupted; what was measured by then counts.

    Raises:
        InputError: no such suite, or pytest-benchmark is missing.
    """
    if suite not in suites():
        raise InputError(f"unknown benchmark suite {suite!r}: {closest(suite, suites())}")
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise InputError("goskill bench needs pytest-benchmark: pip install 'goskill[bench]'")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable,
            "-m",
            "pytest",
            str(FOLDER / f"{suite}.py"),
            "-q",
            "-p",
            "no:cacheprovider",
        ]
        command += ["--rootdir", str(FOLDER), "-c", os.devnull, "--import-mode=importlib"]
        command += [
            "--benchmark-json",
            str(report),
            "--benchmark-group-by=group",
            "-m",
            "gpu" if gpu else "not gpu",
        ]
        command += ["-k", select] if select else []
        status = _run(command, folder, limit)
        text = report.read_text() if report.exists() else ""
        benchmarks = json.loads(text)["benchmarks"] if text else []
    fault = None
    if status is None:
        fault = f"benchmark suite {suite!r} was interrupted after {limit:g} seconds"
    elif status not in (0, 5):
        fault = f"benchmark suite {suite!r} failed with pytest's exit status {status}"
    return [_row(suite, benchmark) for benchmark in benchmarks], fault


def _run(command: list[str], folder: str, limit: float | None) -> int | None:
    """The command's exit status, None if it had to be interrupted."""
    with subprocess.Popen(command, cwd=folder) as process:
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # pytest then ends in order
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()
            return None
        except BaseException:
            process.kill()
            raise


def append(rows: list[dict[str, Any]], file: Path) -> None:
    """Adds rows to a JSON-lines file: all, or none and an OSError that names it. Writers wait for each other."""
    with _alone(file):
        old = file.read_text(encoding="utf-8")
        write_atomically(file, old + "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Within, no other process adds rows to the file, which is made if it is not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(file, "ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            # Who held the lock before has put another file in this one's place.
            if os.path.samestat(os.fstat(stream.fileno()), file.stat()):
                yield
                return


def _row(suite: str, benchmark: dict[str, Any]) -> dict[str, Any]:
    stats = benchmark["stats"]
    seconds = {name: stats[name] for name in ("min", "q1", "median", "q3", "max")}
    return {
        "suite": suite,
        "group": benchmark["group"],
        "name": benchmark["name"],
        "seconds": seconds,
        "rounds": stats["rounds"],
        "facts": benchmark["extra_info"],
        **provenance(),
    }


def provenance() -> dict[str, Any]:
    """When, what and where: date, commit, package versions, machine."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": _machine(),
    }


def _commit() -> str | None:
    if commit := os.environ.get("GOSKILL_COMMIT"):
        return commit
    if shutil.which("git") is None:
        return None
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=False
    )
    return git.stdout.strip() or None


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name) is not None}


def _machine() -> dict[str, Any]:
    import torch

    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        processor = next(
            (line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor
        )
    machine: dict[str, Any] = {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "simd": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine
