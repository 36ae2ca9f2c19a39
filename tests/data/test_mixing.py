"""Cuts by quality and mixes, against rules written out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from goskill.data import EpisodeStore, StoreWriter
from goskill.data.mixing import assigned, cut, mixed, write_mix
from goskill.errors import InputError, StoreError

TASKS = ("a", "b", "c")


def write(path: Path, *, success_from: int | None = 25, tasks: tuple[str, ...] = TASKS) -> EpisodeStore:
    """41 episodes of each task, whose return is their number; from ``success_from`` on they succeed at step 3."""
    columns = {"terminated": bool, "truncated": bool}
    with StoreWriter(
        path, 1, 1, list(TASKS), provenance={"source": "scripted", "suite": "s"}, columns=columns
    ) as writer:
        for number in range(41):
            for task in tasks:  # side by side, as agents learn
                succeeded = success_from is not None and number >= success_from
                writer.append(
                    task=task,
                    observations=np.full((6, 1), number),
                    actions=np.zeros((5, 1)),
                    rewards=np.full(5, number / 5),
                    success=[False, False, False, succeeded, False],
                    columns={"terminated": False, "truncated": True},
                )
    return EpisodeStore.open(path)


def numbers(store: EpisodeStore, episodes: np.ndarray) -> list[int]:
    return [int(store.episode(index).observations[0, 0]) for index in episodes]


def test_parts_are_cut_by_the_rules(tmp_path: Path) -> None:
    store = write(tmp_path / "s")
    assert numbers(store, cut(store, "b", "RP")) == list(range(41))
    assert numbers(store, cut(store, "b", "MR")) == list(range(26))
    # Means of ten go from 4.5 to 35.5: the first above half-way, 20, is that of 16 ... 25.
    assert numbers(store, cut(store, "b", "ME")) == list(range(25, 41))
    assert numbers(store, cut(store, "b", "RP", limit=4)) == [0, 13, 27, 40]
    assert {int(store.episode_task[i]) for i in cut(store, "b", "ME")} == {1}


def test_without_success_replay_goes_to_medium(tmp_path: Path) -> None:
    store = write(tmp_path / "s", success_from=None)
    assert numbers(store, cut(store, "a", "MR")) == list(range(26))
    early = write(tmp_path / "early", success_from=2)
    assert numbers(early, cut(early, "a", "MR")) == list(range(10))  # but no fewer than ten
    short = write(tmp_path / "short", success_from=2)
    assert numbers(short, cut(short, "a", "MR", steps=3)) == list(range(26))  # none succeeds that early


def test_every_configuration_adds_up_and_is_drawn_by_its_seed() -> None:
    tasks = [f"t{i}" for i in range(10)]
    first = assigned(tasks, (5, 3, 2), seed=0)
    assert list(first) == tasks
    assert [list(first.values()).count(one) for one in ("MR", "RP", "ME")] == [5, 3, 2]
    assert first == assigned(tasks, (5, 3, 2), seed=0)
    assert first != assigned(tasks, (5, 3, 2), seed=1)
    with pytest.raises(InputError, match="config: expected 3 numbers that add up to the 10 tasks, got 5,3,3"):
        assigned(tasks, (5, 3, 3))
    with pytest.raises(InputError, match="add up to the 10 tasks, got 5,5"):
        assigned(tasks, (5, 5))


def test_a_mix_is_a_store(tmp_path: Path) -> None:
    store = write(tmp_path / "s")
    parts = write_mix(store, tmp_path / "mix", (1, 1, 1), seed=3, limits={"RP": 7}, steps=4)
    found = EpisodeStore.open(tmp_path / "mix")
    qualities = {part.task: part.quality for part in parts}
    assert sorted(qualities.values()) == ["ME", "MR", "RP"]
    at = 0
    for part in parts:
        for index in part.episodes:
            episode, source = found.episode(at), store.episode(index)
            assert episode.task == source.task == part.task
            np.testing.assert_array_equal(episode.rewards, source.rewards[:4])
            np.testing.assert_array_equal(episode.observations, source.observations[:5])
            assert episode.episode_columns["quality"] == part.quality
            assert episode.columns["truncated"].tolist() == [False, False, False, True]
            at += 1
    assert at == found.num_episodes
    (origin,) = found.provenance
    assert origin["source"] == "scripted"
    assert origin["qualities"] == qualities
    before = found.fingerprint
    write_mix(store, tmp_path / "mix", (1, 1, 1), seed=3, limits={"RP": 7}, steps=4)
    assert EpisodeStore.open(tmp_path / "mix").fingerprint == before
    with pytest.raises(StoreError, match="not this mix"):
        write_mix(store, tmp_path / "mix", (1, 1, 1), seed=4)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    store = write(tmp_path / "s", tasks=("a", "c"))
    with pytest.raises(InputError, match="has no episode of 'b'"):
        mixed(store, (1, 1, 1))
    with pytest.raises(InputError, match="quality: expected one of MR, RP, ME, got 'best'"):
        cut(store, "a", "best")
