"""Halves of an evaluation at the same time, so that processors are busy while a half waits for the other's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event, Lock

Job = Callable[[Event], None]
"""Works until it is done or the event is set."""


@contextmanager
def half_of_torchs_threads() -> Iterator[None]:
    """For halves that run side by side, and for all that shall round as they do: rounding depends on the threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_side_by_side(jobs: Sequence[Job]) -> None:
    """Run every job in a thread of its own, which has as many torch threads as the caller.

    The first exception of a job, and Ctrl-C, stop the others and are raised when all have ended.
    """
    stop = Event()
    if len(jobs) == 1:
        return jobs[0](stop)
    import torch

    threads = torch.get_num_threads()
    begun: list[Event] = []  # an event per job at work, set at its end
    beginning = Lock()

    def work(job: Job) -> None:
        ended = Event()
        with beginning:
            if stop.is_set():
                return
            begun.append(ended)
        try:
            torch.set_num_threads(threads)
            job(stop)
        finally:
            ended.set()

    with ThreadPoolExecutor(len(jobs), thread_name_prefix="evaluation") as pool:
        try:
            futures = [pool.submit(work, job) for job in jobs]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # After an exception there is nothing left to wait for; otherwise all are done.
            with beginning:
                stop.set()
            # Ctrl-C amid `submit` leaves a thread that the pool does not know of.
            for ended in begun:
                ended.wait()
    for future in [*done, *futures]:
        future.result()
