"""The worker processes of a pool: which environments each runs, and how they start."""

from __future__ import annotations

import mmap
import os
import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from gymnasium.vector import AutoresetMode

from goskill.envs.answers import unpacked_answers
from goskill.envs.batch import BufferLayout, Buffers, Infos
from goskill.envs.process import WorkerProcess
from goskill.envs.suite import Suite
from goskill.envs.suite_processes import packed
from goskill.errors import WorkerDied, WorkerFailed

Shares = list[list[list[int]]]
"""Environments [worker][group]."""


def shared_out(tasks: Sequence[str], groups: Sequence[range], workers: int) -> Shares:
    """Every worker has its share of every group, and few tasks."""
    shares: Shares = [[] for _ in range(workers)]
    for group in groups:
        # Tasks differ in cost: dealing them out evens the workers' loads.
        rank = {task: number for number, task in enumerate(sorted({tasks[index] for index in group}))}
        by_task = sorted(group, key=lambda index: (rank[tasks[index]] % workers, tasks[index], index))
        for worker in range(workers):
            shares[worker].append(
                by_task[len(group) * worker // workers : len(group) * (worker + 1) // workers]
            )
    return shares


class PoolWorkers:
    """A process for each share of a pool's environments, and the ``buffers`` that they write.

    They answer in the order in which they are asked. Raises `WorkerDied` when one ends, `WorkerFailed` when its work
    raises.

    Args:
        suite, tasks: of the environments.
        groups: of environments that are in flight together.
        count: of processes.
        layout: of the buffers.
        mode, options: of resets, and of `Suite.make`.
    """

    def __init__(
        self,
        suite: Suite,
        tasks: Sequence[str],
        groups: Sequence[range],
        count: int,
        layout: BufferLayout,
        mode: AutoresetMode,
        options: dict[str, Any],
    ) -> None:
        self.shares = shared_out(tasks, groups, count)
        self.processes: list[WorkerProcess] = []
        self._tasks = tasks
        self._in_flight: deque[int] = deque()
        descriptor = os.memfd_create("goskill-environments")
        try:
            os.ftruncate(descriptor, layout.size)
            self.buffers = Buffers(mmap.mmap(descriptor, layout.size), layout)
            for number, share in enumerate(self.shares):
                own = {index: tasks[index] for indices in share for index in indices}
                arguments = (descriptor, layout, packed(suite), own, share, mode, options)
                name, target = f"environment worker {number}", "goskill.envs.batch:serve_batch"
                self.processes.append(WorkerProcess(name, target, arguments, (descriptor,)))
        except BaseException:
            self.close()
            raise
        finally:
            os.close(descriptor)

    def request(self, operation: int, group: int, content: bytes = b"") -> None:
        """Ask for an operation on a group; ``content``: pickled arguments."""
        message = bytes([operation, group]) + content
        for process in self.processes:
            process.request(message)

    def begin(self, operation: int, group: int, content: bytes = b"") -> None:
        """Start a reset or a step of a group, which :meth:`finish` waits for."""
        self._in_flight.append(group)
        self.request(operation, group, content)

    def finish(self, group: int) -> Iterator[tuple[int, Infos]]:
        """Wait until all that was begun up to this group's is done; groups, with what does not fit the buffers."""
        while group in self._in_flight:
            for process in self.processes:
                infos = process.reply()
                if infos:
                    yield self._in_flight[0], pickle.loads(infos)
            self._in_flight.popleft()

    def ask(self, operation: int, content: bytes) -> list[Any]:
        """Answers of all environments, in their order."""
        answers: dict[int, Any] = {}
        for group in range(len(self.shares[0])):
            self.request(operation, group, content)
            for process, share in zip(self.processes, self.shares, strict=True):
                answers.update(zip(share[group], unpacked_answers(process.reply()), strict=True))
        return [answers[index] for index in range(len(self._tasks))]

    def named(self, failure: WorkerDied | WorkerFailed) -> RuntimeError:
        """A failure that also says which tasks its worker ran, and that the pool is closed."""
        names = [f"{process.name} " for process in self.processes]
        number = next(index for index, name in enumerate(names) if str(failure).startswith(name))
        ran = sorted({self._tasks[index] for indices in self.shares[number] for index in indices})
        return type(failure)(f"{failure}; it ran {', '.join(ran)}; the pool is closed")

    def close(self) -> None:
        """End the processes."""
        processes, self.processes = self.processes, []
        for process in processes:
            process.close()

    def kill(self) -> None:
        """End the processes at once."""
        processes, self.processes = self.processes, []
        for process in processes:
            process.kill()
