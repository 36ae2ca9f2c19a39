"""Choosing episodes: prompts by rule, and the best share of each task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from store_builders import ACTION_DIM, OBSERVATION_DIM

from goskill.data import ContextSampler, EpisodeStore, StoreWriter
from goskill.data.selection import best_share, select_episodes
from goskill.errors import InputError

COLUMNS = {"level": "u8", "kept": bool, "source": "U8"}
EPISODES = [  # task, return, steps, success, level, kept
    ("a", 3, 4, False, 2**63, True),
    ("b", 9, 5, True, 1, True),
    ("a", 7, 6, True, 5, False),
    ("a", 7, 3, True, 5, True),
    ("b", 2, 5, True, 2**64 - 1, False),
    ("a", 1, 3, False, 0, True),
]


def write(path: Path, success: bool = True) -> EpisodeStore:
    settings = {"shard_steps": 9, "episode_columns": COLUMNS}
    with StoreWriter(path, OBSERVATION_DIM, ACTION_DIM, ["a", "b", "c"], **settings) as writer:
        for task, total, steps, succeeded, level, kept in EPISODES:
            rewards = np.zeros(steps)
            rewards[0] = total
            writer.append(
                task=task,
                observations=np.zeros((steps + 1, OBSERVATION_DIM)),
                actions=np.zeros((steps, ACTION_DIM)),
                rewards=rewards,
                success=succeeded if success or task == "b" else None,
                episode_columns={"level": level, "kept": kept, "source": "x"},
            )
    return EpisodeStore.open(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return write(tmp_path_factory.mktemp("selection") / "store")


@pytest.mark.parametrize(
    ("rule", "a", "b"),
    [
        ("best", [2, 3, 0], [1, 4]),
        ("successful", [2, 3], [1, 4]),
        ("shortest", [3, 5, 0], [1, 4]),
        ("level", [0, 2, 3], [4, 1]),
        ("kept", [3, 0, 5], [1]),
        ([5, 4, 2, 3, 0], [5, 2, 3], [4]),
        ({"a": [5], "b": [4, 1]}, [5], [4, 1]),
    ],
)
def test_each_rule_chooses_by_task(store: EpisodeStore, rule, a: list[int], b: list[int]) -> None:
    assert select_episodes(store, rule, 3) == {"a": a, "b": b}
    assert select_episodes(store, rule, 1) == {"a": a[:1], "b": b[:1]}


def test_best_is_what_the_store_calls_best(uneven: EpisodeStore) -> None:
    chosen = select_episodes(uneven, "best", 3, episodes=[0, 1, 2, 5, 7, 9])
    expected = {
        task: uneven.best_episodes(task, 3, [0, 1, 2, 5, 7, 9]) for task in ("task-0", "task-1", "task-2")
    }
    assert chosen == expected


def test_a_sampler_takes_what_was_selected(store: EpisodeStore) -> None:
    chosen = select_episodes(store, "successful", 2)
    sampler = ContextSampler(store, horizon=2, context=2, prompt=2, batch_size=64, prompt_episodes=chosen)
    assert set(next(sampler)["prompt_episode"].tolist()) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            "longest",
            "prompts: expected a rule, a column of the episodes, indices or a .json file of them, got 'longest'",
        ),
        ("source", "prompts: expected a column of bools or numbers, got 'source'"),
        ([9], r"prompts: expected indices in \[0, 6\), got 9"),
        ([0.5], "prompts: expected integers"),
        ({"a": [1]}, r"prompts\['a'\]: expected episodes of that task, got 1"),
        ({"z": [1]}, "task: expected one of"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(store: EpisodeStore, rule, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select_episodes(store, rule, 2)


def test_a_task_without_such_an_episode_is_named(store: EpisodeStore) -> None:
    with pytest.raises(InputError, match="prompts: no episode of task 'a' is 'successful'"):
        select_episodes(store, "successful", 2, episodes=[0, 1, 5])
    with pytest.raises(InputError, match="count"):
        select_episodes(store, "best", 0)


def test_success_that_was_not_recorded_is_not_failure(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not say whether all episodes succeeded"):
        select_episodes(write(tmp_path / "store", success=False), "successful", 2)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.01, [1, 2]), (0.5, [1, 2, 3]), (0.75, [0, 1, 2, 3, 4]), (1, None)],
)
def test_the_best_share_of_each_task(store: EpisodeStore, share: float, expected: list[int] | None) -> None:
    assert best_share(store, share) == expected


@pytest.mark.parametrize("share", [0, 1.1, float("nan"), True, "half"])
def test_shares_outside_are_refused(store: EpisodeStore, share) -> None:
    with pytest.raises(InputError, match="share"):
        best_share(store, share)
