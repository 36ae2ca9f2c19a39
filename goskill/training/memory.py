"""What becomes of memory that is freed while the same work is done again and again."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from goskill import _core

_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
_lock = threading.Lock()
_users = 0


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Around many steps that need the same large tensors: memory that one frees stays for the next.

    Left alone, glibc returns what is larger than 32 MiB to the system at once, and getting fresh pages can take
    as long as all that a step on the CPU does with them. In other threads than the main one blocks above 64 MiB
    still go back. The end of the outermost use returns what is free then; what is freed later may stay until the
    next use ends. With another C library or allocator, or its settings in the environment, nothing changes.
    """
    if any(name in os.environ for name in _SETTINGS):
        yield
        return
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _core.keep_freed_memory(True)


def _leave() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            _core.keep_freed_memory(False)
