"""What becomes of memory that is freed while the same work is done again and again."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from goskill import _core

_lock = threading.Lock()
_users = 0


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Around many steps that need the same large tensors: memory that one frees stays for the next.

    Left alone, glibc returns what is larger than 32 MiB to the system at once, and getting fresh pages takes up to
    half as long as all that a step on the CPU does with them. The end of the outermost use returns what is free then.
    With another C library or allocator nothing changes.
    """
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _core.keep_freed_memory(True)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _core.keep_freed_memory(False)
