"""Writers of labels that are killed leave nothing for ever; those at work leave each other alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest


def temporaries(store) -> list[str]:
    return [path.name for path in (store.path / "labels").glob(".writing-*")]


def test_what_a_killed_writer_left_is_removed_by_the_next_one(make_store) -> None:
    store = make_store([4, 6], [0, 1])

    def labels() -> Iterator[np.ndarray]:
        yield np.zeros(4, int)
        os.kill(os.getpid(), signal.SIGKILL)

    writer = os.fork()
    if writer == 0:
        try:
            store.write_labels("skills", labels(), 2)
        finally:
            os._exit(1)
    os.waitpid(writer, 0)
    assert len(temporaries(store)) == 1
    store.write_labels("others", np.ones(10, int), 2)
    assert temporaries(store) == []
    assert store.label_names == ["others"]


def test_two_writers_at_once_keep_each_others_files(make_store) -> None:
    store = make_store([4, 6], [0, 1])

    def labels() -> Iterator[np.ndarray]:
        yield np.zeros(4, int)
        store.write_labels("inner", np.ones(10, int), 2)
        assert len(temporaries(store)) == 1
        yield np.ones(6, int)

    store.write_labels("outer", labels(), 2)
    np.testing.assert_array_equal(store.labels("outer"), [0] * 4 + [1] * 6)
    np.testing.assert_array_equal(store.labels("inner"), np.ones(10))
    assert temporaries(store) == []


def test_an_interrupted_writer_cleans_up_itself(make_store) -> None:
    store = make_store([4, 6], [0, 1])

    def labels() -> Iterator[np.ndarray]:
        yield np.zeros(4, int)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write_labels("skills", labels(), 2)
    assert temporaries(store) == []
    assert store.label_names == []
