"""Episodes as plain arrays, random numbers for them, and what NumPy alone reads of a store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

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
