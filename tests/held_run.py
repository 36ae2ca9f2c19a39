"""A program that trains, held before an iteration until a signal comes: ``python held_run.py STEP PROGRAM ARGUMENTS``.

So what interrupts it always comes before it ends by itself.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys

from goskill.training import Trainer


def hold_at(step: int) -> None:
    """From here on, wait for a signal before this iteration of the whole run."""
    signalled, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)
    after_iteration = Trainer._after_iteration

    def hold(trainer: Trainer, *arguments) -> None:
        after_iteration(trainer, *arguments)
        if trainer._step == step - 1:
            os.read(signalled, 1)

    Trainer._after_iteration = hold


if __name__ == "__main__":
    hold_at(int(sys.argv[1]))
    del sys.argv[:2]
    runpy.run_path(sys.argv[0], run_name="__main__")
