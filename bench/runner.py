"""Runs benchmark suites and keeps their results as rows: ``goskill bench``.

A suite is a pytest module of this folder whose tests use the ``benchmark`` fixture. Tests of one group are
compared with each other; ``peer`` in ``benchmark.extra_info`` marks what the others are measured against.
"""

from __future__ import annotations

import fcntl
import functools
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
ENDING = 5.0  # seconds that an interrupted suite has to end in
PACKAGES = ("goskill", "torch", "numpy", "triton", "metaworld", "mujoco")


def suites() -> list[str]:
    """The names of the suites that are installed."""
    return sorted(
        file.stem for file in FOLDER.glob("*.py") if "\ndef test_" in file.read_text(encoding="utf-8")
    )


def run(
    suite: str,
    *,
    gpu: bool = False,
    select: str | None = None,
    limit: float | None = None,
    file: Path | None = None,
) -> tuple[list[dict[str, Any]], str | None]:
    """Runs one suite in a process of its own; returns a row per benchmark, and what went wrong with others.

    Args:
        suite: a name of :func:`suites`.
        gpu: run the benchmarks marked ``gpu`` instead of the others.
        select: a pytest ``-k`` expression.
        limit: seconds after which the suite is interrupted; what was measured by then counts. It has
            ``ENDING`` seconds more before it is killed.
        file: JSON-lines file to which each row is added as soon as it is there.

    Raises:
        InputError: no such suite, or pytest-benchmark is missing.
    """
    if suite not in suites():
        raise InputError(f"unknown benchmark suite {suite!r}: {closest(suite, suites())}")
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise InputError("goskill bench needs pytest-benchmark: pip install 'goskill[bench]'")
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "rows.jsonl"
        command = [sys.executable, "-m", "pytest", str(FOLDER / f"{suite}.py"), "-q"]
        command += ["-p", "no:cacheprovider", "-p", "goskill.bench.rows"]
        command += ["--suite", suite, "--rows", str(kept)]
        command += ["--append-rows", str(file.absolute())] if file else []
        command += ["--rootdir", str(FOLDER), "-c", os.devnull, "--import-mode=importlib"]
        command += ["--benchmark-group-by=group", "-m", "gpu" if gpu else "not gpu"]
        command += ["-k", select] if select else []
        status = _run(command, folder, limit)
        lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    fault = None
    if status is None:
        fault = f"benchmark suite {suite!r} was interrupted after {limit:g} seconds"
    elif status not in (0, 5):
        fault = f"benchmark suite {suite!r} failed with pytest's exit status {status}"
    return [json.loads(line) for line in lines], fault


def _run(command: list[str], folder: str, limit: float | None) -> int | None:
    """The command's exit status, None if it had to be interrupted."""
    # Within a test that runs in a process of pytest-xdist a suite would take itself for one, and time nothing.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    with subprocess.Popen(command, cwd=folder, env=environment) as process:
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # pytest then ends in order
            try:
                process.wait(ENDING)
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


def row(suite: str, benchmark: dict[str, Any]) -> dict[str, Any]:
    """The row of what pytest-benchmark measured. ``facts["calls"]``: how many calls a round timed together."""
    stats, facts = benchmark["stats"], benchmark["extra_info"]
    calls = facts.get("calls", 1)
    return {
        "suite": suite,
        "group": benchmark["group"],
        "name": benchmark["name"],
        "seconds": {name: stats[name] / calls for name in ("min", "q1", "median", "q3", "max")},
        "rounds": stats["rounds"],
        "facts": facts,
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


@functools.cache
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


@functools.cache
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
