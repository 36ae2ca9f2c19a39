"""Ending a run when the user or the scheduler asks for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopRequest:
    """Turns the first SIGINT, SIGTERM or SIGHUP (a terminal that closes) into a request.

    The step loop answers it between two iterations. Under nohup, where SIGHUP is ignored, it stays so.

    Within ``immediate`` (long work without iterations) and from the second signal on it acts at once.
    Signals only reach the main thread; in any other the request never comes.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._immediate = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            for number in (signal.SIGINT, signal.SIGTERM, *(() if ignored else (signal.SIGHUP,))):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """Within, a signal ends the run where it is."""
        self._immediate = True
        if self.signal is not None:
            self.raise_now()
        try:
            yield
        finally:
            self._immediate = False

    def raise_now(self) -> None:
        """End as the signal asks: KeyboardInterrupt for SIGINT, SystemExit(128 + its number) for another."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self.signal or signal.SIGTERM))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        at_once = self._immediate or self.signal is not None
        self.signal = number
        if at_once:
            self.raise_now()
