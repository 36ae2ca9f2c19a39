"""Where people read what goskill says: terminals of any width and encoding, and pipes that close."""

from __future__ import annotations

import contextlib
import os

from rich.console import Console


class Terminal(Console):
    """A console whose reader may go away: from then on it is silent, and the work goes on."""

    def on_broken_pipe(self) -> None:
        """What is written later, by others too, goes nowhere instead of failing again."""
        self.quiet = True
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)


def amount(value: float, sign: str = "") -> str:
    """A return in a table: without decimals from 100 on, else to three digits. ``sign`` "+" shows that of positives."""
    return format(value, f"{sign}.0f" if abs(value) >= 99.95 or value == 0 else f"{sign}.3g")
