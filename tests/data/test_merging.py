"""Several stores become one: the same episodes, tasks by their names, nothing that does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from store_builders import ACTION_DIM, OBSERVATION_DIM, random_episode, write_store

from goskill.data import EpisodeStore, StoreWriter, merge
from goskill.data.convert import copying, merging
from goskill.data.convert.transitions import digest
from goskill.errors import InputError, StoreError


@pytest.fixture
def stores(tmp_path: Path, monkeypatch) -> list[EpisodeStore]:
    """Of tasks 0 and 1, and of tasks 0 to 2, in small parts and shards."""
    monkeypatch.setattr(merging, "_STEPS_PER_PART", 10)
    monkeypatch.setattr(copying, "_SHARD_STEPS", 25)
    first = write_store(tmp_path / "first", [5, 30, 2, 9], [1, 0, 1, 0], provenance={"seed": 1})
    second = write_store(tmp_path / "second", [3, 1, 12], [2, 1, 2], provenance={"seed": 2})
    return [first, second]


def assert_holds(out: EpisodeStore, stores: list[EpisodeStore]) -> None:
    wanted = [store.episode(i) for store in stores for i in range(len(store))]
    assert len(out) == len(wanted)
    for i, expected in enumerate(wanted):
        found = out.episode(i)
        assert found.task == expected.task
        for name in ("observations", "actions", "rewards", "returns_to_go"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("workers", [1, 2])
def test_all_episodes_are_there_under_their_tasks(stores, tmp_path: Path, monkeypatch, workers: int) -> None:
    if workers > 1:
        monkeypatch.setattr(copying, "_TRIAL", -1.0)
        monkeypatch.setattr(copying, "_WORTHWHILE", -1.0)
    seen = []
    paths = [store.path for store in stores]
    report = merge(paths, tmp_path / "out", workers, progress=lambda *done: seen.append(done))
    out = EpisodeStore.open(tmp_path / "out")
    out.verify()
    assert out.tasks == ["task-0", "task-1", "task-2"]
    assert_holds(out, stores)
    assert (report.episodes, report.steps) == (7, 62)
    assert seen[-1][0] == seen[-1][1] > 2
    (origin,) = out.provenance
    assert [known["provenance"] for known in origin["stores"]] == [[{"seed": 1}], [{"seed": 2}]]


def test_an_interrupted_merge_goes_on(stores, tmp_path: Path) -> None:
    paths = [store.path for store in stores]

    def interrupt(done: int, _: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(paths, tmp_path / "out", progress=interrupt)
    assert EpisodeStore.open(tmp_path / "out").unfinished
    merge(paths, tmp_path / "out")
    assert_holds(EpisodeStore.open(tmp_path / "out"), stores)
    merge(paths, tmp_path / "out")
    with pytest.raises(StoreError, match="out: holds other data"):
        merge(paths[::-1], tmp_path / "out")


def test_success_and_declared_columns_are_kept(tmp_path: Path) -> None:
    generator, kept = np.random.default_rng(0), {"columns": {"terminated": "?", "qpos": ("f4", 2)}}
    for name in ("a", "b"):
        with StoreWriter(
            tmp_path / name, OBSERVATION_DIM, ACTION_DIM, ["t"], episode_columns={"origin": "U9"}, **kept
        ) as writer:
            for success in (None, np.arange(4) > 2):
                columns = {"terminated": True, "qpos": generator.normal(size=(4, 2))}
                episode = random_episode(generator, 4)
                writer.append(
                    task="t", success=success, columns=columns, episode_columns={"origin": name}, **episode
                )
    report = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    out = EpisodeStore.open(tmp_path / "out")
    assert out.episode_column("origin").tolist() == ["a", "a", "b", "b"]
    assert out.episode(2).success is None
    assert out.episode(3).success.tolist() == [False, False, False, True]
    expected = EpisodeStore.open(tmp_path / "b").episode(1)
    for name, column in out.episode(3).columns.items():
        np.testing.assert_array_equal(column, expected.columns[name])
    assert not report.duplicates


def test_the_same_episode_of_two_stores_is_reported(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_store(tmp_path / name, [5], [0])
    report = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert report.duplicates == [f"{tmp_path / 'b'}: episode 0"]


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    write_store(tmp_path / "a", [5], [0])
    with StoreWriter(tmp_path / "wide", OBSERVATION_DIM + 1, ACTION_DIM, ["t"]):
        pass
    with StoreWriter(tmp_path / "more", OBSERVATION_DIM, ACTION_DIM, ["t"], columns={"q": "f4"}):
        pass
    write_store(tmp_path / "slow", [5], [0], provenance={"action_repeat": 2})
    for name, what in (("wide", "observation_dim 5"), ("more", "columns {}"), ("slow", "action_repeat 1")):
        with pytest.raises(
            InputError, match=rf"stores: expected {what} as of {tmp_path}/a, got .* {tmp_path}/{name}"
        ):
            merge([tmp_path / "a", tmp_path / name], tmp_path / "out")
    for wrong in (["a"], ["a", "a"], ["a", "a/../a"], ["a", "out"]):
        with pytest.raises(InputError, match="stores: expected"):
            merge([tmp_path / name for name in wrong], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rewards_of_several_versions_are_refused(tmp_path: Path) -> None:
    origins = [{"reward_version": "v1"}, {}, {"reward_version": "v2"}]
    stores = [
        write_store(tmp_path / str(i), [5 + i], [0], provenance=origin).path
        for i, origin in enumerate(origins)
    ]
    with pytest.raises(
        InputError, match=f"expected reward_version v1 as of {stores[0]}, got v2 of {stores[2]}"
    ):
        merge(stores, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert merge(stores[:2], tmp_path / "out").episodes == 2


def test_damaged_and_unfinished_stores_are_refused(stores, tmp_path: Path) -> None:
    write_store(tmp_path / "left", [5], [0], unfinished=True)
    with pytest.raises(StoreError, match="left: is unfinished"):
        merge([stores[0].path, tmp_path / "left"], tmp_path / "out")
    file = stores[1].shard_folders[0] / "rewards.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"second/.*rewards\.npy: the checksum does not hold"):
        merge([store.path for store in stores], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_action_repeat_of_a_store_is_what_its_provenance_says(tmp_path: Path) -> None:
    known = [({}, 1), ({"action_repeat": 2, "reward_version": "v2"}, 2)]
    for i, (origin, expected) in enumerate(known):
        assert write_store(tmp_path / f"{i}", [5], [0], provenance=origin).action_repeat == expected
    merged = merge(
        [write_store(tmp_path / f"m{i}", [5 + i], [0], provenance=known[1][0]).path for i in range(2)],
        tmp_path / "m",
    )
    assert merged.episodes == 2
    assert EpisodeStore.open(tmp_path / "m").action_repeat == 2
    assert EpisodeStore.open(tmp_path / "m").provenance[0]["reward_version"] == "v2"
    for i, wrong in enumerate(("2", 0, True, None, 2.0)):
        store = write_store(tmp_path / f"w{i}", [5], [0], provenance={"action_repeat": wrong})
        with pytest.raises(StoreError, match="expected one 'action_repeat'"):
            _ = store.action_repeat


def test_digests_tell_columns_apart() -> None:
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3) + i for i in range(3)]
    known = {digest(*arrays), digest(*arrays[::-1]), digest(arrays[0] + 1, *arrays[1:])}
    assert len(known) == 3
    assert max(known) < 1 << 96


def test_a_store_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    for seed, out in ((0, "first"), (1, "second")):
        for name in ("a", "b"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            with StoreWriter(tmp_path / name, OBSERVATION_DIM, ACTION_DIM, ["t"]) as writer:
                writer.append(task="t", **random_episode(np.random.default_rng(seed), 5))
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / out)
        assert_holds(
            EpisodeStore.open(tmp_path / out), [EpisodeStore.open(tmp_path / name) for name in ("a", "b")]
        )
    with pytest.raises(StoreError, match="first: holds other data"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "first")
