"""Small sources that keep episodes in groups or files of their own, drawn at random, and what a store should hold of
them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from plain_episodes import FLOATS, Array, Generator, Plain, Source, lengths, numbers, paid, some, without_last
from plain_flat import flat_episodes
from tdmpc2_chunks import ACTIONS, DIMENSIONS, NAMES, WIDTH, save


def robomimic(root: Path, generator: Generator) -> Source:
    import h5py

    file, following = root / "low_dim_v15.hdf5", generator.random() < 0.6
    arms = ["robot0", "robot1"] if generator.random() < 0.5 else ["robot0"]
    parts = {"eef_pos": 3, "eef_quat": 4, "gripper_qpos": 2}
    keys = {f"{arm}_{part}": width for arm in arms for part, width in parts.items()}
    keys |= {"object": int(generator.integers(1, 15))}
    kinds = {key: str(generator.choice(FLOATS)) for key in ("states", *keys)}
    places = [int(place) for place in generator.choice(40, generator.integers(1, 12), replace=False)]
    with h5py.File(file, "w") as opened:
        data = opened.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        for place in places:
            demo, length = data.create_group(f"demo_{place}"), int(generator.integers(2, 18))
            for key, width in keys.items():
                states = numbers(generator, (length + 1, width), kinds[key])
                demo[f"obs/{key}"] = states[:-1]
                if following:
                    demo[f"next_obs/{key}"] = states[1:]
            demo["actions"] = numbers(generator, (length, 7), "f8")
            demo["rewards"] = paid(generator, (length,), "f8")
            demo["dones"] = (np.arange(length) >= length - 2).astype("i8")
            demo["states"] = numbers(generator, (length, 5), kinds["states"])

    def expected() -> list[Plain]:
        found = []
        with h5py.File(file) as opened:
            for place in sorted(places):
                demo = opened[f"data/demo_{place}"]
                rows = {
                    kind: [
                        [float(value) for key in keys for value in demo[f"{kind}/{key}"][row]]
                        for row in range(len(demo["rewards"]))
                    ]
                    for kind in ("obs", "next_obs")
                    if kind in demo
                }
                observations = np.array([*rows["obs"], *rows.get("next_obs", [])[-1:]])
                columns = {name: demo[name][()] for name in ("dones", "states")}
                episode = Plain("Lift", observations, demo["actions"][()], demo["rewards"][()], None, columns)
                found.append(episode if following else without_last(episode))
        return some(found)

    return Source("robomimic", file, expected, {"columns": ["states"]})


def vintix(root: Path, generator: Generator) -> Source:
    import h5py

    group, tasks = int(generator.integers(3, 15)), ("push-v2", "reach-v2")
    for task, number in itertools.product(tasks, range(int(generator.integers(1, 4)))):
        sizes = [*lengths(generator), 2]
        columns = {
            "proprio_observation": numbers(generator, (sum(sizes), 5), "f4"),
            "action": numbers(generator, (sum(sizes), 2), "f4"),
            "reward": paid(generator, (sum(sizes),), "f4"),
            "step_num": np.concatenate([np.arange(size) for size in sizes]).astype("i4"),
        }
        (root / task).mkdir(exist_ok=True)
        with h5py.File(root / task / f"trajectory_{number}.h5", "w") as file:
            for first in range(0, sum(sizes), group):
                last = min(first + group, sum(sizes))
                for name, values in columns.items():
                    file[f"{first}-{last - 1}/{name}"] = values[first:last]

    def expected() -> list[Plain]:
        found = []
        for task in tasks:
            for path in sorted((root / task).glob("*.h5")):
                with h5py.File(path) as file:
                    groups = sorted(file, key=lambda name: int(name.split("-")[0]))
                    names = ("proprio_observation", "action", "reward", "step_num")
                    rows = [[file[f"{one}/{name}"][()] for one in groups] for name in names]
                    states, actions, rewards, steps = (np.concatenate(pieces) for pieces in rows)
                columns = {"observations": states, "actions": actions, "rewards": rewards}
                ends = np.append(steps[1:] == 0, True)
                found += flat_episodes(task.removesuffix("-v2"), columns, ends)
        return found

    return Source("vintix", root, expected)


def tdmpc2(root: Path, generator: Generator) -> Source:
    import torch

    rows, episodes = int(generator.integers(2, 18)), int(generator.integers(1, 30))
    chosen = [str(name) for name in generator.choice(list(NAMES.values()), 3, replace=False)]
    kinds = {name: str(generator.choice(["f2", "f4", "f8"])) for name in ("obs", "action", "reward")}
    for number in range(3):
        columns = {
            "obs": numbers(generator, (episodes, rows, WIDTH), kinds["obs"]),
            "action": numbers(generator, (episodes, rows, ACTIONS), kinds["action"]),
            "reward": paid(generator, (episodes, rows), kinds["reward"]),
        }
        tasks = generator.choice(list(DIMENSIONS), episodes)
        for i, task in enumerate(tasks):
            columns["obs"][i, :, DIMENSIONS[task][0] :] = 0
            columns["action"][i, :, DIMENSIONS[task][1] :] = 0
        columns["action"][:, 0], columns["reward"][:, 0] = np.nan, np.nan
        save(root / f"chunk_{number}.pt", columns | {"task": np.repeat(tasks[:, None], rows, 1).astype("i4")})

    def expected() -> list[Plain]:
        found, sizes = [], [DIMENSIONS[task] for task, name in NAMES.items() if name in chosen]
        states, actions = (max(size[axis] for size in sizes) for axis in (0, 1))
        for number in range(3):
            for one in torch.load(root / f"chunk_{number}.pt", weights_only=False):
                last = np.arange(rows - 1) == rows - 2
                if NAMES[int(one["task"][0])] in chosen:
                    found.append(
                        Plain(
                            NAMES[int(one["task"][0])],
                            one["obs"][:, :states].numpy(),
                            one["action"][1:, :actions].numpy(),
                            one["reward"][1:].numpy(),
                            None,
                            {"terminated": np.zeros(rows - 1, bool), "truncated": last},
                        )
                    )
        return found

    return Source("tdmpc2", root, expected, {"tasks": chosen})


# LeRobot's parquet files.

_LEROBOT = {"f4": "float32", "f8": "float64", "i2": "int16", "i8": "int64", "u1": "uint8", "?": "bool"}


def lerobot(root: Path, generator: Generator) -> Source:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ["Open a door with a revolving joint", "Push the puck to a goal"]
    names, kind = {15: "door-open", 37: "push-back", 38: "push"}, str(generator.choice(["f4", "f8"]))
    features: dict[str, tuple[str, list[int]]] = {
        "observation.environment_state": (kind, [int(generator.integers(1, 9))]),
        "observation.state": (kind, [4]),
        "observation.grid": ("f4", [2, 3]),
        "action": (kind, [int(generator.integers(1, 5))]),
        "next.reward": (kind, [1]),
        "next.success": ("?", [1]),
        "next.done": ("?", [1]),
        "contacts": ("u1", [3]),
        **dict.fromkeys(("task_id", "frame_index", "episode_index", "index", "task_index"), ("i8", [1])),
    }
    kept = ("observation.state", "observation.grid", "next.done", "contacts")
    episodes = []
    for number, length in enumerate([*lengths(generator, 2), *lengths(generator, 2)]):
        task = int(generator.choice(list(names)))
        rows: dict[str, Any] = {}
        for name, (code, shape) in features.items():
            full = (length,) if shape == [1] else (length, *shape)
            if code in ("f4", "f8"):
                rows[name] = (paid if name == "next.reward" else numbers)(generator, full, code)
            else:
                rows[name] = generator.integers(0, 2, full).astype(code)
        rows |= {"frame_index": np.arange(length), "episode_index": np.full(length, number)}
        rows |= {"task_id": np.full(length, task), "task_index": np.full(length, int(task != 15))}
        episodes.append(
            {name: pa.array(values.tolist(), _arrow(pa, values)) for name, values in rows.items()}
        )
    (root / "meta").mkdir()
    described = {name: {"dtype": _LEROBOT[code], "shape": shape} for name, (code, shape) in features.items()}
    info = {"codebase_version": "v3.0", "features": described}
    info["total_frames"] = sum(len(rows["index"]) for rows in episodes)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    pq.write_table(pa.table({"task_index": [0, 1], "task": texts}), root / "meta" / "tasks.parquet")
    (root / "data" / "chunk-000").mkdir(parents=True)
    for number, batch in enumerate((episodes[::2], episodes[1::2])):
        file = root / "data" / "chunk-000" / f"file-{number:03d}.parquet"
        if batch:
            pq.write_table(pa.concat_tables([pa.table(rows) for rows in batch]), file)

    def expected() -> list[Plain]:
        found = []
        for file in sorted((root / "data").rglob("*.parquet")):
            frames = pq.read_table(file).to_pylist()
            for _, group in itertools.groupby(frames, lambda frame: frame["episode_index"]):
                rows = list(group)

                def column(name: str, rows: list[Any] = rows) -> Array:
                    return np.array([row[name] for row in rows], features[name][0])

                episode = Plain(
                    names[rows[0]["task_id"]],
                    column("observation.environment_state").reshape(len(rows), -1),
                    column("action").reshape(len(rows), -1),  # of one number if it has one
                    column("next.reward"),
                    column("next.success").tolist(),
                    {name.replace(".", "_"): column(name) for name in kept},
                )
                found.append(without_last(episode))
        return some(found)

    return Source("lerobot", root, expected)


def _arrow(pa: Any, values: Array) -> Any:
    """A type of Arrow for rows of an array: lists within lists, of a fixed size."""
    kind = pa.from_numpy_dtype(values.dtype.newbyteorder("="))
    for size in values.shape[:0:-1]:
        kind = pa.list_(kind, size)
    return kind


# Minari, of arrays or dicts.


def minari(root: Path, generator: Generator) -> Source:
    import h5py
    import pyarrow as pa
    from gymnasium.spaces import Box, Dict
    from minari import create_dataset_from_buffers
    from minari.data_collector import EpisodeBuffer

    def box(width: int, kind: str) -> Box:
        return Box(-np.inf, np.inf, (width,), kind)

    kinds = {name: str(generator.choice(["f4", "f8"])) for name in ("observation", "goal", "actions", "qpos")}
    nested, sizes, buffers = generator.random() < 0.6, lengths(generator), []
    way = str(generator.choice(["hdf5", "arrow"]))
    for number, size in enumerate(sizes):
        states: Any = numbers(generator, (size + 1, 4), kinds["observation"])
        if nested:
            goals = {
                name: numbers(generator, (size + 1, width), kinds["goal"])
                for name, width in (("a", 1), ("b", 2))
            }
            states = {"observation": states, "goals": goals}
        terminated = (np.arange(size) == size - 1) & bool(generator.random() < 0.5)
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations=states,
                actions=numbers(generator, (size, 2), kinds["actions"]),
                rewards=paid(generator, (size,), "f8"),
                terminations=terminated,
                truncations=(np.arange(size) == size - 1) & ~terminated,
                infos={
                    "qpos": numbers(generator, (size + 1, 3), kinds["qpos"]),
                    "success": generator.random((size + 1, 1))
                    < 0.3,  # Minari does not read flat ones of Arrow
                },
            )
        )
    space: Any = box(4, kinds["observation"])
    if nested:
        goal_space = Dict({"a": box(1, kinds["goal"]), "b": box(2, kinds["goal"])})
        space = Dict({"observation": space, "goals": goal_space})
    name = f"drawn-{generator.integers(1 << 60)}-v0"
    made = create_dataset_from_buffers(
        name,
        buffers,
        observation_space=space,
        action_space=box(2, kinds["actions"]),
        data_format=way,
        **dict.fromkeys(("author", "author_email", "code_permalink", "description"), "a test"),
    )
    folder = Path(made.storage.data_path)

    def values(number: int, path: str) -> list[Any]:
        """The rows of an episode's array; Arrow's have one more, that of the last observation."""
        if way == "hdf5":
            with h5py.File(folder / "main_data.hdf5") as opened:
                return list(opened[f"episode_{number}/{path}"][()].tolist())
        with pa.OSFile(str(folder / str(number) / "part-0.arrow")) as opened:
            rows = pa.ipc.open_file(opened).read_all().to_pylist()
        for part in path.split("/"):
            rows = [row[part] for row in rows]
        return rows if path.startswith(("observations", "infos")) else rows[:-1]

    def expected() -> list[Plain]:
        found = []
        for number in range(len(sizes)):
            keys = ("/goals/a", "/goals/b", "/observation") if nested else ("",)
            observed = [np.array(values(number, f"observations{key}"), "f8") for key in keys]
            steps = len(values(number, "rewards"))
            columns = {
                "terminated": np.array(values(number, "terminations"), bool),
                "truncated": np.array(values(number, "truncations"), bool),
                "infos_qpos": np.array(values(number, "infos/qpos")[:steps], kinds["qpos"]),
            }
            success = np.array(values(number, "infos/success")).reshape(-1)[1:].tolist()
            found.append(
                Plain(
                    "drawn",
                    np.concatenate(observed, axis=1),
                    np.array(values(number, "actions")),
                    np.array(values(number, "rewards")),
                    success,
                    columns,
                )
            )
        return found

    options = {"task": "drawn", "columns": ["infos/qpos"]} | ({"observation": "all"} if nested else {})
    return Source("minari", name, expected, options)
