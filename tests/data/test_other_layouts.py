"""OGBench's, robomimic's and Vintix's files, in small: every transition as it was, or a refusal by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goskill.data import EpisodeStore
from goskill.data.convert import copying, from_ogbench, from_robomimic, from_vintix, robomimic, vintix
from goskill.errors import InputError, StoreError

h5py = pytest.importorskip("h5py")


def normal(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.normal(size=shape).astype("f4")


def interrupted_at(stop: int) -> Callable[[int, int], None]:
    def interrupt(done: int, _: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    return interrupt


# OGBench: the last row of a trajectory has an observation, and an action that leads nowhere.

ROWS = [4, 7, 2, 1, 5]


def trajectories(path: Path, **changes: Any) -> dict[str, np.ndarray]:
    generator, rows = np.random.default_rng(0), sum(ROWS)
    columns = {
        "observations": normal(generator, rows, 6),
        "actions": normal(generator, rows, 2),
        "terminals": np.isin(np.arange(rows), np.cumsum(ROWS) - 1),
        "qpos": normal(generator, rows, 3),
        "qvel": normal(generator, rows, 3),
    }
    columns = {name: values for name, values in (columns | changes).items() if values is not None}
    np.savez_compressed(path, **columns)
    return columns


def assert_holds_trajectories(
    store: EpisodeStore, columns: dict[str, np.ndarray], rewards: np.ndarray
) -> None:
    number, begin = 0, 0
    for length in ROWS:
        if length > 1:
            episode, steps = store.episode(number), slice(begin, begin + length - 1)
            np.testing.assert_array_equal(
                episode.observations, columns["observations"][begin : begin + length]
            )
            np.testing.assert_array_equal(episode.actions, columns["actions"][steps])
            np.testing.assert_array_equal(episode.rewards, rewards[steps])
            for name in ("qpos", "qvel"):
                np.testing.assert_array_equal(episode.columns[name], columns[name][steps])
            assert not episode.columns["terminated"].any()
            assert np.flatnonzero(episode.columns["truncated"]).tolist() == [length - 2]
            number += 1
        begin += length
    assert len(store) == number


def test_ogbench_trajectories_keep_their_last_observation(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("goskill.data.convert.ogbench._STEPS_PER_PART", 5)
    monkeypatch.setattr(copying, "_SHARD_STEPS", 3)
    file = tmp_path / "antmaze-large-navigate-v0.npz"
    columns = trajectories(file)
    with pytest.raises(KeyboardInterrupt):
        from_ogbench(file, tmp_path / "store", missing_rewards="zero", progress=interrupted_at(2))
    from_ogbench(file, tmp_path / "store", missing_rewards="zero")
    store = EpisodeStore.open(tmp_path / "store")
    assert store.tasks == ["antmaze-large-navigate-v0"]
    assert store.provenance[0]["missing_rewards"] == "zero"
    assert_holds_trajectories(store, columns, np.zeros(sum(ROWS)))
    trajectories(file, qpos=np.zeros((sum(ROWS), 3), "f4"))
    with pytest.raises(StoreError, match="is not what"):
        from_ogbench(file, tmp_path / "store", missing_rewards="zero")


def test_arrays_that_a_store_would_call_the_same_are_refused(tmp_path: Path) -> None:
    trajectories(
        tmp_path / "a.npz", **{"q.pos": np.zeros(19), "q_pos": np.zeros(19), "rewards": np.zeros(19)}
    )
    with pytest.raises(
        StoreError, match=r"a\.npz: columns: expected names that differ .*'q\.pos' and 'q_pos'"
    ):
        from_ogbench(tmp_path / "a.npz", tmp_path / "store")


def test_ogbench_arrays_that_are_called_as_a_stores_columns_keep_apart(tmp_path: Path) -> None:
    marks = np.arange(sum(ROWS), dtype="f4")
    trajectories(tmp_path / "a.npz", rewards=marks, success=marks, terminated=marks % 2)
    from_ogbench(tmp_path / "a.npz", tmp_path / "store")
    store = EpisodeStore.open(tmp_path / "store")
    assert {"source_success", "source_terminated", "terminated", "truncated"} <= store.columns.keys()
    for index in range(len(store)):
        episode = store.episode(index)
        np.testing.assert_array_equal(episode.columns["source_success"], episode.rewards)
        np.testing.assert_array_equal(episode.columns["source_terminated"], episode.rewards % 2)
        assert not episode.columns["terminated"].any()


def test_ogbench_rewards_are_taken_where_there_are_some(tmp_path: Path) -> None:
    rewards = normal(np.random.default_rng(1), sum(ROWS))
    columns = trajectories(tmp_path / "a.npz", rewards=rewards)
    from_ogbench(tmp_path / "a.npz", tmp_path / "store", task="maze")
    assert_holds_trajectories(EpisodeStore.open(tmp_path / "store"), columns, rewards)
    assert EpisodeStore.open(tmp_path / "store").tasks == ["maze"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "has no rewards: give missing_rewards='zero' to store zeros"),
        (
            {"rewards": np.zeros(19), "terminals": None},
            "expected the column 'terminals', got",
        ),
        (
            {"rewards": np.zeros(19), "terminals": np.zeros(19)},
            "terminals: expected the end of a trajectory at the last",
        ),
        (
            {"rewards": np.zeros(19), "terminals": np.arange(19) == 3},
            "expected the end of a trajectory at the last",
        ),
        ({"rewards": np.zeros(19), "observations": None}, "expected the column 'observations'"),
        ({"rewards": np.zeros(19), "actions": np.zeros((18, 2))}, "'actions': expected numbers of shape"),
        (
            {"rewards": np.zeros(19), "observations": np.zeros((19, 8, 8, 3), "u1")},
            "'observations': expected numbers",
        ),
        ({"rewards": np.zeros(19), "next_observations": np.zeros((19, 6))}, "without next_observations"),
        ({"rewards": np.full(19, np.nan)}, "rows 0 to 4: rewards: expected finite values"),
    ],
)
def test_wrong_files_of_ogbench_are_refused_by_name(tmp_path: Path, changes: dict, message: str) -> None:
    trajectories(tmp_path / "a.npz", **changes)
    with pytest.raises(StoreError, match=rf"a\.npz: .*{message}"):
        from_ogbench(tmp_path / "a.npz", tmp_path / "store")
    with pytest.raises(InputError, match="missing_rewards: expected None or 'zero'"):
        from_ogbench(tmp_path / "a.npz", tmp_path / "store", missing_rewards="nothing")


# robomimic

KEYS = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "object": 10}
LENGTHS = {2: 5, 0: 4, 10: 6}


def demonstrations(
    path: Path, next_obs: bool = True, name: str | None = "Lift"
) -> dict[int, dict[str, np.ndarray]]:
    """A file whose demonstrations are numbered as robomimic's; returns their arrays."""
    generator, made = np.random.default_rng(0), {}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        if name is not None:
            data.attrs["env_args"] = json.dumps({"env_name": name, "type": 1, "env_kwargs": {}})
        for number, length in LENGTHS.items():
            states = {key: generator.normal(size=(length + 1, width)) for key, width in KEYS.items()}
            image = generator.integers(0, 255, (length + 1, 8, 8, 3), np.uint8)
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = length
            for key, values in (states | {"agentview_image": image}).items():
                demo[f"obs/{key}"] = values[:-1]
                if next_obs:
                    demo[f"next_obs/{key}"] = values[1:]
            demo["actions"] = generator.uniform(-1, 1, (length, 7))
            demo["rewards"] = (np.arange(length) == length - 1).astype(float)
            demo["dones"] = (np.arange(length) >= length - 2).astype(int)
            demo["states"] = generator.normal(size=(length, 5))
            made[number] = states | {
                "image": image,
                "actions": demo["actions"][:],
                "states": demo["states"][:],
            }
    return made


def observed(demo: dict[str, np.ndarray], *keys: str) -> np.ndarray:
    return np.concatenate([demo[key] for key in keys], axis=1).astype("f4")


@pytest.mark.parametrize("next_obs", [True, False])
def test_robomimic_demonstrations_are_episodes_in_order(tmp_path: Path, next_obs: bool) -> None:
    made = demonstrations(tmp_path / "low_dim.hdf5", next_obs)
    report = from_robomimic(tmp_path / "low_dim.hdf5", tmp_path / "store")
    store = EpisodeStore.open(tmp_path / "store")
    assert store.tasks == ["Lift"]
    assert len(store) == 3
    lost = 0 if next_obs else 1
    for index, number in enumerate((0, 2, 10)):
        episode, length = store.episode(index), LENGTHS[number] - lost
        np.testing.assert_array_equal(episode.observations, observed(made[number], *KEYS)[: length + 1])
        np.testing.assert_array_equal(episode.actions, made[number]["actions"][:length].astype("f4"))
        assert (
            episode.columns["dones"].tolist()
            == (np.arange(LENGTHS[number]) >= LENGTHS[number] - 2)[:length].tolist()
        )
        assert episode.success is None
    assert len(report.shortened) == 3 * lost
    assert not report.split


def test_robomimic_observations_and_columns_are_chosen(tmp_path: Path) -> None:
    made = demonstrations(tmp_path / "image.hdf5", name=None)
    columns = ["obs/agentview_image", "states"]
    from_robomimic(
        tmp_path / "image.hdf5", tmp_path / "store", observation=["object", "robot0_eef_pos"], columns=columns
    )
    store = EpisodeStore.open(tmp_path / "store")
    assert store.tasks == ["image"]
    np.testing.assert_array_equal(
        store.episode(1).observations, observed(made[2], "object", "robot0_eef_pos")
    )
    np.testing.assert_array_equal(store.episode(1).columns["obs_agentview_image"], made[2]["image"][:-1])
    np.testing.assert_array_equal(store.episode(1).columns["states"], made[2]["states"])
    from_robomimic(tmp_path / "image.hdf5", tmp_path / "other", task="mine", observation="object")
    assert EpisodeStore.open(tmp_path / "other").tasks == ["mine"]


def test_an_interrupted_robomimic_conversion_goes_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(robomimic, "_DEMONSTRATIONS_PER_PART", 1)
    monkeypatch.setattr(copying, "_SHARD_STEPS", 1)
    made = demonstrations(tmp_path / "a.hdf5")
    with pytest.raises(KeyboardInterrupt):
        from_robomimic(tmp_path / "a.hdf5", tmp_path / "store", progress=interrupted_at(2))
    from_robomimic(tmp_path / "a.hdf5", tmp_path / "store", workers=2)
    store = EpisodeStore.open(tmp_path / "store")
    assert [store.episode(i).observations.tolist() for i in range(3)] == [
        observed(made[number], *KEYS).tolist() for number in (0, 2, 10)
    ]


def changed(name: str, values: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        if name in file:
            del file[name]
        if values is not None:
            file[name] = values

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("data", None), "expected a group 'data'"),
        (changed("data", np.zeros(3)), "expected a group 'data'"),
        (changed("data", h5py.ExternalLink("/dev/zero", "data")), "'data': expected a dataset, got a link"),
        (
            lambda file: [file["data"].move(name, f"x{name}") for name in list(file["data"])],
            "expected groups data/demo_0",
        ),
        (changed("data/demo_2/obs/object", None), "demo_2: expected the dataset 'obs/object', got"),
        (
            changed("data/demo_2/next_obs/object", np.zeros((4, 10))),
            "demo_2: next_obs: expected as many rows",
        ),
        (
            changed("data/demo_2/actions", np.zeros((4, 7))),
            "demo_2: column 'actions': expected numbers of shape",
        ),
        (changed("data/demo_2/rewards", None), "demo_2: expected the dataset 'rewards'"),
        (changed("data/demo_2/rewards", np.full(5, np.nan)), "demo_2: rewards: expected finite values"),
        (changed("data/demo_2/dones", np.zeros(4)), "demo_2: dones: expected 5 rows, got 4"),
        (changed("data/demo_2/actions", h5py.SoftLink("/data/demo_0/actions")), "demo_2: .*got a link"),
        (changed("data/demo_2/actions", h5py.ExternalLink("other", "a")), "demo_2: .*got a link"),
        (
            lambda file: file["data"].attrs.__setitem__("env_args", "{"),
            "expected JSON in the attribute env_args",
        ),
        (
            lambda file: file["data"].attrs.__setitem__("env_args", json.dumps({"env_name": "a\nb"})),
            "expected a task of 1 to 200",
        ),
    ],
)
def test_wrong_files_of_robomimic_are_refused_by_name(tmp_path: Path, change: Callable, message: str) -> None:
    demonstrations(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        change(file)
    with pytest.raises(StoreError, match=rf"a\.hdf5: .*{message}"):
        from_robomimic(tmp_path / "a.hdf5", tmp_path / "store")


def test_next_observations_that_jump_cut_a_demonstration(tmp_path: Path) -> None:
    demonstrations(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file["data/demo_0/next_obs/object"][1] += 1
    report = from_robomimic(tmp_path / "a.hdf5", tmp_path / "store")
    assert EpisodeStore.open(tmp_path / "store").episode_length.tolist() == [2, 2, 5, 6]
    assert len(report.split) == 1


# Vintix: groups of ten steps here, of 10,000 there.

EPISODES = [7, 12, 1, 9, 4]


def history(path: Path, seed: int = 0, group: int = 10, width: int = 39) -> dict[str, np.ndarray]:
    generator, steps = np.random.default_rng(seed), sum(EPISODES)
    columns = {
        "proprio_observation": normal(generator, steps, width),
        "action": normal(generator, steps, 4),
        "reward": normal(generator, steps),
        "step_num": np.concatenate([np.arange(length) for length in EPISODES]).astype("i4"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for first in range(0, steps, group):
            last = min(first + group, steps)
            for name, values in columns.items():
                file[f"{first}-{last - 1}/{name}"] = values[first:last]
    return columns


def assert_holds_history(store: EpisodeStore, columns: dict[str, np.ndarray], first: int) -> int:
    begin = 0
    for length in EPISODES:
        if length > 1:
            episode, steps = store.episode(first), slice(begin, begin + length - 1)
            np.testing.assert_array_equal(
                episode.observations, columns["proprio_observation"][begin : begin + length]
            )
            np.testing.assert_array_equal(episode.actions, columns["action"][steps])
            np.testing.assert_array_equal(episode.rewards, columns["reward"][steps])
            first += 1
        begin += length
    return first


def test_vintix_episodes_reach_over_groups(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(vintix, "_STEPS_PER_PART", 8)
    monkeypatch.setattr(copying, "_SHARD_STEPS", 10)
    root = tmp_path / "metaworld"
    columns = [
        history(root / name, seed)
        for seed, name in enumerate(("push-v2/0.h5", "push-v2/1.h5", "reach-v2/0.h5"))
    ]
    (root / "reach-v2" / "reach-v2.json").write_text(json.dumps({"task_name": "reach-v2", "reward_scale": 1}))
    with pytest.raises(KeyboardInterrupt):
        from_vintix(root, tmp_path / "store", progress=interrupted_at(4))
    report = from_vintix(root, tmp_path / "store", workers=2)
    store = EpisodeStore.open(tmp_path / "store")
    assert store.tasks == ["push", "reach"]
    first = 0
    for each in columns:
        first = assert_holds_history(store, each, first)
    assert first == len(store) == 12
    assert store.provenance[0]["reward_version"] == "v2"
    assert report.ends == ["step_num"]
    assert not report.split
    assert not store.columns
    history(root / "push-v2" / "1.h5", 9)
    with pytest.raises(StoreError, match=r"push-v2/1\.h5: is not what"):
        from_vintix(root, tmp_path / "store")


def test_vintix_tasks_are_chosen_and_called_as_they_say(tmp_path: Path) -> None:
    root = tmp_path / "source"
    history(root / "mujoco" / "ant_v4" / "0.h5", 0)
    (root / "mujoco" / "ant_v4" / "ant_v4.json").write_text(json.dumps({"task_name": "Ant-v4"}))
    columns = history(root / "metaworld" / "reach-v2" / "0.h5", 1)
    from_vintix(root, tmp_path / "both")
    assert EpisodeStore.open(tmp_path / "both").tasks == ["reach", "Ant-v4"]
    assert "reward_version" not in EpisodeStore.open(tmp_path / "both").provenance[0]
    from_vintix(root, tmp_path / "one", tasks=["reach-v2"])
    assert_holds_history(EpisodeStore.open(tmp_path / "one"), columns, 0)
    for wrong in (["rich"], []):
        with pytest.raises(InputError, match="tasks: expected"):
            from_vintix(root, tmp_path / "none", tasks=wrong)


def test_a_step_that_does_not_follow_cuts_the_episode(tmp_path: Path) -> None:
    history(tmp_path / "reach-v2" / "0.h5")
    with h5py.File(tmp_path / "reach-v2" / "0.h5", "a") as file:
        file["0-9/step_num"][3:7] += 2
    report = from_vintix(tmp_path / "reach-v2", tmp_path / "store")
    assert EpisodeStore.open(tmp_path / "store").episode_length.tolist() == [2, 3, 11, 8, 3]
    assert len(report.split) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.move("10-19", "11-19"), "0-9: expected the group behind it to begin with step 10"),
        (lambda file: file.move("10-19", "ten"), r"expected groups named by their steps .*'ten'"),
        (changed("10-19/reward", None), "10-19: expected the dataset 'reward'"),
        (changed("10-19/reward", np.zeros(9, "f4")), "10-19: expected as many rows of each dataset"),
        (changed("10-19/action", np.full((10, 4), np.nan)), "steps 7 to 19: actions: expected finite values"),
        (changed("10-19/step_num", np.zeros(10)), "step_num: expected an integer"),
        (changed("10-19/action", h5py.ExternalLink("/dev/zero", "a")), "10-19.*got a link"),
        (changed("10-19/action", np.array([b"a"] * 10)), "10-19: action: expected rows of numbers"),
    ],
)
def test_wrong_files_of_vintix_are_refused_by_name(tmp_path: Path, change: Callable, message: str) -> None:
    history(tmp_path / "reach-v2" / "0.h5")
    with h5py.File(tmp_path / "reach-v2" / "0.h5", "a") as file:
        change(file)
    with pytest.raises(StoreError, match=rf"reach-v2/0\.h5: .*{message}"):
        from_vintix(tmp_path / "reach-v2", tmp_path / "store")


def test_wrong_folders_of_vintix_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, message in (
        (tmp_path / "empty", r"found no \.h5 files"),
        (tmp_path / "none", "no such folder"),
    ):
        with pytest.raises(StoreError, match=message):
            from_vintix(folder, tmp_path / "store")
    history(tmp_path / "two" / "reach-v2" / "0.h5")
    history(tmp_path / "two" / "reach-v3" / "0.h5")
    with pytest.raises(StoreError, match="reach-v3: expected one folder of 'reach'"):
        from_vintix(tmp_path / "two", tmp_path / "store")
    (tmp_path / "two" / "reach-v3" / "reach-v3.json").write_text("{")
    with pytest.raises(StoreError, match=r"reach-v3\.json: is not valid JSON"):
        from_vintix(tmp_path / "two", tmp_path / "store")
    history(tmp_path / "sizes" / "push-v2" / "0.h5")
    history(tmp_path / "sizes" / "reach-v2" / "0.h5", width=12)
    with pytest.raises(StoreError, match=r"reach-v2/0\.h5: steps 0 to 7: observations: expected rows of 39"):
        from_vintix(tmp_path / "sizes", tmp_path / "store")


@pytest.mark.parametrize(
    ("convert", "name"),
    [
        (lambda path, store: from_ogbench(path, store, missing_rewards="zero"), "a.npz"),
        (from_robomimic, "a.hdf5"),
        (lambda path, store: from_vintix(path.parent, store), "a.h5"),
    ],
)
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, convert: Callable, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(StoreError, match=f"{name}: is not a regular file"):
        convert(tmp_path / name, tmp_path / "store")
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(StoreError, match=f"{name}: is not a regular file"):
        convert(tmp_path / name, tmp_path / "store")
