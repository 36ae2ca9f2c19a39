"""LeRobot's datasets of version 3, written with pyarrow as lerobot/metaworld_mt50 is laid out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goskill.data import EpisodeStore
from goskill.data.convert import copying, from_lerobot, lerobot
from goskill.data.convert.lerobot import metaworld_tasks
from goskill.envs import tasks_of
from goskill.errors import InputError, StoreError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

PUSH = "Push the puck to a goal"
INSTRUCTIONS = ["Open a door with a revolving joint", PUSH, "Reach a goal position"]
# Of each episode: its task's index and id, and its frames.
EPISODES = [(0, 15, 4), (1, 37, 5), (1, 38, 3), (2, 40, 6), (1, 37, 2)]
NAMES = ["door-open", "push-back", "push", "reach", "push-back"]
FEATURES = {
    "observation.state": ("float32", [4]),
    "action": ("float32", [4]),
    "next.reward": ("float32", [1]),
    "next.success": ("bool", [1]),
    "observation.environment_state": ("float32", [39]),
    "observation.image": ("image", [3, 480, 480]),
    "task_id": ("int64", [1]),
    "timestamp": ("float32", [1]),
    "frame_index": ("int64", [1]),
    "episode_index": ("int64", [1]),
    "index": ("int64", [1]),
    "task_index": ("int64", [1]),
}


def frames(episodes: list[tuple[int, int, int]] = EPISODES) -> list[dict[str, Any]]:
    """Random frames, an array of each feature for each episode, which succeeds with its last step."""
    generator, result = np.random.default_rng(0), []
    for number, (index, task_id, length) in enumerate(episodes):
        result.append(
            {
                "observation.state": generator.normal(size=(length, 4)).astype("f4"),
                "action": generator.uniform(-1, 1, (length, 4)).astype("f4"),
                "next.reward": generator.normal(size=length).astype("f4"),
                "next.success": np.arange(length) == length - 1,
                "observation.environment_state": generator.normal(size=(length, 39)).astype("f4"),
                "observation.image": [{"bytes": b"png", "path": None}] * length,
                "task_id": np.full(length, task_id),
                "timestamp": (np.arange(length) / 80).astype("f4"),
                "frame_index": np.arange(length),
                "episode_index": np.full(length, number),
                "index": np.arange(length),
                "task_index": np.full(length, index),
            }
        )
    return result


def write(
    root: Path,
    episodes: list[dict[str, Any]],
    per_file: int = 2,
    without: tuple[str, ...] = (),
    info: dict[str, Any] | None = None,
    tasks: list[str] | None = None,
    fixed: bool = True,
) -> Path:
    """A dataset in folders of files of so many episodes. Its arrays are lists of fixed size, or any lists."""
    (root / "meta").mkdir(parents=True)
    features = {
        n: {"dtype": t, "shape": s, "names": None} for n, (t, s) in FEATURES.items() if n not in without
    }
    facts = {
        "codebase_version": "v3.0",
        "robot_type": "metaworld",
        "total_episodes": len(episodes),
        "total_frames": sum(len(episode["index"]) for episode in episodes),
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "features": features,
    }
    (root / "meta" / "info.json").write_text(json.dumps(facts | (info or {})))
    texts = INSTRUCTIONS if tasks is None else tasks
    # pandas writes its index as a column of this name.
    pq.write_table(
        pa.table({"task_index": list(range(len(texts))), "__index_level_0__": texts}),
        root / "meta" / "tasks.parquet",
    )
    for number, first in enumerate(range(0, len(episodes), per_file)):
        folder = root / "data" / f"chunk-{number // 2:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        pieces = [table(episode, without, fixed) for episode in episodes[first : first + per_file]]
        pq.write_table(pa.concat_tables(pieces), folder / f"file-{number % 2:03d}.parquet")
    return root


def table(episode: dict[str, Any], without: tuple[str, ...], fixed: bool) -> Any:
    columns = {}
    for name, values in episode.items():
        if name in without:
            continue
        if isinstance(values, np.ndarray) and values.ndim == 2:
            kind = pa.list_(pa.float32(), values.shape[1]) if fixed else pa.list_(pa.float32())
            columns[name] = pa.array(values.tolist(), kind)
        else:
            columns[name] = pa.array(values)
    return pa.table(columns)


def assert_holds(store: EpisodeStore, episodes: list[dict[str, Any]], names: list[str]) -> None:
    assert len(store) == len(episodes)
    for index, (expected, name) in enumerate(zip(episodes, names, strict=True)):
        episode = store.episode(index)
        assert episode.task == name
        np.testing.assert_array_equal(episode.observations, expected["observation.environment_state"])
        np.testing.assert_array_equal(episode.actions, expected["action"][:-1])
        np.testing.assert_array_equal(episode.rewards, expected["next.reward"][:-1])


@pytest.mark.parametrize("fixed", [True, False])
def test_every_frame_is_there_and_the_doubled_task_is_told_apart(tmp_path: Path, fixed: bool) -> None:
    episodes = frames()
    report = from_lerobot(write(tmp_path / "source", episodes, fixed=fixed), tmp_path / "store")
    store = EpisodeStore.open(tmp_path / "store")
    store.verify()
    assert_holds(store, episodes, NAMES)
    assert store.tasks == ["door-open", "push-back", "push", "reach"]
    assert report.doubled_tasks == {PUSH: ["push", "push-back"]}
    assert len(report.shortened) == 5
    np.testing.assert_array_equal(
        store.episode(3).columns["observation_state"], episodes[3]["observation.state"][:-1]
    )


@pytest.mark.parametrize("dtype", ["bool", "int64", "float32"])
def test_success_at_the_frame_that_is_dropped_is_not_lost(tmp_path: Path, dtype: str) -> None:
    episodes = [one | {"next.success": one["next.success"].astype(dtype)} for one in frames()]
    kinds = {name: {"dtype": kind, "shape": shape} for name, (kind, shape) in FEATURES.items()}
    kinds["next.success"]["dtype"] = dtype
    from_lerobot(write(tmp_path / "source", episodes, info={"features": kinds}), tmp_path / "store")
    store = EpisodeStore.open(tmp_path / "store")
    for index in range(len(store)):
        success = store.episode(index).success
        assert np.flatnonzero(success).tolist() == [len(success) - 1]


def test_without_ids_a_doubled_task_keeps_its_instruction(tmp_path: Path) -> None:
    source = write(tmp_path / "source", frames(), without=("task_id", "next.success"))
    report = from_lerobot(source, tmp_path / "store")
    store = EpisodeStore.open(tmp_path / "store")
    assert store.tasks == ["door-open", PUSH, "reach"]
    assert report.doubled_tasks == {PUSH: ["push", "push-back"]}
    assert store.episode(0).success is None


def test_tasks_of_other_robots_are_called_as_they_are(tmp_path: Path) -> None:
    from_lerobot(
        write(tmp_path / "source", frames(), tasks=["Fold it", "Wash it", "Eat it"]), tmp_path / "store"
    )
    assert EpisodeStore.open(tmp_path / "store").tasks == ["Fold it", "Wash it", "Eat it"]


def test_instructions_name_all_of_metaworld() -> None:
    names = [name for known in metaworld_tasks().values() for name in known.values()]
    assert sorted(names) == sorted(tasks_of("mt50"))
    assert {text: ids for text, ids in metaworld_tasks().items() if len(ids) > 1} == {
        PUSH: {37: "push-back", 38: "push"}
    }


def test_another_feature_can_be_observed(tmp_path: Path) -> None:
    episodes = frames()
    source = write(tmp_path / "source", episodes)
    from_lerobot(source, tmp_path / "store", observation="observation.state")
    store = EpisodeStore.open(tmp_path / "store")
    np.testing.assert_array_equal(store.episode(1).observations, episodes[1]["observation.state"])
    assert list(store.columns) == ["observation_environment_state"]
    with pytest.raises(
        InputError, match=r"observation: expected a feature of numbers of .*, got 'observation"
    ):
        from_lerobot(source, tmp_path / "other", observation="observation.image")


def with_features(root: Path, *names: str) -> tuple[Path, list[dict[str, Any]]]:
    """A dataset whose frames have these numbers besides."""
    episodes = [
        one | {name: place + np.arange(len(one["index"]), dtype="f4") for place, name in enumerate(names)}
        for one in frames()
    ]
    described = FEATURES | dict.fromkeys(names, ("float32", [1]))
    features = {name: {"dtype": kind, "shape": shape} for name, (kind, shape) in described.items()}
    return write(root, episodes, info={"features": features}), episodes


def test_features_of_any_name_become_columns_of_their_own(tmp_path: Path) -> None:
    names = {
        "joint-1.pos": "joint_1_pos",
        "joint 2": "joint_2",
        "rewards": "source_rewards",
        "success": "source_success",
        "terminated": "source_terminated",
    }
    source, episodes = with_features(tmp_path / "source", *names)
    from_lerobot(source, tmp_path / "store")
    columns = EpisodeStore.open(tmp_path / "store").episode(1).columns
    for name, column in names.items():
        np.testing.assert_array_equal(columns[column], episodes[1][name][:-1])
    for names, message in (
        (("a.b", "a-b"), "expected names that differ in letters and digits, got 'a.b' and 'a-b'"),
        (("rewards", "source_rewards"), "expected names that differ .*, got 'rewards' and 'source_rewards'"),
        (("2nd",), "features: expected names of up to 64 letters"),
    ):
        source, _ = with_features(tmp_path / names[0], *names)
        with pytest.raises(StoreError, match=rf"info\.json: .*{message}"):
            from_lerobot(source, tmp_path / "other")


def test_missing_rewards_are_zero_only_if_asked_for(tmp_path: Path) -> None:
    source = write(tmp_path / "source", frames(), without=("next.reward",))
    with pytest.raises(
        StoreError, match=r"file-000\.parquet: episode 0: has no rewards: give missing_rewards='zero'"
    ):
        from_lerobot(source, tmp_path / "store")
    with pytest.raises(InputError, match="missing_rewards: expected None or 'zero'"):
        from_lerobot(source, tmp_path / "store", missing_rewards="0")
    from_lerobot(source, tmp_path / "store", missing_rewards="zero")
    store = EpisodeStore.open(tmp_path / "store")
    assert store.provenance[0]["missing_rewards"] == "zero"
    assert not store.episode(0).rewards.any()


def test_an_interrupted_conversion_goes_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(copying, "_SHARD_STEPS", 1)
    episodes = frames()
    source = write(tmp_path / "source", episodes, per_file=1)

    def interrupt(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        from_lerobot(source, tmp_path / "store", progress=interrupt)
    from_lerobot(source, tmp_path / "store", workers=2)
    assert_holds(EpisodeStore.open(tmp_path / "store"), episodes, NAMES)
    file = source / "data" / "chunk-000" / "file-001.parquet"
    changed = frames()[1] | {"next.reward": np.zeros(5, "f4")}
    pq.write_table(table(changed, (), True), file)
    with pytest.raises(StoreError, match=r"file-001\.parquet: is not what"):
        from_lerobot(source, tmp_path / "store")


def test_missing_files_are_noticed(tmp_path: Path) -> None:
    source = write(tmp_path / "source", frames())
    (source / "data" / "chunk-000" / "file-001.parquet").unlink()
    with pytest.raises(StoreError, match=r"expected 20 frames, as meta/info.*, got 11: files are missing"):
        from_lerobot(source, tmp_path / "store")


def replaced(number: int, **columns: Any) -> list[dict[str, Any]]:
    episodes = frames()
    episodes[number] |= {name.replace("__", "."): values for name, values in columns.items()}
    return episodes


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        (replaced(3, frame_index=np.array([0, 1, 3, 4, 5, 6])), "episode 3: frame_index: expected 0 to 5"),
        (replaced(1, task_id=np.full(5, 5)), "episode 1: expected a task_id of .*37.*, got"),
        (replaced(1, task_id=np.array([37, 37, 38, 38, 38])), "episode 1: expected a task_id of"),
        (replaced(0, task_index=np.array([0, 0, 1, 1])), "episode 0: expected one known task_index"),
        (replaced(0, task_index=np.full(4, 9)), "episode 0: expected one known task_index, got .9"),
        (replaced(0, action=np.full((4, 4), np.nan, "f4")), "episode 0: actions: expected finite values"),
        (replaced(0, action=np.zeros((4, 3), "f4")), "episode 0: actions: expected rows of 4"),
        (replaced(0, next__reward=[1.0, None, 1.0, 1.0]), "'next.reward': expected a value in every frame"),
        (
            replaced(0, action=[[0.0] * 4, [0.0] * 3, [0.0] * 4, [0.0] * 4]),
            "'action': expected as many values",
        ),
        (replaced(0, action=[[0.0] * 4, None, [0.0] * 4, [0.0] * 4]), "'action': expected as many values"),
        (replaced(0, action=["a"] * 4), "'action': expected numbers"),
    ],
)
def test_wrong_frames_are_refused_by_name(tmp_path: Path, episodes: list, message: str) -> None:
    source = write(tmp_path / "source", episodes, per_file=1)
    with pytest.raises(StoreError, match=rf"data/chunk-00./file-00.\.parquet: .*{message}"):
        from_lerobot(source, tmp_path / "store")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "meta" / "info.json").write_text("{"), "info.json: is not valid JSON"),
        (
            lambda root: (root / "meta" / "info.json").write_text("[]"),
            "info.json: expected codebase_version v3.0",
        ),
        (
            lambda root: (root / "meta" / "info.json").write_text('{"codebase_version": "v2.1"}'),
            "expected codebase_version v3.0 or so, got 'v2.1': convert it with lerobot",
        ),
        (
            lambda root: (root / "meta" / "info.json").write_text(
                '{"codebase_version": "v3.0", "features": [1]}'
            ),
            "expected features",
        ),
        (
            lambda root: (root / "meta" / "tasks.parquet").write_bytes(b"no"),
            "tasks.parquet: cannot be read as parquet",
        ),
        (
            lambda root: os.truncate(root / "data/chunk-000/file-000.parquet", 3000),
            "file-000.parquet: cannot be read",
        ),
        (
            lambda root: pq.write_table(
                pa.table({"a": ["x"], "task_index": [0]}), root / "data/chunk-000/file-000.parquet"
            ),
            "expected 20 frames",
        ),
        (
            lambda root: pq.write_table(
                pa.table({"task": ["a", "a"], "task_index": [0, 1]}), root / "meta/tasks.parquet"
            ),
            "expected distinct tasks",
        ),
        (
            lambda root: pq.write_table(
                pa.table({"task": ["a\nb"], "task_index": [0]}), root / "meta/tasks.parquet"
            ),
            "expected task_index and texts",
        ),
    ],
)
def test_damaged_datasets_are_refused_by_name(
    tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    source = write(tmp_path / "source", frames())
    damage(source)
    with pytest.raises(StoreError, match=message):
        from_lerobot(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for name in ("meta/info.json", "meta/tasks.parquet", "data/chunk-000/file-001.parquet"):
        source = write(tmp_path / name.replace("/", "-"), frames())
        (source / name).unlink()
        os.mkfifo(source / name)
        with pytest.raises(StoreError, match=f"{name}: is not a regular file"):
            from_lerobot(source, tmp_path / "store")


def test_columns_that_unpack_to_more_than_fits_are_refused(tmp_path: Path, monkeypatch) -> None:
    """Equal values take hardly any room. At a thousandth of the limit."""
    monkeypatch.setattr(lerobot, "_FILE_LIMIT", 1 << 20)
    source, rows = write(tmp_path / "source", frames()), 50_000
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, "i1")), pa.array([0.0], pa.float32()))
    file = source / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(pa.table({name: column for name in FEATURES if name != "observation.image"}), file)
    assert file.stat().st_size < 1 << 14
    info = json.loads((source / "meta" / "info.json").read_text())
    (source / "meta" / "info.json").write_text(json.dumps(info | {"total_frames": rows + 11}))
    with pytest.raises(StoreError, match=r"file-000\.parquet: expected at most 1,048,576 bytes of numbers"):
        from_lerobot(source, tmp_path / "store")
