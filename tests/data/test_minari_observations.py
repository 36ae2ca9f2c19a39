"""Minari's Dict observations by key or side by side, ends as declared columns, and the same way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_builders import ACTION_DIM, OBSERVATION_DIM, random_episode

from goskill.data import EpisodeStore, StoreWriter, merge
from goskill.data.convert import from_hdf5, from_minari, to_hdf5, to_minari
from goskill.errors import InputError, StoreError

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")

from gymnasium.spaces import Box, Dict  # noqa: E402 (Minari brings it)
from minari.data_collector import EpisodeBuffer  # noqa: E402

ABOUT = {
    "author": "a test",
    "author_email": "a@b.c",
    "code_permalink": "https://a.b",
    "description": "a test",
}
LENGTHS = (3, 5)


def box(*shape: int) -> Box:
    return Box(-np.inf, np.inf, shape, np.float64)


@pytest.fixture
def episodes(tmp_path: Path, monkeypatch) -> list[dict[str, Any]]:
    """A dataset goals-v0 laid out as D4RL/kitchen is; returns the arrays of its episodes."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    generator, made, buffers = np.random.default_rng(0), [], []
    for number, length in enumerate(LENGTHS):
        states = {
            "observation": generator.normal(size=(length + 1, 4)),
            "desired_goal": {
                "microwave": generator.normal(size=(length + 1, 1)),
                "kettle": generator.normal(size=(length + 1, 2)),
            },
            "achieved_goal": generator.normal(size=(length + 1, 2)),
        }
        infos = {"qpos": generator.normal(size=(length + 1, 3))}
        actions, rewards = generator.uniform(-1, 1, (length, 2)), generator.normal(size=length)
        made.append({**states, **infos, "actions": actions, "rewards": rewards})
        terminations = np.zeros(length, bool)
        terminations[-1] = number == 0
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations=states,
                actions=actions,
                rewards=rewards,
                terminations=terminations,
                truncations=~terminations & (np.arange(length) == length - 1),
                infos=infos,
            )
        )
    goals = Dict({"microwave": box(1), "kettle": box(2)})
    space = Dict({"observation": box(4), "desired_goal": goals, "achieved_goal": box(2)})
    minari.create_dataset_from_buffers(
        "goals-v0", buffers, observation_space=space, action_space=box(2), **ABOUT
    )
    return made


def side_by_side(episode: dict[str, Any], *keys: str) -> np.ndarray:
    rows = []
    for key in keys:
        value = episode
        for part in key.split("/"):
            value = value[part]
        rows.append(value)
    return np.concatenate(rows, axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("observation", "keys"),
    [
        ("observation", ["observation"]),
        (["observation", "achieved_goal"], ["observation", "achieved_goal"]),
        (["achieved_goal", "observation"], ["achieved_goal", "observation"]),
        ("desired_goal", ["desired_goal/kettle", "desired_goal/microwave"]),
        ("desired_goal/microwave", ["desired_goal/microwave"]),
        ("all", ["achieved_goal", "desired_goal/kettle", "desired_goal/microwave", "observation"]),
    ],
)
def test_observations_are_the_chosen_keys_in_order(episodes, tmp_path: Path, observation, keys) -> None:
    from_minari("goals-v0", tmp_path / "store", observation=observation)
    store = EpisodeStore.open(tmp_path / "store")
    for index, episode in enumerate(episodes):
        np.testing.assert_array_equal(store.episode(index).observations, side_by_side(episode, *keys))
    assert store.provenance[0]["observation"] == observation


def test_ends_and_further_keys_become_declared_columns(episodes, tmp_path: Path) -> None:
    columns = ["achieved_goal", "infos/qpos"]
    from_minari("goals-v0", tmp_path / "store", observation="observation", columns=columns)
    store = EpisodeStore.open(tmp_path / "store")
    assert store.columns["infos_qpos"] == np.dtype((np.float64, (3,)))
    for index, episode in enumerate(episodes):
        found = store.episode(index).columns
        np.testing.assert_array_equal(found["achieved_goal"], episode["achieved_goal"][:-1])
        np.testing.assert_array_equal(found["infos_qpos"], episode["qpos"][:-1])
        last = np.arange(LENGTHS[index]) == LENGTHS[index] - 1
        np.testing.assert_array_equal(found["terminated"], last & (index == 0))
        np.testing.assert_array_equal(found["truncated"], last & (index == 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            "expected flat observations, got a dict of achieved_goal, desired_goal, observation: choose some",
        ),
        ({"observation": "state"}, "observation: expected one of .*observation.*, got 'state'"),
        ({"observation": "obs"}, "observation: expected one of"),
        ({"observation": "all", "columns": ["qpos"]}, "columns: expected one of .*infos/qpos, got 'qpos'"),
    ],
)
def test_what_is_not_there_is_refused_by_name(episodes, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(StoreError, match=f"goals-v0: episode 0: {message}"):
        from_minari("goals-v0", tmp_path / "store", **options)


def test_arrays_have_no_keys(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    flat_dataset(tmp_path, np.zeros(4, bool), np.arange(4) == 3)
    with pytest.raises(StoreError, match="flat-v0: episode 0: observation: expected a dict to choose from"):
        from_minari("flat-v0", tmp_path / "store", observation="all")


def flat_dataset(tmp_path: Path, terminations: np.ndarray, truncations: np.ndarray) -> np.ndarray:
    episode = random_episode(np.random.default_rng(0), len(terminations))
    buffer = EpisodeBuffer(id=0, terminations=terminations, truncations=truncations, **episode)
    minari.create_dataset_from_buffers(
        "flat-v0", [buffer], observation_space=box(OBSERVATION_DIM), action_space=box(ACTION_DIM), **ABOUT
    )
    return episode["observations"]


def test_an_episode_that_goes_on_behind_its_end_is_cut_there_and_reported(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    observations = flat_dataset(tmp_path, np.arange(7) == 2, np.arange(7) == 6)
    report = from_minari("flat-v0", tmp_path / "store")
    store = EpisodeStore.open(tmp_path / "store")
    assert store.episode_length.tolist() == [3, 4]
    np.testing.assert_array_equal(store.episode(0).observations, observations[:4])
    np.testing.assert_array_equal(store.episode(1).observations, observations[3:])
    assert store.episode(0).columns["terminated"].tolist() == [False, False, True]
    assert report.split == ["flat-v0: episode 0: 1 times"]


def test_several_datasets_go_into_one_store(episodes, tmp_path: Path) -> None:
    for task in ("kitchen", "kettle"):
        from_minari("goals-v0", tmp_path / task, task=task, observation="observation")
    report = merge([tmp_path / "kitchen", tmp_path / "kettle"], tmp_path / "both")
    assert EpisodeStore.open(tmp_path / "both").tasks == ["kitchen", "kettle"]
    assert report.episodes == 4


@pytest.mark.parametrize("way", ["hdf5", "minari"])
def test_terminations_and_features_go_both_ways(tmp_path: Path, monkeypatch, way: str) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    generator = np.random.default_rng(0)
    types = {"terminated": "?", "truncated": "?", "qpos": ("<f4", (2,))}
    with StoreWriter(tmp_path / "store", OBSERVATION_DIM, ACTION_DIM, ["reach"], columns=types) as writer:
        for ended in (True, False):
            columns = {"terminated": ended, "truncated": not ended, "qpos": generator.normal(size=(4, 2))}
            writer.append(task="reach", columns=columns, **random_episode(generator, 4))
    store = EpisodeStore.open(tmp_path / "store")
    if way == "hdf5":
        to_hdf5(store, tmp_path / "d4rl")
        from_hdf5(tmp_path / "d4rl" / "reach.hdf5", tmp_path / "back", columns=["qpos"], task="other")
        names = {"qpos": "qpos"}
    else:
        to_minari(store, "there-v0", "reach", **ABOUT)
        from_minari("there-v0", tmp_path / "back", columns=["infos/qpos"], task="other")
        names = {"qpos": "infos_qpos"}
    back = EpisodeStore.open(tmp_path / "back")
    assert back.tasks == ["other"]
    for index in range(2):
        for name, values in store.episode(index).columns.items():
            np.testing.assert_array_equal(back.episode(index).columns[names.get(name, name)], values)


def test_columns_of_hdf5_that_cannot_be_declared_are_refused(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", OBSERVATION_DIM, ACTION_DIM, ["reach"]) as writer:
        writer.append(task="reach", **random_episode(np.random.default_rng(0), 4))
    (file,) = to_hdf5(EpisodeStore.open(tmp_path / "store"), tmp_path / "d4rl")
    with pytest.raises(StoreError, match="expected the column 'infos/qpos', got"):
        from_hdf5(file, tmp_path / "back", columns=["infos/qpos"])
    with pytest.raises(InputError, match="columns: expected names"):
        from_hdf5(file, tmp_path / "back", columns=["rewards"])
    with pytest.raises(InputError, match="task: expected none for a folder"):
        from_hdf5(file.parent, tmp_path / "back", task="reach")
