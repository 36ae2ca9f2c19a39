"""Ours and its peers are timed by one clock."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from goskill.bench.turns import in_turn, processor_time


def test_another_clock_than_that_of_the_peers_is_refused() -> None:
    benchmark: Any = SimpleNamespace(_timer=time.perf_counter)
    with pytest.raises(ValueError, match=r"timer: expected time\.process_time"):
        in_turn(benchmark, int, {"peer": int}, rounds=1)


def test_a_group_keeps_the_clock() -> None:
    mark = processor_time(group="group")
    assert mark.kwargs == {"group": "group", "timer": time.process_time}
