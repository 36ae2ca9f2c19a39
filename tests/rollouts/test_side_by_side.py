"""Jobs in threads: all run, and none is left when one fails or the user interrupts."""

from __future__ import annotations

import signal
import threading
from threading import Barrier, Event

import pytest
import torch

from goskill.rollouts.side_by_side import Job, half_of_torchs_threads, run_side_by_side


def waiting(ended: list[str]):
    def job(stop: Event) -> None:
        assert stop.wait(120)
        ended.append("stopped")

    return job


def test_jobs_run_at_the_same_time_with_a_share_of_the_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    barrier, shares = Barrier(2), []

    def job(stop: Event) -> None:
        barrier.wait(120)
        shares.append(torch.get_num_threads())

    try:
        with half_of_torchs_threads():
            run_side_by_side([job, job])
            run_side_by_side([lambda stop: shares.append(torch.get_num_threads())])
        assert shares == [2, 2, 2]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_a_failure_stops_the_other_job_and_is_raised() -> None:
    ended: list[str] = []

    def failing(stop: Event) -> None:
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        run_side_by_side([waiting(ended), failing])
    assert ended == ["stopped"]


def test_an_interruption_stops_both_jobs() -> None:
    ended: list[str] = []
    both = Barrier(2)

    def interrupted(stop: Event) -> None:
        both.wait(120)
        waiting(ended)(stop)

    def interrupting(stop: Event) -> None:
        both.wait(120)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        waiting(ended)(stop)

    with pytest.raises(KeyboardInterrupt):
        run_side_by_side([interrupted, interrupting])
    assert ended == ["stopped", "stopped"]


def test_an_interruption_while_jobs_start_leaves_none_at_work() -> None:
    for _ in range(20):
        begun: list[str] = []
        ended: list[str] = []

        def working(stop: Event, begun: list[str] = begun, ended: list[str] = ended) -> None:
            begun.append("at work")
            waiting(ended)(stop)

        def interrupting(stop: Event, working: Job = working) -> None:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            working(stop)

        with pytest.raises(KeyboardInterrupt):
            run_side_by_side([interrupting, working])
        assert len(ended) == len(begun) > 0
