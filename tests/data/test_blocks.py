"""Episodes of one length that are written at once lie in the store as if they had come one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_builders import ACTION_DIM, OBSERVATION_DIM

from goskill.data import EpisodeStore, StoreWriter
from goskill.data.episode import CheckedBlock
from goskill.errors import InputError

EPISODES, STEPS = 30, 7
TYPES = {"terminated": "?", "qpos": ("<f4", (2,))}
TASKS = [f"task-{number % 3}" for number in range(EPISODES)]


def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "observations": generator.normal(size=(EPISODES, STEPS + 1, OBSERVATION_DIM)),
        "actions": generator.normal(size=(EPISODES, STEPS, ACTION_DIM)),
        "rewards": generator.normal(size=(EPISODES, STEPS)),
    }


def columns() -> dict[str, np.ndarray]:
    ends = np.zeros((EPISODES, STEPS), bool)
    ends[::2, -1] = True
    return {"terminated": ends, "qpos": np.random.default_rng(1).normal(size=(EPISODES, STEPS, 2))}


def writer(path: Path, **options: Any) -> StoreWriter:
    return StoreWriter(
        path, OBSERVATION_DIM, ACTION_DIM, ["task-2", "task-0", "task-1"], columns=TYPES, **options
    )


@pytest.mark.parametrize("shard_steps", [10**6, 50])
def test_a_block_is_written_as_its_episodes_are(tmp_path: Path, shard_steps: int) -> None:
    with writer(tmp_path / "one") as one:
        for i, task in enumerate(TASKS):
            given = {name: rows[i] for name, rows in arrays().items()}
            one.append(task=task, columns={name: rows[i] for name, rows in columns().items()}, **given)
    with writer(tmp_path / "block", shard_steps=shard_steps) as block:
        for first in range(0, EPISODES, 10):
            rows = slice(first, first + 10)
            checked = CheckedBlock.of(
                *(values[rows] for values in arrays().values()),
                {name: values[rows] for name, values in columns().items()},
            )
            block.append_block(TASKS[rows], checked)
    expected, found = EpisodeStore.open(tmp_path / "one"), EpisodeStore.open(tmp_path / "block")
    found.verify()
    if shard_steps > 50:
        assert found.fingerprint == expected.fingerprint
    assert found.actions_outside == expected.actions_outside > 0
    for i in range(EPISODES):
        here, there = found.episode(i), expected.episode(i)
        assert (here.task, here.return_) == (there.task, there.return_)
        for name in ("observations", "actions", "rewards", "returns_to_go"):
            np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
        for name in TYPES:
            np.testing.assert_array_equal(here.columns[name], there.columns[name])
    for name in ("mean", "std", "minimum", "maximum"):
        np.testing.assert_allclose(
            getattr(found.statistics, name), getattr(expected.statistics, name), rtol=1e-12, atol=1e-14
        )


def test_statistics_of_many_rows_are_those_of_all(monkeypatch) -> None:
    monkeypatch.setattr("goskill.data.episode._ROWS_AT_ONCE", 8)
    rows = arrays()["observations"][:, :-1].reshape(-1, OBSERVATION_DIM).astype(np.float32).astype(np.float64)
    found = CheckedBlock.of(*arrays().values()).statistics
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.std, rows.std(axis=0), rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": np.zeros((EPISODES, 0))}, "rewards: expected at least one step"),
        ({"rewards": np.zeros(3)}, "rewards: expected shape"),
        (
            {"observations": np.zeros((EPISODES, STEPS, OBSERVATION_DIM))},
            r"observations: expected shape \[30, 8, T\]",
        ),
        (
            {"actions": np.full((EPISODES, STEPS, ACTION_DIM), np.nan)},
            r"actions: expected finite values, got nan",
        ),
        (
            {"columns": {"terminated": np.ones((EPISODES, STEPS), bool)}},
            "terminated: expected .* ends at last steps",
        ),
        ({"columns": {"qpos": np.zeros((EPISODES, STEPS - 1, 2))}}, "qpos: expected an entry for each step"),
    ],
)
def test_wrong_blocks_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CheckedBlock.of(**(arrays() | changes))


def test_a_writer_refuses_blocks_that_do_not_fit(tmp_path: Path) -> None:
    checked = CheckedBlock.of(**arrays(), columns=columns())
    with writer(tmp_path / "store") as open_writer:
        for tasks, message in (
            (TASKS[1:], "expected one for each of 30"),
            (["other"] * EPISODES, "got 'other'"),
        ):
            with pytest.raises(InputError, match=message):
                open_writer.append_block(tasks, checked)
        with pytest.raises(InputError, match="qpos"):
            open_writer.append_block(
                TASKS, CheckedBlock.of(**arrays(), columns={"terminated": columns()["terminated"]})
            )
    assert len(EpisodeStore.open(tmp_path / "store")) == 0
