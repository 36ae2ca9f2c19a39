"""Small sources of every layout, drawn at random, and what a store should hold of them: read again from their files
by NumPy, h5py, pyarrow and torch, a row at a time. What is left out on the way is what docs/data.md says is lost."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tdmpc2_chunks import ACTIONS, DIMENSIONS, NAMES, WIDTH, save

from goskill.data.convert import convert

Array = np.ndarray[Any, Any]
Generator = np.random.Generator
FLOATS = ("f2", "f4", "f8", ">f4", ">f8")
# Halfway between two float32, a hair above that, the least and nearly the largest, zeros of both signs.
AWKWARD = (1 + 2**-24, 1 + 2**-24 + 2**-50, 1 + 3 * 2**-24, 2**-149, 2**-150, 1e-310, 3.4028234e38, -0.0, 0.0)


@dataclass(frozen=True)
class Plain:
    """An episode of T steps: observations [T + 1, D], actions [T, A], rewards [T], success [T] and further columns."""

    task: str
    observations: Array
    actions: Array
    rewards: Array
    success: Sequence[bool] | None = None
    columns: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """``expected`` reads the files that were written; ``to`` converts them into a store."""

    layout: str
    path: str | Path
    expected: Callable[[], list[Plain]]
    options: dict[str, Any] = field(default_factory=dict)
    prompts: Callable[[], list[Plain]] | None = None  # as expected, of the store within the store

    def to(self, store: Path) -> Any:
        return convert(self.layout, self.path, store, **self.options)


def numbers(generator: Generator, shape: tuple[int, ...], kind: str | None = None) -> Array:
    """Of a drawn type, over the whole range of what fits float32."""
    dtype = np.dtype(kind or str(generator.choice(FLOATS)))
    if dtype.itemsize == 2:
        return generator.normal(size=shape).astype(dtype)
    values = generator.normal(size=shape) * 10.0 ** generator.uniform(-44, 36, shape)
    chosen = generator.random(shape) < 0.1
    values[chosen] = generator.choice(AWKWARD, int(chosen.sum()))
    return values.astype(dtype)


def paid(generator: Generator, shape: tuple[int, ...], kind: str | None = None) -> Array:
    """Rewards, whose sums fit float32 as well."""
    values = numbers(generator, shape, kind)
    with np.errstate(over="ignore"):  # of half precision
        values[np.abs(values) > 1e36] = 1
    return values


def lengths(generator: Generator, least: int = 1) -> list[int]:
    return [int(n) for n in generator.integers(least, 18, generator.integers(1, 6))]


def split(rows: Array, sizes: Sequence[int]) -> list[Array]:
    return np.split(rows, np.cumsum(sizes)[:-1])


def without_last(episode: Plain) -> Plain | None:
    """What is left where nothing says what follows the last step: its success is told of the one before."""
    steps = len(episode.rewards) - 1
    success = None if episode.success is None else [bool(value) for value in episode.success]
    if success is not None and steps:
        success = [*success[: steps - 1], any(success[steps - 1 :])]
    rows = {name: values[:steps] for name, values in episode.columns.items()}
    shorter = Plain(
        episode.task,
        episode.observations[: steps + 1],
        episode.actions[:steps],
        episode.rewards[:steps],
        success,
        rows,
    )
    return shorter if steps else None


def some(episodes: Sequence[Plain | None]) -> list[Plain]:
    return [episode for episode in episodes if episode is not None]


# Flat transitions, as the npz layouts and D4RL's have them.


def transitions(
    generator: Generator, sizes: Sequence[int], widths: tuple[int, int], following: bool
) -> dict[str, Array]:
    """Columns of several episodes, with next observations or without."""
    kind, total = str(generator.choice(FLOATS)), sum(sizes)
    states = [numbers(generator, (size + 1, widths[0]), kind) for size in sizes]
    columns = {
        "observations": np.concatenate([rows[:-1] for rows in states]),
        "actions": numbers(generator, (total, widths[1])),
        "rewards": paid(generator, (total, 1) if generator.random() < 0.5 else (total,)),
    }
    if following:
        columns["next_observations"] = np.concatenate([rows[1:] for rows in states])
        jumps = generator.random(total) < 0.05
        columns["next_observations"][jumps, -1] = -6e4 if np.dtype(kind).itemsize == 2 else -3e38
    return columns


def ends_of(generator: Generator, sizes: Sequence[int]) -> Array:
    """Which steps end an episode, as numbers or truth values, flat or not."""
    ends = np.isin(np.arange(sum(sizes)), np.cumsum(sizes) - 1)
    ends = ends.astype(str(generator.choice(["?", "u1", "i8", "f4", "f8"])))
    return ends[:, None] if generator.random() < 0.5 else ends


def flat_episodes(
    task: str,
    columns: Mapping[str, Array],
    ends: Array,
    success: Array | None = None,
    further: Mapping[str, Array] | None = None,
) -> list[Plain]:
    """Columns cut behind the rows that end an episode, and where the next observation is not the next row."""
    found, begin, cuts = [], 0, ends.astype(bool)
    for row in range(len(ends) - 1):
        following = columns["next_observations"][row] if "next_observations" in columns else None
        cuts[row] |= following is not None and (following != columns["observations"][row + 1]).any()
    for end in [*(int(row) + 1 for row in np.flatnonzero(cuts[:-1])), len(ends)]:
        rows = slice(begin, end)
        observations = list(columns["observations"][rows])
        if "next_observations" in columns:
            observations.append(columns["next_observations"][end - 1])
        episode = Plain(
            task,
            np.stack(observations),
            columns["actions"][rows],
            columns["rewards"].reshape(-1)[rows],
            None if success is None else success[rows].tolist(),
            {name: values[rows] for name, values in (further or {}).items()},
        )
        found.append(episode if "next_observations" in columns else without_last(episode))
        begin = end
    return some(found)


def npz(layout: str, root: Path, generator: Generator) -> Source:
    below = {"goskill": "metaworld/{}", "mtdiff": "{}/sac/dataset", "harmodt": "{}"}[layout]
    widths, following = (
        (int(generator.integers(1, 9)), int(generator.integers(1, 5))),
        generator.random() < 0.7,
    )
    tasks = ["push-v2", "reach-v2"][: int(generator.integers(1, 3))]
    for task in tasks:
        folder = root / below.format(task)
        folder.mkdir(parents=True)
        for number in range(int(generator.integers(1, 12))):
            sizes = lengths(generator, 2) if layout == "mtdiff" else [int(generator.integers(2, 18))]
            columns = transitions(generator, sizes, widths, following)
            columns["terminals"] = ends_of(generator, sizes)
            save_npz = np.savez if generator.random() < 0.5 else np.savez_compressed
            save_npz(folder / f"{number}.npz", **columns, task=np.array(task))

    where = {"goskill": "metaworld/prompt/{}-prompt-expert.npy", "mtdiff": "metaworld_prompts/{}_prompt.npy"}
    if layout in where:
        for task in tasks:
            sizes = lengths(generator, 2)
            demonstrations = np.empty(len(sizes), object)
            demonstrations[:] = [transitions(generator, [size], widths, following) for size in sizes]
            file = root / where[layout].format(task)
            file.parent.mkdir(exist_ok=True)
            np.save(file, demonstrations, allow_pickle=True)

    def prompts() -> list[Plain]:
        found = []
        for task in tasks:
            for columns in np.load(root / where[layout].format(task), allow_pickle=True):
                ends = np.zeros(len(columns["rewards"]), bool)
                found += flat_episodes(task.removesuffix("-v2"), columns, ends)
        return found

    def expected() -> list[Plain]:
        found = []
        for task in tasks:
            files = list((root / below.format(task)).glob("*.npz"))
            for file in sorted(files, key=lambda one: int(one.stem)):
                with np.load(file) as columns:
                    ends = columns["terminals"].reshape(-1)
                    found += flat_episodes(task.removesuffix("-v2"), dict(columns), ends)
        return found

    return Source(layout, root, expected, prompts=prompts if layout in where else None)


def hdf5(root: Path, generator: Generator) -> Source:
    import h5py

    widths, following = (
        (int(generator.integers(1, 9)), int(generator.integers(1, 5))),
        generator.random() < 0.6,
    )
    successes, kind = generator.random() < 0.5, str(generator.choice([*FLOATS, "i4", "u1", "?"]))
    for task in ("door-open", "reach"):
        sizes = lengths(generator, 2)
        columns = transitions(generator, sizes, widths, following)
        ends = ends_of(generator, sizes)
        terminated = ends.reshape(-1) * (generator.random(sum(sizes)) < 0.5)
        columns["terminals"], columns["timeouts"] = terminated.astype(bool), ends
        shape = (sum(sizes), 3)
        number = kind in FLOATS
        columns["infos/qpos"] = (
            numbers(generator, shape, kind) if number else generator.integers(0, 2, shape).astype(kind)
        )
        if successes:
            columns["infos/success"] = generator.random(sum(sizes)) < 0.3
        with h5py.File(root / f"{task}.hdf5", "w") as file:
            for name, values in columns.items():
                file.create_dataset(name, data=values, **({"compression": "gzip"} if number else {}))
            file["infos/left_out"], file["metadata/note"] = np.zeros(sum(sizes)), "not kept"

    def expected() -> list[Plain]:
        found = []
        for task in ("door-open", "reach"):
            with h5py.File(root / f"{task}.hdf5") as file:
                names = ("observations", "actions", "rewards", "next_observations")
                columns = {name: file[name][()] for name in names if name in file}
                ends = {name: file[name][()].reshape(-1).astype(bool) for name in ("terminals", "timeouts")}
                further = {"terminated": ends["terminals"], "truncated": ends["timeouts"]}
                further["infos_qpos"] = file["infos/qpos"][()]
                success = file["infos/success"][()] if successes else None
                ended = ends["terminals"] | ends["timeouts"]
                found += flat_episodes(task, columns, ended, success, further)
        return found

    return Source("hdf5", root, expected, {"columns": ["infos/qpos"]})


def ogbench(root: Path, generator: Generator) -> Source:
    sizes, file = lengths(generator), root / "maze-v0.npz"
    sizes = [*sizes, 2]  # those of one row lead nowhere
    columns = {
        "observations": numbers(generator, (sum(sizes), int(generator.integers(1, 9)))),
        "actions": numbers(generator, (sum(sizes), int(generator.integers(1, 5)))),
        "terminals": ends_of(generator, sizes).reshape(-1),
        "qpos": numbers(generator, (sum(sizes), 3)),
        "button_states": generator.integers(0, 2, (sum(sizes), 2)),
    }
    if generator.random() < 0.5:
        columns["rewards"] = paid(generator, (sum(sizes),))
    np.savez_compressed(file, **columns)

    def expected() -> list[Plain]:
        found, begin = [], 0
        with np.load(file) as opened:
            arrays = dict(opened)
        for row in np.flatnonzero(arrays["terminals"]):
            states, steps = slice(begin, int(row) + 1), slice(begin, int(row))
            length, begin = int(row) - begin, int(row) + 1
            if length:
                rewards = arrays["rewards"][steps] if "rewards" in arrays else np.zeros(length)
                last = np.arange(length) == length - 1
                further = {name: arrays[name][steps] for name in ("qpos", "button_states")}
                further |= {"terminated": np.zeros(length, bool), "truncated": last}
                found.append(
                    Plain(
                        "maze",
                        arrays["observations"][states],
                        arrays["actions"][steps],
                        rewards,
                        None,
                        further,
                    )
                )
        return found

    return Source("ogbench", file, expected, {"task": "maze", "missing_rewards": "zero"})


# Groups of datasets.


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


SOURCES: dict[str, Callable[[Path, Generator], Source]] = {
    **{
        layout: lambda root, generator, layout=layout: npz(layout, root, generator)
        for layout in ("goskill", "mtdiff", "harmodt")
    },
    "hdf5": hdf5,
    "minari": minari,
    "tdmpc2": tdmpc2,
    "lerobot": lerobot,
    "vintix": vintix,
    "robomimic": robomimic,
    "ogbench": ogbench,
}


def stored(store: Path) -> Iterator[Plain]:
    """The episodes of a store, as NumPy alone reads its shards."""
    tasks = json.loads((store / "manifest.json").read_text())["tasks"]
    own = {"observations", "actions", "rewards", "returns_to_go", "success"}
    for shard in sorted(store.glob("shard-*")):
        arrays = {file.stem: np.load(file) for file in sorted(shard.glob("*.npy"))}
        further = [name for name in arrays if name not in own and not name.startswith("episode_")]
        for number, (begin, length, task) in enumerate(
            zip(arrays["episode_start"], arrays["episode_length"], arrays["episode_task"], strict=True)
        ):
            steps, first = slice(begin, begin + length), begin + number
            success = arrays["success"][steps].tolist()
            yield Plain(
                tasks[task],
                arrays["observations"][first : first + length + 1],
                arrays["actions"][steps],
                arrays["rewards"][steps],
                None if set(success) == {-1} else [bool(value) for value in success],
                {name: arrays[name][steps] for name in further},
            )
