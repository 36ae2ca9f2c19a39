"""Whether a store fits into the memory that a process may still take."""

from __future__ import annotations

from pathlib import Path

from goskill.data.layout import StoreLayout
from goskill.errors import InputError


def check_memory(layout: StoreLayout) -> None:
    """InputError if the columns need more memory than is available; what cannot be told passes."""
    needed = sum(
        (shard.folder / f"{name}.npy").stat().st_size for shard in layout.shards for name in shard.columns
    )
    available = available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"in_memory: {layout.path} needs {needed / 2**30:.1f} GiB of memory, "
            f"{available / 2**30:.1f} GiB are available"
        )


def available_memory(
    meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Bytes that this machine and the limit of a container (cgroup v2) leave a process, None where neither says."""
    lines = meminfo.read_text(encoding="ascii").splitlines() if meminfo.exists() else []
    left = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    try:
        limit, used, stat = (
            (cgroup / f"memory.{name}").read_text(encoding="ascii") for name in ("max", "current", "stat")
        )
        if limit.strip() != "max":
            # What is cached of files counts as used, but gives way.
            cached = [int(line.split()[1]) for line in stat.splitlines() if "active_file " in line]
            left.append(max(0, int(limit) - int(used) + sum(cached)))
    except (OSError, ValueError):
        pass  # no such limit, or not ours to read
    return min(left, default=None)
