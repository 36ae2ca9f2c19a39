"""Jobs for several worker processes, with the answers in the order of the jobs."""

from __future__ import annotations

import io
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from goskill.envs.process import WorkerProcess, named_function

_AHEAD = 4
_LARGE = 1 << 12  # bytes of an array from which on a call of the system costs less than a copy in a pickle


def in_order(
    jobs: Sequence[Any], workers: int, name: str, target: str, arguments: tuple[Any, ...] = ()
) -> Iterator[Any]:
    """The answer to each job from whichever of ``workers`` processes was free for it.

    ``target(*arguments)`` ("package.module:function") makes a process's handler, which gets a job and returns the
    answer; both are pickled. A few answers per process wait at most. The processes, called ``name`` and a number, end
    with the iterator. Raises WorkerDied and WorkerFailed as :class:`WorkerProcess` does.
    """
    processes: list[_JobProcess] = []
    try:
        for number in range(min(workers, len(jobs))):
            # One by one, so that those that run end when the next cannot start.
            processes.append(_JobProcess(f"{name} {number}", target, arguments))  # noqa: PERF401
        yield from _answers(jobs, processes)
    finally:
        for process in processes:
            process.kill()


def _answers(jobs: Sequence[Any], processes: Sequence[_JobProcess]) -> Iterator[Any]:
    waiting = deque(enumerate(jobs))
    idle = {process.fileno(): process for process in processes}
    busy: dict[int, tuple[_JobProcess, int]] = {}
    finished: dict[int, Any] = {}
    for next_out in range(len(jobs)):
        while next_out not in finished:
            while idle and waiting and waiting[0][0] < next_out + _AHEAD * len(processes):
                descriptor, process = idle.popitem()
                number, job = waiting.popleft()
                process.ask(job)
                busy[descriptor] = process, number
            for ready in wait(list(busy)):
                descriptor = cast("int", ready)
                process, number = busy.pop(descriptor)
                finished[number] = process.answer()
                idle[descriptor] = process
        yield finished.pop(next_out)


class _JobProcess:
    """A process that does one job at a time. The large arrays of an answer come through a file in memory.

    Its pages stay, so that large arrays cost two copies, where a socket would pass them on in small pieces.
    """

    def __init__(self, name: str, target: str, arguments: tuple[Any, ...]) -> None:
        self._file = os.memfd_create("answers", os.MFD_CLOEXEC)
        try:
            serve = (target, arguments, self._file)
            self._process = WorkerProcess(name, "goskill.envs.jobs:serve", serve, (self._file,))
        except BaseException:
            os.close(self._file)
            raise

    def fileno(self) -> int:
        """What becomes readable when there is an answer."""
        return self._process.fileno()

    def ask(self, job: Any) -> None:
        """Send a job. Raises WorkerDied."""
        self._process.request(pickle.dumps(job))

    def answer(self) -> Any:
        """Wait for the answer. Raises WorkerDied or WorkerFailed."""
        sizes, content = pickle.loads(self._process.reply())
        arrays, offset = [], 0
        for size in sizes:
            arrays.append(_read(self._file, offset, size))
            offset += size
        return pickle.loads(content, buffers=arrays)

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        os.close(self._file)


def _read(file: int, offset: int, size: int) -> npt.NDArray[np.uint8]:
    content = np.empty(size, np.uint8)
    rest = content.data
    while rest:
        count = os.preadv(file, [rest], offset + size - len(rest))
        if count == 0:
            raise EOFError(f"an answer ends {len(rest)} bytes early")
        rest = rest[count:]
    return content


def _write(stream: io.FileIO, content: memoryview) -> None:
    while content:
        content = content[stream.write(content) :]


def serve(target: str, arguments: tuple[Any, ...], file: int) -> Callable[[bytes], bytes]:
    """In a worker process: does pickled jobs, and leaves the large arrays of the answer in the file."""
    handler = named_function(target)(*arguments)

    def handle(message: bytes) -> bytes:
        arrays: list[memoryview] = []

        def stays(array: pickle.PickleBuffer) -> bool:
            content = array.raw()
            if content.nbytes >= _LARGE:
                arrays.append(content)
            return content.nbytes < _LARGE

        answer = pickle.dumps(handler(pickle.loads(message)), protocol=5, buffer_callback=stays)
        with open(file, "wb", buffering=0, closefd=False) as stream:
            stream.seek(0)
            for array in arrays:
                _write(stream, array)
        sizes = [array.nbytes for array in arrays]
        return pickle.dumps((sizes, answer))

    return handle
