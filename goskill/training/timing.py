"""Which part of a step takes the time."""

from __future__ import annotations

import time

import torch

PARTS = ("interaction", "sampling", "forward", "backward", "optimizer", "step")


class StepTimer:
    """Seconds of each part of the steps: ``mark`` ends the part before and begins another.

    On a GPU, parts are events on its stream that ``read`` looks at; only one iteration between two reads is
    timed, and nothing inside a captured graph, of which the whole is the part "step".
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str | None, torch.cuda.Event]] = []
        self._timing = True
        self._part: str | None = None
        self._since = 0.0

    def mark(self, part: str | None) -> None:
        """Begin ``part``; None ends the one before and begins none."""
        if not self._cuda:
            now = time.perf_counter()
            if self._part is not None:
                self._seconds[self._part] = self._seconds.get(self._part, 0.0) + now - self._since
            self._part, self._since = part, now
        elif self._timing and not torch.cuda.is_current_stream_capturing():
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
            self._events.append((part, event))

    def end_iteration(self) -> None:
        """All objectives of an iteration are through."""
        self.mark(None)
        self._timing = False

    def read(self) -> dict[str, float]:
        """Share of each part since the last read, summing to 1. On a GPU, call it after a synchronisation."""
        for (part, event), (_, following) in zip(self._events, self._events[1:], strict=False):
            if part is not None:
                seconds = event.elapsed_time(following) / 1000
                self._seconds[part] = self._seconds.get(part, 0.0) + seconds
        total = sum(self._seconds.values())
        shares = {part: self._seconds[part] / total for part in PARTS if part in self._seconds and total > 0}
        self._seconds, self._events, self._timing = {}, [], True
        return shares


class Clock:
    """Seconds since the last read, by the wall and of this process's threads on the processor."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """``seconds`` and ``cpu_seconds`` since the last read or the beginning."""
        wall, cpu = time.perf_counter(), time.process_time()
        seconds = {"seconds": wall - self._wall, "cpu_seconds": cpu - self._cpu}
        self._wall, self._cpu = wall, cpu
        return seconds
