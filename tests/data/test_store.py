"""The episode store: what is written comes back, plain NumPy reads it, wrong input is refused by name."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import ACTION_DIM, OBSERVATION_DIM, random_episode

from goskill.data import EpisodeStore, StoreWriter
from goskill.data.available_memory import available_memory
from goskill.data.episode import CheckedEpisode
from goskill.errors import InputError, StoreError


def open_writer(path: Path, **settings) -> StoreWriter:
    return StoreWriter(
        path,
        **{"observation_dim": OBSERVATION_DIM, "action_dim": ACTION_DIM, "tasks": ["a", "b"], **settings},
    )


@settings(max_examples=25, deadline=None)
@given(
    episodes=st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["a", "b"])), max_size=12),
    shard_steps=st.integers(1, 60),
    appended=st.integers(0, 12),
    seed=st.integers(0, 1000),
)
def test_what_is_written_comes_back(
    tmp_path_factory, episodes: list[tuple[int, str]], shard_steps: int, appended: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("store") / "data"
    generator = np.random.default_rng(seed)
    data = [(task, random_episode(generator, length)) for length, task in episodes]
    with open_writer(path, shard_steps=shard_steps) as writer:
        for task, arrays in data[:appended]:
            writer.append(task=task, **arrays)
    with open_writer(path, shard_steps=shard_steps, append=True) as writer:
        for task, arrays in data[appended:]:
            writer.append(task=task, **arrays)
    store = EpisodeStore.open(path)
    store.verify()
    assert store.num_episodes == len(data)
    assert store.num_steps == sum(length for length, _ in episodes)
    for index, (task, arrays) in enumerate(data):
        episode = store.episode(index)
        assert episode.task == task
        assert episode.success is None
        for name, values in arrays.items():
            np.testing.assert_array_equal(getattr(episode, name), values)
        suffix_sums = np.cumsum(arrays["rewards"][::-1].astype(np.float64))[::-1]
        np.testing.assert_array_equal(episode.returns_to_go, suffix_sums.astype(np.float32))
        assert store.episode_return[index] == pytest.approx(suffix_sums[0], rel=1e-12)


def test_columns_are_plain_npy_files(make_store) -> None:
    store = make_store([3, 30, 15, 4], [0, 1, 0, 1])
    shards = sorted(store.path.glob("shard-*"))
    assert len(shards) == 2
    observations = [np.load(shard / "observations.npy") for shard in shards]
    lengths = np.concatenate([np.load(shard / "episode_length.npy") for shard in shards])
    assert [len(column) for column in observations] == [3 + 30 + 15 + 3, 4 + 1]
    np.testing.assert_array_equal(lengths, store.episode_length)
    np.testing.assert_array_equal(observations[0][4:35], store.episode(1).observations)


def test_statistics_are_those_of_all_states_in_float64(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    with open_writer(tmp_path / "s", shard_steps=50) as writer:
        episodes = []
        for length in (3, 70, 20, 1):
            arrays = random_episode(generator, length)
            arrays["observations"][:, 1] = np.float32(0.6)
            arrays["observations"][:, 2] = 1e4 + arrays["observations"][:, 2]
            writer.append(task="a", **arrays)
            episodes.append(arrays["observations"][:-1])
    store = EpisodeStore.open(tmp_path / "s")
    rows = np.concatenate(episodes).astype(np.float64)
    np.testing.assert_allclose(store.statistics.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(store.statistics.std, rows.std(axis=0), rtol=1e-9, atol=1e-12)
    assert store.statistics.count == len(rows)
    normalization = store.normalization()
    assert normalization.std[1] == 1.0
    assert normalization.mean[1] == np.float32(0.6)
    np.testing.assert_allclose(normalization.std[0], rows[:, 0].std() + 1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("given_value", "expected"),
    [(None, None), ([0, 1, 0], [False, True, False]), (True, [False, False, True])],
)
def test_success_is_kept_as_given(tmp_path: Path, given_value, expected) -> None:
    with open_writer(tmp_path / "s") as writer:
        writer.append(task="a", **random_episode(np.random.default_rng(0), 3), success=given_value)
    success = EpisodeStore.open(tmp_path / "s").episode(0).success
    assert (success if success is None else success.tolist()) == expected


def test_best_episodes_come_first_and_ties_by_index(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    with open_writer(tmp_path / "s") as writer:
        for task, reward in (("a", 1), ("b", 9), ("a", 3), ("a", 3), ("a", 2)):
            arrays = random_episode(generator, 2)
            writer.append(task=task, **{**arrays, "rewards": np.full(2, reward)})
    store = EpisodeStore.open(tmp_path / "s")
    assert store.best_episodes("a", 3) == [2, 3, 4]
    assert store.best_episodes("a", 3, episodes=[0, 4]) == [4, 0]
    assert store.best_episodes("b", 4) == [1]
    with pytest.raises(InputError, match="task"):
        store.best_episodes("c", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "c"}, "task: .*'c'"),
        (
            {"observations": np.zeros((4, OBSERVATION_DIM))},
            r"observations: expected shape \[6, 5\], got \[4, 5\]",
        ),
        ({"observations": np.zeros((6, 4))}, "observations: expected shape"),
        ({"actions": np.zeros((6, ACTION_DIM))}, "actions: expected shape"),
        ({"rewards": np.zeros((5, 1))}, "rewards: expected shape"),
        ({"rewards": np.zeros(0)}, "rewards: expected at least one step"),
        ({"rewards": ["a"] * 5}, "rewards: expected real numbers"),
        ({"rewards": np.zeros(5, dtype=complex)}, "rewards: expected real numbers"),
        (
            {"rewards": np.array([0, 0, np.nan, 0, 0])},
            r"rewards: expected finite values, got nan at index \[2\]",
        ),
        ({"actions": np.full((5, ACTION_DIM), np.inf)}, "actions: expected finite values"),
        ({"actions": np.full((5, ACTION_DIM), 1e300)}, "actions: expected values that fit float32"),
        ({"rewards": np.full(5, -1e38)}, "rewards: expected returns that fit float32, got 5e\\+38"),
        ({"success": [True, False]}, "success"),
        ({"success": 2}, "success"),
    ],
)
def test_wrong_episodes_are_refused_and_nothing_is_written(
    tmp_path: Path, change: dict, message: str
) -> None:
    good = {"task": "a", **random_episode(np.random.default_rng(0), 5)}
    with open_writer(tmp_path / "s") as writer:
        writer.append(**good)
        with pytest.raises(InputError, match=message):
            writer.append(**{**good, **change})
    store = EpisodeStore.open(tmp_path / "s")
    assert store.num_episodes == 1
    store.verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation_dim": 0}, "observation_dim"),
        ({"action_dim": 1.5}, "action_dim"),
        ({"shard_steps": 0}, "shard_steps"),
        ({"tasks": ["a", "a"]}, "tasks"),
        ({"tasks": "reach"}, "tasks"),
        ({"tasks": [""]}, "tasks"),
        ({"tasks": [1]}, "tasks"),
        ({"tasks": ["\x1b[31m"]}, "tasks: expected printable names of 1 to 200 characters, got "),
        ({"tasks": ["\x9b31m"]}, "tasks: expected printable names"),
        ({"tasks": ["a\u2028b"]}, "tasks: expected printable names"),
        ({"tasks": ["\ud800"]}, "tasks: expected printable names"),
        ({"tasks": ["a" * 201]}, "tasks: expected printable names"),
        ({"provenance": {"policy": object()}}, "provenance"),
    ],
)
def test_wrong_writer_settings_are_refused_by_name(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_writer(tmp_path / "s", **change)


def test_an_existing_store_is_not_overwritten(make_store) -> None:
    store = make_store([4], [0])
    with pytest.raises(StoreError, match="append=True"):
        open_writer(store.path)
    with pytest.raises(InputError, match="action_dim: expected 2"):
        open_writer(store.path, append=True, action_dim=3)


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"notes\.txt"):
        open_writer(tmp_path)
    with pytest.raises(StoreError, match="no episode store"):
        EpisodeStore.open(tmp_path)


def test_appending_adds_tasks_behind_the_known_ones(make_store) -> None:
    store = make_store([4, 5], [0, 1])
    with open_writer(store.path, tasks=["new", "task-1"], append=True) as writer:
        assert writer.tasks == ["task-0", "task-1", "new"]
        writer.append(task="new", **random_episode(np.random.default_rng(0), 2))
    grown = EpisodeStore.open(store.path)
    assert grown.tasks == ["task-0", "task-1", "new"]
    assert grown.episode_task.tolist() == [0, 1, 2]
    assert store.num_episodes == 2


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    with open_writer(tmp_path / "s"), pytest.raises(StoreError, match="another writer"):
        open_writer(tmp_path / "s", append=True)
    open_writer(tmp_path / "s", append=True).close()


def test_an_exception_keeps_the_episodes_that_were_complete(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "s")
    writer.append(task="a", **random_episode(np.random.default_rng(0), 5))
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert EpisodeStore.open(tmp_path / "s").num_episodes == 1


def test_a_closed_writer_takes_nothing_more(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "s")
    writer.close()
    writer.close()
    with pytest.raises(InputError, match="closed"):
        writer.append(task="a", **random_episode(np.random.default_rng(0), 5))


def test_an_unfinished_shard_is_invisible_until_flushed(tmp_path: Path) -> None:
    with open_writer(tmp_path / "s", provenance={"policy": "scripted"}) as writer:
        writer.append(task="a", **random_episode(np.random.default_rng(0), 5))
        assert EpisodeStore.open(tmp_path / "s").num_episodes == 0
        writer.flush()
        store = EpisodeStore.open(tmp_path / "s")
        assert store.num_episodes == 1
        assert store.provenance == [{"policy": "scripted"}]


def test_views_outlive_the_store_and_are_read_only(make_store) -> None:
    episode = make_store([4], [0]).episode(0)
    expected = episode.observations.copy()
    np.testing.assert_array_equal(episode.observations, expected)
    with pytest.raises(ValueError, match="read-only"):
        episode.observations[0] = 0


def test_an_open_store_can_be_pickled(uneven: EpisodeStore) -> None:
    copy = pickle.loads(pickle.dumps(uneven))
    np.testing.assert_array_equal(copy.episode_return, uneven.episode_return)


def shards_of_one_episode(path: Path) -> EpisodeStore:
    generator = np.random.default_rng(7)
    for length in (3, 1, 40_000, 9):
        append = path.exists()
        with StoreWriter(
            path, OBSERVATION_DIM, ACTION_DIM, [] if append else ["task"], append=append
        ) as writer:
            writer.append(task="task", **random_episode(generator, length))
    return EpisodeStore.open(path)


def test_a_store_in_memory_holds_what_the_files_held(tmp_path: Path) -> None:
    mapped = shards_of_one_episode(tmp_path / "store")
    names = ("observations", "actions", "rewards", "returns_to_go")
    expected = [
        {name: np.array(getattr(mapped.episode(i), name)) for name in names} for i in range(len(mapped))
    ]
    store = EpisodeStore.open(tmp_path / "store", in_memory=True)
    copy = pickle.loads(pickle.dumps(store))
    for file in (tmp_path / "store").glob("shard-*/*.npy"):
        file.write_bytes(b"")
    for held in (store, copy):
        np.testing.assert_array_equal(held.episode_return, mapped.episode_return)
        for index, columns in enumerate(expected):
            for name, values in columns.items():
                np.testing.assert_array_equal(getattr(held.episode(index), name), values)


def test_a_store_larger_than_memory_is_refused(uneven: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goskill.data.available_memory.available_memory", lambda: 100)
    with pytest.raises(InputError, match=r"in_memory: .* needs 0\.0 GiB of memory, 0\.0 GiB are available"):
        EpisodeStore.open(uneven.path, in_memory=True)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max", 4096), ("6000", 1800), ("900000", 4096), ("1000", 0), (None, 4096), ("?", 4096)],
)
def test_memory_is_what_the_machine_and_the_container_leave(
    limit: str | None, expected: int, tmp_path: Path
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:       4 kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 4200\nfile 800\ninactive_file 500\nactive_file 300\nslab 7\n")
    assert available_memory(tmp_path / "meminfo", tmp_path) == expected
    alone = None if expected == 4096 else expected
    assert available_memory(tmp_path / "absent", tmp_path) == (900_000 - 4200 if limit == "900000" else alone)


def test_episodes_outside_are_an_index_error(uneven: EpisodeStore) -> None:
    for index in (-1, uneven.num_episodes):
        with pytest.raises(IndexError):
            uneven.episode(index)


@settings(max_examples=20, deadline=None)
@given(
    num_classes=st.sampled_from([1, 2, 5, 256, 257, 65_537]),
    blocks=st.integers(1, 5),
    threads=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_labels_come_back_with_an_index_of_their_classes(
    uneven: EpisodeStore, num_classes: int, blocks: int, threads: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, num_classes, uneven.num_steps)
    uneven.write_labels("other", iter(np.array_split(labels, blocks)), num_classes, threads)
    column = uneven.labels("other")
    np.testing.assert_array_equal(column, labels)
    assert column.dtype.itemsize == (1 if num_classes <= 256 else 2 if num_classes <= 65_536 else 4)
    folder = uneven.path / "labels" / "other"
    np.testing.assert_array_equal(np.load(folder / "order.npy"), np.argsort(labels, kind="stable"))
    counts = np.bincount(labels, minlength=num_classes)
    np.testing.assert_array_equal(np.diff(np.load(folder / "offsets.npy")), counts)
    assert uneven.num_classes("other") == num_classes
    assert sorted(uneven.label_names) == ["other", "skills"]


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        (np.zeros(3, int), 4, "labels: expected one for each of 161 steps, got 3"),
        (np.zeros(200, int), 4, "got more"),
        (np.full(161, 4), 4, r"labels: expected values in \[0, 4\), got 4"),
        (np.full(161, -1), 4, "got -1"),
        (np.zeros(161), 4, "labels: expected integers"),
        (np.zeros((161, 1), int), 4, "labels: expected integers"),
        (np.zeros(161, int), 0, "num_classes"),
    ],
)
def test_wrong_labels_are_refused_and_the_old_ones_stay(
    uneven: EpisodeStore, labels: np.ndarray, num_classes: int, message: str
) -> None:
    before = uneven.labels("skills").copy()
    with pytest.raises(InputError, match=message):
        uneven.write_labels("skills", labels, num_classes)
    np.testing.assert_array_equal(EpisodeStore.open(uneven.path).labels("skills"), before)


@pytest.mark.parametrize("name", ["", "../other", ".hidden", "a/b", "x" * 200])
def test_label_names_are_plain_file_names(uneven: EpisodeStore, name: str) -> None:
    with pytest.raises(InputError, match="labels"):
        uneven.write_labels(name, np.zeros(uneven.num_steps, int), 1)


def test_labels_older_than_the_data_are_refused(make_store) -> None:
    store = make_store([4], [0])
    store.write_labels("skills", np.zeros(4, int), 2)
    with open_writer(store.path, tasks=[], append=True) as writer:
        writer.append(task="task-0", **random_episode(np.random.default_rng(0), 2))
    with pytest.raises(StoreError, match="label again"):
        EpisodeStore.open(store.path).labels("skills")


def test_info_says_what_is_there(uneven: EpisodeStore) -> None:
    info = uneven.info()
    assert info["episodes"] == 12
    assert info["steps"] == 161
    assert info["labels"]["skills"] == 5
    assert info["tasks"]["task-1"]["episodes"] == 4
    assert info["tasks"]["task-1"]["steps"] == 7 + 25 + 9 + 10


@pytest.mark.parametrize(("name", "shape"), [("observations", (6, 0)), ("actions", (5, 0))])
def test_episodes_without_values_are_refused(name: str, shape: tuple[int, int]) -> None:
    columns = {"observations": np.zeros((6, 3)), "actions": np.zeros((5, 2)), "rewards": np.zeros(5)}
    with pytest.raises(InputError, match=f"{name}: expected at least one value per step, got none"):
        CheckedEpisode.of(**(columns | {name: np.zeros(shape)}), success=None)


def test_the_progress_of_verifying_ends_at_all_bytes(uneven: EpisodeStore) -> None:
    seen: list[tuple[int, int]] = []
    checked = uneven.verify(lambda done, total: seen.append((done, total)))
    assert seen[-1] == (checked["bytes"], checked["bytes"])
    assert sorted(seen) == seen


def test_steps_with_actions_outside_the_usual_range_are_kept_and_counted(tmp_path: Path) -> None:
    actions = np.array([[0.0, 1.0], [-1.0, 1.0001], [0.5, -3.0], [2.0, 2.0]], dtype=np.float32)
    with StoreWriter(tmp_path / "store", OBSERVATION_DIM, ACTION_DIM, ["one"], shard_steps=4) as writer:
        for _ in range(3):
            writer.append(
                task="one", observations=np.zeros((5, OBSERVATION_DIM)), actions=actions, rewards=np.ones(4)
            )
    store = EpisodeStore.open(tmp_path / "store")
    assert len(store.shard_folders) == 3
    np.testing.assert_array_equal(store.episode(2).actions, actions)
    assert store.actions_outside == store.info()["actions_outside"] == 9
