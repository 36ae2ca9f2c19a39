"""Times ours and its peers in turn, in seconds of the processor, so that what else a machine does meets them alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def in_turn(
    benchmark: Any, ours: Callable[[], Any], peers: dict[str, Callable[[], Any]], rounds: int
) -> None:
    """Time each peer before every round of ours; ``in_turn`` of the row holds the medians of the ratios."""
    for function in (ours, *peers.values()):
        function()
    taken: dict[str, list[float]] = {name: [] for name in peers}

    def time_peers() -> None:
        for name, peer in peers.items():
            taken[name].append(_seconds(peer))

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
