"""Writers that are killed, or find no room or no permission: what was whole stays whole, and memory is bounded."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from store_builders import random_episode, write_store

from goskill.data import EpisodeStore, StoreWriter
from goskill.errors import StoreError


def test_no_space_left_is_a_clean_error_and_leaves_the_old_data(store: EpisodeStore) -> None:
    """A limit on the size of files stands in for a full disk: writes fail half-way in the same manner."""
    code = f"""
import resource, sys, numpy as np
from goskill.data import StoreWriter
from goskill.errors import StoreError
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
writer = StoreWriter({str(store.path)!r}, 5, 2, [], append=True)
try:
    ones = np.ones((101, 5))
    for _ in range(1000):
        writer.append(task="task-0", observations=ones, actions=ones[:100, :2], rewards=ones[:100, 0])
except StoreError as error:
    print(error)
    sys.exit(2)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert os.strerror(errno.EFBIG) in done.stdout
    assert not list(store.path.glob(".writing-*"))
    assert EpisodeStore.open(store.path).num_episodes == 5
    EpisodeStore.open(store.path).verify()


@contextlib.contextmanager
def without_privileges(folder: Path) -> Iterator[None]:
    """Root may write anywhere: hand the folder to another user, and act as that one for a while."""
    nobody = 65534
    if os.geteuid() != 0:
        yield
        return
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, nobody, -1)
    try:
        os.seteuid(nobody)
    except PermissionError:
        pytest.skip("root may write anywhere, and cannot become another user here")
    try:
        yield
    finally:
        os.seteuid(0)


def test_read_only_folders_are_a_clean_error_and_can_be_read() -> None:
    # Not in tmp_path, whose parents other users may not enter.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        store = write_store(path, [3, 4], [0, 0])
        path.chmod(0o500)
        try:
            with without_privileges(Path(folder)):
                EpisodeStore.open(path).verify()
                writer = StoreWriter(path, 5, 2, ["task-0"], append=True)
                with pytest.raises(StoreError, match="Permission denied"):
                    writer.append(task="task-0", **random_episode(np.random.default_rng(0), 2))
                with pytest.raises(StoreError, match="Permission denied"):
                    StoreWriter(path, 5, 2, ["another"], append=True)
                with pytest.raises(StoreError, match="Permission denied"):
                    store.write_labels("skills", np.zeros(7, int), 1)
        finally:
            path.chmod(0o700)
        assert EpisodeStore.open(path).num_episodes == 2


def write_forever(path: Path) -> None:
    """Append shards of three episodes; every value of an episode is the same."""
    with StoreWriter(path, 5, 2, ["a"], append=True, shard_steps=30) as writer:
        for i in range(1_000_000):
            values = np.full((11, 5), i)
            writer.append(task="a", observations=values, actions=values[:-1, :2], rewards=values[:-1, 0])


def test_a_writer_killed_at_50_random_moments_loses_at_most_its_unfinished_shard(tmp_path: Path) -> None:
    path = tmp_path / "store"
    StoreWriter(path, 5, 2, ["a"]).close()
    generator = random.Random(0)
    complete = 0
    for _ in range(50):
        writer = os.fork()
        if writer == 0:
            try:
                write_forever(path)
            finally:
                os._exit(1)
        wanted = complete // 3 + generator.randint(0, 3)
        while len(list(path.glob("shard-*"))) < wanted:
            assert os.waitpid(writer, os.WNOHANG) == (0, 0), "the writer ended by itself"
        for _ in range(generator.randint(0, 20_000)):
            pass
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        store = EpisodeStore.open(path)
        assert store.num_episodes >= max(complete, 3 * wanted)
        assert store.num_episodes % 3 == 0
        complete = store.num_episodes
    store.verify()
    for index in range(complete):
        observations = store.episode(index).observations
        assert (observations == observations[0, 0]).all()
    StoreWriter(path, 5, 2, ["a"], append=True).close()
    assert not list(path.glob(".writing-*"))


def test_a_writer_cut_short_at_each_system_call_leaves_a_readable_store(tmp_path: Path, monkeypatch) -> None:
    """Every call that makes something durable or visible fails once, as if the machine stopped there."""
    calls = {"fsync": os.fsync, "rename": os.rename, "replace": os.replace}
    for stop in range(40):
        path = tmp_path / str(stop)
        write_store(path, [5, 40], [0, 1])
        count = 0

        def step(name: str, *arguments: object, stop: int = stop) -> None:
            nonlocal count
            if count == stop:
                raise OSError(errno.EIO, "stopped")
            count += 1
            calls[name](*arguments)

        for name in calls:
            monkeypatch.setattr(os, name, lambda *arguments, name=name: step(name, *arguments))
        stopped = False
        try:
            with StoreWriter(path, 5, 2, [], append=True) as writer:
                for _ in range(2):
                    writer.append(
                        task="task-0", observations=np.ones((3, 5)), actions=np.ones((2, 2)), rewards=[1, 2]
                    )
        except StoreError:
            stopped = True
        monkeypatch.undo()
        store = EpisodeStore.open(path)
        store.verify()
        assert store.num_episodes in ((2, 4) if stopped else (4,))
        with StoreWriter(path, 5, 2, [], append=True) as writer:
            writer.append(
                task="task-1", observations=np.ones((3, 5)), actions=np.ones((2, 2)), rewards=[1, 2]
            )
        assert EpisodeStore.open(path).num_episodes == store.num_episodes + 1
        if not stopped:
            return
    raise AssertionError("the writer never finished")


def test_memory_does_not_grow_with_what_is_written(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", 64, 8, ["a"]) as writer:
        observations, actions = np.ones((1001, 64), np.float32), np.ones((1000, 8), np.float32)
        writer.append(task="a", observations=observations, actions=actions, rewards=np.ones(1000))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(200):
            writer.append(task="a", observations=observations, actions=actions, rewards=np.ones(1000))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
