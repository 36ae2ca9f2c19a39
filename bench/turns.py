"""Times ours and its peers in turn, in seconds of the processor, so that what else a machine does meets them alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

# Seconds of the processor. With the group in the same mark: of several marks pytest-benchmark reads the nearest alone.
processor_time = partial(pytest.mark.benchmark, timer=time.process_time)


def in_turn(
    benchmark: Any,
    ours: Callable[[], Any],
    peers: dict[str, Callable[[], Any]],
    rounds: int,
    prepare: Callable[[str], None] | None = None,
) -> None:
    """Time each peer before every round of ours; ``in_turn`` of the row holds the medians of the ratios.

    ``prepare`` is called, untimed, before each is timed: with the peer's name, or "" for ours.

    Raises ValueError if ours would be timed by another clock than its peers.
    """
    if benchmark._timer is not time.process_time:
        raise ValueError(f"timer: expected time.process_time, got {benchmark._timer}")
    for function in (ours, *peers.values()):
        function()
    taken: dict[str, list[float]] = {name: [] for name in peers}

    def time_peers() -> None:
        for name, peer in peers.items():
            if prepare is not None:
                prepare(name)
            taken[name].append(_seconds(peer))
        if prepare is not None:
            prepare("")

    benchmark.pedantic(ours, setup=time_peers, rounds=rounds, iterations=1)
    own = np.array(benchmark.stats.stats.data)
    benchmark.extra_info["in_turn"] = {
        name: round(float(np.median(np.array(times) / own)), 3) for name, times in taken.items()
    }
    benchmark.extra_info["threads"] = 1


def _seconds(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start
