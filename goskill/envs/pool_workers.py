"""The worker processes of a pool: which environments each runs, and how they start."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import Any

from gymnasium.vector import AutoresetMode

from goskill.envs.batch import BufferLayout, Buffers
from goskill.envs.process import WorkerProcess
from goskill.envs.suite import Suite
from goskill.envs.suite_processes import packed

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


def start_workers(
    suite: Suite,
    tasks: Sequence[str],
    shares: Shares,
    layout: BufferLayout,
    mode: AutoresetMode,
    options: dict[str, Any],
) -> tuple[Buffers, list[WorkerProcess]]:
    """A process for each share, and the arrays that they write. None is left running if one cannot start."""
    descriptor = os.memfd_create("goskill-environments")
    workers: list[WorkerProcess] = []
    try:
        os.ftruncate(descriptor, layout.size)
        buffers = Buffers(mmap.mmap(descriptor, layout.size), layout)
        for number, share in enumerate(shares):
            own = {index: tasks[index] for indices in share for index in indices}
            arguments = (descriptor, layout, packed(suite), own, share, mode, options)
            name, target = f"environment worker {number}", "goskill.envs.batch:serve_batch"
            workers.append(WorkerProcess(name, target, arguments, (descriptor,)))
    except BaseException:
        for worker in workers:
            worker.close()
        raise
    finally:
        os.close(descriptor)
    return buffers, workers


def tasks_of_failed(
    failure: Exception, workers: Sequence[WorkerProcess], shares: Shares, tasks: Sequence[str]
) -> list[str]:
    """The tasks of the worker that a failure names, each once."""
    names = [f"{worker.name} " for worker in workers]
    number = next(index for index, name in enumerate(names) if str(failure).startswith(name))
    return sorted({tasks[index] for indices in shares[number] for index in indices})
