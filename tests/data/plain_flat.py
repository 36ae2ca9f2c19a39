"""Small sources of flat transitions, drawn at random, and what a store should hold of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from plain_episodes import FLOATS, Array, Generator, Plain, Source, lengths, numbers, paid, some, without_last


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
