"""Times ours and its peers in turn, in seconds of the processor, so that what else a machine does meets them alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def in_turn(
    benchmark: Any, ours: Callable[[], Any], peers: dict[str, Callable[[], Any]], rounds: int
) -> None:
    """Time ours and each peer one after the other; ``in_turn`` of the row holds the medians of neighbours' ratios."""
    for function in (ours, *peers.values()):
        function()
    ratios: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        own = _seconds(ours)
        for name, peer in peers.items():
            ratios[name].append(_seconds(peer) / own)
    benchmark.extra_info["in_turn"] = {
        name: round(float(np.median(all_)), 3) for name, all_ in ratios.items()
    }
    benchmark.extra_info["threads"] = 1
    benchmark.pedantic(ours, rounds=rounds, iterations=1)


def _seconds(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start
