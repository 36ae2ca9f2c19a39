"""Jobs of worker processes: every answer whole, in order, and the caller's own."""

from __future__ import annotations

import copy
import gc
import os

import numpy as np
import pytest

from goskill.envs.jobs import in_order
from goskill.errors import WorkerFailed

GENERATOR = np.random.default_rng(0)
LARGE = GENERATOR.random((700, 900))
ECHO = ("functools:partial", (copy.copy,))


def answers(jobs: list, workers: int = 2) -> list:
    return list(in_order(jobs, workers, "echo worker", *ECHO))


@pytest.mark.parametrize("workers", [1, 3])
def test_arrays_of_any_layout_come_back_as_they_went(workers: int) -> None:
    frozen = GENERATOR.random(5)
    frozen.flags.writeable = False
    jobs = [
        {"empty": np.zeros((0, 4)), "one": np.array(3, np.int8)},
        [LARGE, LARGE.T, LARGE[::3, ::2], LARGE[:0]],
        [frozen, "text", None, np.float32(2)],
        np.arange(12, dtype=">i4").reshape(3, 4),
        *([np.full(size, size)] for size in GENERATOR.integers(0, 100_000, 20)),
    ]
    for job, answer in zip(jobs, answers(jobs, workers), strict=True):
        np.testing.assert_equal(answer, job)


def test_later_answers_leave_earlier_ones_alone() -> None:
    jobs = [np.full(50_000, number) for number in range(12)]
    for number, answer in enumerate(answers(jobs, 1)):
        assert (answer == number).all()
        answer += 1  # the caller's own


def test_no_descriptor_is_left_behind() -> None:
    gc.collect()  # what other tests left to be closed
    before = len(os.listdir("/proc/self/fd"))
    answers([LARGE] * 4)
    unfinished = in_order([LARGE] * 40, 2, "echo worker", *ECHO)
    next(unfinished)
    unfinished.close()
    with pytest.raises(WorkerFailed, match="ModuleNotFoundError"):
        list(in_order([1], 1, "worker", "no_such_module:f"))
    assert len(os.listdir("/proc/self/fd")) == before
