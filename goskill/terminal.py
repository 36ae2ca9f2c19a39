"""Where people read what goskill says: terminals of any width and encoding, and pipes that close."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


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


console = Terminal()


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr as a callback (done, total); it appears at the first call."""
    columns: Sequence[Any] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Terminal(stderr=True))
    bar = progress.add_task(title, total=None)
    with ExitStack() as shown:

        def report(done: int, total: int) -> None:
            if not progress.live.is_started:
                shown.enter_context(progress)
            progress.update(bar, completed=done, total=total)

        yield report
