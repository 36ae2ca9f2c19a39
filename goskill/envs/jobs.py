"""Jobs for several worker processes, with the answers in the order of the jobs."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any, cast

from goskill.envs.process import WorkerProcess

_AHEAD = 4


def in_order(
    jobs: Sequence[Any], workers: int, name: str, target: str, arguments: tuple[Any, ...] = ()
) -> Iterator[Any]:
    """The answer to each job from whichever of ``workers`` processes was free for it.

    ``target(*arguments)`` ("package.module:function") makes a process's handler, which gets a pickled job and returns
    the pickled answer. A few answers per process wait at most. The processes, called ``name`` and a number, end with
    the iterator. Raises WorkerDied and WorkerFailed as :class:`WorkerProcess` does.
    """
    processes: list[WorkerProcess] = []
    try:
        for number in range(min(workers, len(jobs))):
            # One by one, so that those that run end when the next cannot start.
            processes.append(WorkerProcess(f"{name} {number}", target, arguments))  # noqa: PERF401
        yield from _answers(jobs, processes)
    finally:
        for process in processes:
            process.kill()


def _answers(jobs: Sequence[Any], processes: Sequence[WorkerProcess]) -> Iterator[Any]:
    waiting = deque(enumerate(jobs))
    idle = {process.fileno(): process for process in processes}
    busy: dict[int, tuple[WorkerProcess, int]] = {}
    finished: dict[int, Any] = {}
    for next_out in range(len(jobs)):
        while next_out not in finished:
            while idle and waiting and waiting[0][0] < next_out + _AHEAD * len(processes):
                descriptor, process = idle.popitem()
                number, job = waiting.popleft()
                process.request(pickle.dumps(job))
                busy[descriptor] = process, number
            for ready in wait(list(busy)):
                descriptor = cast("int", ready)
                process, number = busy.pop(descriptor)
                finished[number] = pickle.loads(process.reply())
                idle[descriptor] = process
        yield finished.pop(next_out)
