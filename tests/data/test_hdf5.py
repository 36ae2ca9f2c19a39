"""HDF5 files in D4RL's layout: nothing is lost on the way, nothing is written elsewhere, hostile files are refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_builders import ACTION_DIM, OBSERVATION_DIM, random_episode, write_store

from goskill.data import EpisodeStore, StoreWriter
from goskill.data.convert import from_hdf5, hdf5, to_hdf5
from goskill.errors import InputError, StoreError

h5py = pytest.importorskip("h5py")

NAMES = [
    "../escaped",
    "my/data-v0",
    "..",
    ".",
    ".hidden",
    "100%2F",
    "a/../../b",
    "a.hdf5",
    "a b",
    "größe",
    "~",
]
PRINTABLE = st.text(min_size=1, max_size=60).filter(str.isprintable)


def store_of(path: Path, episodes: list[dict[str, Any]], tasks: list[str] | None = None) -> EpisodeStore:
    """A store of these episodes, one per task if there are several tasks."""
    tasks = tasks or ["reach"]
    with StoreWriter(path, OBSERVATION_DIM, ACTION_DIM, tasks) as writer:
        for i, episode in enumerate(episodes):
            writer.append(task=tasks[i % len(tasks)], **episode)
    return EpisodeStore.open(path)


def write_file(path: Path, steps: int = 10, **changes: Any) -> None:
    """A file of one random episode, with columns replaced, added, or left out (None)."""
    episode = random_episode(np.random.default_rng(steps), steps)
    columns = {
        **episode,
        "observations": episode["observations"][:-1],
        "timeouts": np.arange(steps) == steps - 1,
    }
    columns["next_observations"] = episode["observations"][1:]
    with h5py.File(path, "w") as file:
        for name, values in {**columns, **changes}.items():
            if values is not None:
                file[name] = values


@given(PRINTABLE | st.sampled_from(NAMES))
def test_a_file_lies_in_its_folder_and_says_its_task(task: str) -> None:
    name = hdf5.file_name(task)
    assert os.path.normpath(f"/folder/{name}") == f"/folder/{name}"
    assert Path(f"/folder/{name}").parent == Path("/folder")
    assert not name.startswith(".")
    assert unquote(Path(name).stem) == task


def test_tasks_of_any_name_go_both_ways(tmp_path: Path) -> None:
    names = [*NAMES, str(tmp_path / "absolute")]
    generator = np.random.default_rng(0)
    store = store_of(tmp_path / "store", [random_episode(generator, 3) for _ in names], names)
    files = to_hdf5(store, tmp_path / "d4rl")
    assert sorted(files) == sorted((tmp_path / "d4rl").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d4rl", "store"]
    from_hdf5(tmp_path / "d4rl", tmp_path / "back")
    back = EpisodeStore.open(tmp_path / "back")
    assert sorted(back.tasks) == sorted(names)
    for index, name in enumerate(names):
        (number,) = np.flatnonzero(back.episode_task == back.task_index(name))
        np.testing.assert_array_equal(
            back.episode(int(number)).observations, store.episode(index).observations
        )


def test_success_goes_both_ways_for_the_episodes_that_have_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    known = [[False, True, False], None, [True, True, True], [False] * 3, None]
    tasks = ["some", "none", "some", "all", "some"]
    with StoreWriter(tmp_path / "store", OBSERVATION_DIM, ACTION_DIM, ["some", "none", "all"]) as writer:
        for task, success in zip(tasks, known, strict=True):
            writer.append(task=task, success=success, **random_episode(generator, 3))
    files = to_hdf5(EpisodeStore.open(tmp_path / "store"), tmp_path / "d4rl")
    with h5py.File(files[0]) as file:
        assert file["infos/success"][:].tolist() == [0, 1, 0, 1, 1, 1, -1, -1, -1]
    with h5py.File(files[1]) as file:
        assert "infos" not in file
    from_hdf5(tmp_path / "d4rl", tmp_path / "back")
    back = EpisodeStore.open(tmp_path / "back")
    for task in ("some", "none", "all"):
        found = [
            back.episode(int(i)).success for i in np.flatnonzero(back.episode_task == back.task_index(task))
        ]
        wanted = [success for name, success in zip(tasks, known, strict=True) if name == task]
        assert [None if one is None else one.tolist() for one in found] == wanted


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8, np.float32])
def test_success_of_other_programs_is_cut_with_its_episode(tmp_path: Path, dtype: type) -> None:
    success = np.arange(10) % 3 == 1
    following = random_episode(np.random.default_rng(10), 10)["observations"][1:]
    following[5] += 1
    write_file(
        tmp_path / "reach.hdf5",
        next_observations=following,
        timeouts=np.arange(10) == 2,
        **{"infos/success": success.astype(dtype)[:, None]},
    )
    from_hdf5(tmp_path / "reach.hdf5", tmp_path / "store")
    store = EpisodeStore.open(tmp_path / "store")
    assert store.episode_length.tolist() == [3, 3, 4]
    found = np.concatenate([store.episode(i).success for i in range(3)])
    np.testing.assert_array_equal(found, success)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.float64])
def test_success_at_a_step_that_is_dropped_is_not_lost(tmp_path: Path, dtype: type) -> None:
    success = np.arange(10) % 3 == 1
    write_file(
        tmp_path / "reach.hdf5",
        next_observations=None,
        timeouts=np.arange(10) == 4,
        **{"infos/success": success.astype(dtype)},
    )
    from_hdf5(tmp_path / "reach.hdf5", tmp_path / "store")
    store = EpisodeStore.open(tmp_path / "store")
    assert (
        [store.episode(i).success.tolist() for i in range(2)]
        == [
            [False, True, False, True],  # the last one is that of step 4
            success[5:9].tolist(),
        ]
    )


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint64, np.float32])
def test_flags_of_truth_values_or_numbers_end_episodes(tmp_path: Path, dtype: type) -> None:
    flags = {"terminals": np.arange(10) == 3, "timeouts": (np.arange(10) == 6)[:, None]}
    write_file(tmp_path / "reach.hdf5", **{name: flag.astype(dtype) for name, flag in flags.items()})
    from_hdf5(tmp_path / "reach.hdf5", tmp_path / "store")
    assert EpisodeStore.open(tmp_path / "store").episode_length.tolist() == [4, 3, 3]


@pytest.mark.parametrize("block", [1, 3, 7, 30])
def test_ends_read_in_blocks_are_those_read_at_once(tmp_path: Path, monkeypatch, block: int) -> None:
    lengths = [1, 7, 3, 1, 12, 2, 2]
    store = write_store(tmp_path / "original", lengths, [0] * len(lengths))
    (file,) = to_hdf5(store, tmp_path / "d4rl")
    monkeypatch.setattr(hdf5, "_STEPS_PER_BLOCK", block)
    monkeypatch.setattr(hdf5, "_STEPS_PER_PART", 4)
    from_hdf5(file, tmp_path / "store")
    assert EpisodeStore.open(tmp_path / "store").episode_length.tolist() == lengths
    step = 4 * (2 * OBSERVATION_DIM + ACTION_DIM + 1)
    monkeypatch.setattr(hdf5, "EPISODE_LIMIT", 12 * step - 1)
    with pytest.raises(
        StoreError,
        match=rf"task-0\.hdf5: expected episodes of at most 11 steps of {step} bytes, got one of 1",
    ):
        from_hdf5(file, tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"terminals": np.array([b"no"] * 10)},
            r"'terminals': expected numbers, got dtype",
        ),
        ({"timeouts": np.full(10, 0.5)}, "'timeouts': expected the values 0, 1, got 0.5 at step 0"),
        ({"timeouts": np.arange(10)}, "'timeouts': expected the values 0, 1, got 2 at step 2"),
        ({"terminals": np.zeros(9, bool)}, "'terminals': expected 10 rows, as of rewards, got 9"),
        ({"terminals": np.zeros((10, 2), bool)}, "'terminals': expected one value per step"),
        ({"terminals": False}, "'terminals': expected a dataset of rows"),
        ({"infos/success": np.full(10, 2)}, "'infos/success': expected the values -1, 0, 1, got 2 at step 0"),
        ({"infos/success": np.arange(10) // 9 - 1}, "infos/success: expected it at every step"),
        ({"infos/success": np.full(10, np.nan)}, "'infos/success': expected the values"),
        ({"infos/success": np.array([b"yes"] * 10)}, "'infos/success': expected numbers"),
        ({"observations": np.zeros((11, 5))}, "'observations': expected 10 rows"),
        (
            {"observations": np.array(["a"] * 10, object)},
            "'observations': expected numbers, got dtype object",
        ),
        ({"rewards": None}, "expected the column 'rewards', got"),
        ({"rewards": np.float32(1)}, "'rewards': expected a dataset of rows"),
        ({"rewards": None, "rewards/a": np.zeros(10)}, "'rewards': expected a dataset of rows"),
        ({"actions": h5py.ExternalLink("/dev/zero", "actions")}, "'actions': expected a dataset, got a link"),
        ({"infos": h5py.SoftLink("/elsewhere")}, "'infos/success': expected a dataset, got a link"),
    ],
)
def test_wrong_columns_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_file(tmp_path / "reach.hdf5", **changes)
    with pytest.raises(StoreError, match=rf"reach\.hdf5.*{message}"):
        from_hdf5(tmp_path / "reach.hdf5", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def empty_columns(file: Any, rows: int, **settings: Any) -> None:
    for name, width in (("observations", (OBSERVATION_DIM,)), ("actions", (ACTION_DIM,)), ("rewards", ())):
        file.create_dataset(name, (rows, *width), "f4", **settings)


@pytest.mark.parametrize("settings", [{}, {"chunks": True}, {"chunks": True, "compression": "gzip"}])
def test_shapes_that_a_file_does_not_hold_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with h5py.File(tmp_path / "reach.hdf5", "w") as file:
        empty_columns(file, 2**33, **settings)
    with pytest.raises(
        StoreError,
        match=r"'observations' \[8589934592, \d\].*: expected the \d{12} bytes .* got 0 stored .* never written",
    ):
        from_hdf5(tmp_path / "reach.hdf5", tmp_path / "store")


def test_columns_packed_as_well_as_can_be_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "reach.hdf5", "w") as file:
        empty_columns(file, 200_000, chunks=True, compression="gzip", compression_opts=9, shuffle=True)
        for name in ("observations", "actions", "rewards"):
            file[name][:] = 0
        file["timeouts"] = np.arange(200_000) % 1000 == 999
    from_hdf5(tmp_path / "reach.hdf5", tmp_path / "store")
    assert EpisodeStore.open(tmp_path / "store").num_episodes == 200


@pytest.mark.parametrize("plain", [False, True])
def test_a_sparse_column_beside_full_ones_is_read(tmp_path: Path, plain: bool) -> None:
    generator = np.random.default_rng(0)
    packing = {"chunks": True, "compression": "gzip"}
    with h5py.File(tmp_path / "reach.hdf5", "w") as file:
        for name, width in (("observations", OBSERVATION_DIM), ("actions", ACTION_DIM)):
            values = generator.uniform(-1, 1, (200_000, width)).astype("f4")
            file.create_dataset(name, data=values, **({} if plain else packing))
        rewards = file.create_dataset("rewards", (200_000,), "f4", **packing)
        rewards[-rewards.chunks[0] :] = 1
        file["timeouts"] = np.arange(200_000) % 50_000 == 49_999
    from_hdf5(tmp_path / "reach.hdf5", tmp_path / "store")
    store = EpisodeStore.open(tmp_path / "store")
    assert [store.episode(i).rewards.max() for i in range(4)] == [0, 0, 0, 1]


def test_columns_that_a_store_would_call_the_same_are_refused(tmp_path: Path) -> None:
    further = {name: np.zeros(10) for name in ("infos/qpos", "infos_qpos")}
    write_file(tmp_path / "reach.hdf5", **further)
    with pytest.raises(InputError, match=r"columns: .* that differ .*, got 'infos/qpos' and 'infos_qpos'"):
        from_hdf5(tmp_path / "reach.hdf5", tmp_path / "store", columns=list(further))


def test_two_files_of_one_task_are_refused(tmp_path: Path) -> None:
    for names in (("A.h5", "A.hdf5"), ("a%2Fb.hdf5", "a%2fb.hdf5")):
        folder = tmp_path / names[0]
        folder.mkdir()
        for name in names:
            write_file(folder / name)
        with pytest.raises(StoreError, match=f"{names[1]}: expected one file per task, got {names[0]} for"):
            from_hdf5(folder, tmp_path / "store")
        assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["x%0Ay.hdf5", "x" * 201 + ".hdf5"])
def test_a_file_whose_name_says_no_task_is_named(tmp_path: Path, name: str) -> None:
    write_file(tmp_path / name)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(StoreError, match=f"{name}: expected a name that says a task of 1 to 200"):
            from_hdf5(source, tmp_path / "store")


def test_infos_that_are_no_group_say_no_success(tmp_path: Path) -> None:
    write_file(tmp_path / "reach.hdf5", infos=np.zeros(10))
    from_hdf5(tmp_path / "reach.hdf5", tmp_path / "store")
    assert EpisodeStore.open(tmp_path / "store").episode(0).success is None


def test_the_longest_episode_takes_less_than_a_gibibyte(tmp_path: Path, monkeypatch) -> None:
    """Measured at a sixteenth of the limit, with next observations: memory goes with the bytes of an episode."""
    limit = hdf5.EPISODE_LIMIT // 16
    steps = limit // (4 * (39 + 39 + 4 + 1))
    states = np.random.default_rng(0).uniform(-1, 1, (steps + 2, 39)).astype("f4")
    for length in (steps, steps + 1):
        with h5py.File(tmp_path / f"{length}.hdf5", "w") as file:
            file["observations"], file["next_observations"] = states[:length], states[1 : length + 1]
            file["actions"], file["rewards"] = np.zeros((length, 4), "f4"), np.zeros(length, "f4")
            file["timeouts"] = np.arange(length) == length - 1
    monkeypatch.setattr(hdf5, "EPISODE_LIMIT", limit)
    tracemalloc.start()
    try:
        from_hdf5(tmp_path / f"{steps}.hdf5", tmp_path / "store")
        assert 16 * tracemalloc.get_traced_memory()[1] < 1 << 30
    finally:
        tracemalloc.stop()
    with pytest.raises(StoreError, match=f"expected episodes of at most {steps} steps of 332 bytes, got one"):
        from_hdf5(tmp_path / f"{steps + 1}.hdf5", tmp_path / "store-2")


def test_chunks_too_large_to_unpack_are_refused(tmp_path: Path) -> None:
    write_file(tmp_path / "reach.hdf5", timeouts=None)
    with h5py.File(tmp_path / "reach.hdf5", "a") as file:
        file.create_dataset("timeouts", (10,), "i8", maxshape=(None,), chunks=(2**28,), compression="gzip")
    with pytest.raises(StoreError, match=r"'timeouts': expected chunks of at most 1073741824 bytes, got 2"):
        from_hdf5(tmp_path / "reach.hdf5", tmp_path / "store")


def test_values_kept_in_other_files_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(400))
    for kind in ("external", "virtual"):
        write_file(tmp_path / "reach.hdf5", rewards=None)
        with h5py.File(tmp_path / "reach.hdf5", "a") as file:
            if kind == "external":
                file.create_dataset("rewards", (10,), "f4", external=[(str(secret), 0, 40)])
            else:
                layout = h5py.VirtualLayout((10,), "f4")
                layout[:] = h5py.VirtualSource(str(secret), "rewards", (10,))
                file.create_virtual_dataset("rewards", layout)
        with pytest.raises(StoreError, match="'rewards': keeps its values in other files"):
            from_hdf5(tmp_path / "reach.hdf5", tmp_path / "store")


def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "reach.hdf5")
    for source in (tmp_path, tmp_path / "reach.hdf5"):
        with pytest.raises(StoreError, match=r"reach\.hdf5: is not a regular file"):
            from_hdf5(source, tmp_path / "store")


FULL = """
import resource, sys
from goskill.data import EpisodeStore
from goskill.data.convert import to_hdf5
from goskill.errors import InputError, StoreError
store, folder = EpisodeStore.open(sys.argv[1]), sys.argv[2]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
for _ in range(2):
    try:
        to_hdf5(store, folder)
    except StoreError as error:
        print(error)
"""


@pytest.mark.parametrize("limit", [0, 1000, 20_000, 40_000])
def test_a_full_disk_is_a_clean_error_and_leaves_no_folder(tmp_path: Path, limit: int) -> None:
    """A limit on the size of files stands in for a full disk. HDF5 itself crashes where it cannot finish a file."""
    write_store(tmp_path / "store", [400] * 4, [0, 1, 0, 1])
    arguments = [str(tmp_path / "store"), str(tmp_path / "d4rl"), str(limit)]
    done = subprocess.run(
        [sys.executable, "-c", FULL, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'd4rl' / 'task-0.hdf5'}: {os.strerror(errno.EFBIG)}\n" * 2
    assert done.stderr == ""
    assert not (tmp_path / "d4rl").exists()


def test_a_folder_that_cannot_be_made_or_is_there_is_named(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [3], [0])
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "d4rl", store.path):
        with pytest.raises(StoreError, match=f"{folder}: "):
            to_hdf5(store, folder)
    store.verify()


def test_a_name_too_long_for_a_file_is_named(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", [random_episode(np.random.default_rng(0), 2)], ["/" * 200])
    with pytest.raises(StoreError, match="File name too long"):
        to_hdf5(store, tmp_path / "d4rl")
    assert not (tmp_path / "d4rl").exists()
