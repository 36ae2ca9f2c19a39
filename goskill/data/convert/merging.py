"""Several stores into one."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from goskill.data.convert.copying import Part, Source, copy_source
from goskill.data.convert.fingerprints import stamp
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.transitions import Content, SourceEpisode, digest, named
from goskill.data.episode import CheckedEpisode, Episode
from goskill.data.store import EpisodeStore
from goskill.data.store_files import MANIFEST
from goskill.errors import InputError, StoreError

_STEPS_PER_PART = 4_000


def merge(
    stores: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Copy the episodes of several stores into a new one, going on where an earlier call was interrupted.

    Tasks of the same name become one, in the order of their first mention; success and declared columns are kept,
    labels and prompts are not. The checksums of the stores are compared first. What the stores say of where they come
    from is kept in the provenance.

    Returns the report, also written to ``conversion.json``. Raises InputError for less than two stores, for the same
    one twice, and for stores of other dimensions, other declared columns, another ``action_repeat`` or
    ``reward_version``; StoreError for one that is damaged or unfinished, or an ``out`` that holds other data.
    """
    paths = [Path(store) for store in stores]
    if len(paths) < 2:
        raise InputError(f"stores: expected at least two, got {len(paths)}")
    if len({path.resolve() for path in [*paths, Path(out)]}) <= len(paths):
        raise InputError(
            f"stores: expected distinct folders, and out another one, got {', '.join(map(str, paths))}"
        )
    opened = [EpisodeStore.open(path) for path in paths]
    for store in opened:
        if store.unfinished:
            raise StoreError(f"{store.path}: is unfinished: run the command again that was writing it")
        _check_fits(opened[0], store)
        store.verify()
    _check_rewards(opened)
    return copy_source(_source(opened), out, workers, progress)


def _check_fits(first: EpisodeStore, store: EpisodeStore) -> None:
    for name in ("observation_dim", "action_dim", "columns", "episode_columns", "action_repeat"):
        there, here = getattr(first, name), getattr(store, name)
        if here != there:
            raise InputError(
                f"stores: expected {name} {there} as of {first.path}, got {here} of {store.path}"
            )


def _check_rewards(stores: list[EpisodeStore]) -> None:
    """InputError for rewards of several versions, which would stand for one another."""
    known: dict[str, Path] = {}
    for store in stores:
        for origin in store.provenance:
            if origin.get("reward_version") is not None:
                known.setdefault(str(origin["reward_version"]), store.path)
    if len(known) > 1:
        (first, there), (other, here), *_ = known.items()
        raise InputError(f"stores: expected reward_version {first} as of {there}, got {other} of {here}")


def _source(stores: list[EpisodeStore]) -> Source:
    first, paths = stores[0], [store.path.resolve() for store in stores]
    origins = [
        {"path": str(path), "fingerprint": store.fingerprint, "provenance": store.provenance}
        for path, store in zip(paths, stores, strict=True)
    ]
    shared = {name: _shared(stores, name) for name in ("action_repeat", "reward_version")}
    return Source(
        Path(os.path.commonpath(paths)),
        "stores",
        {"stores": origins, **{name: value for name, value in shared.items() if value is not None}},
        [part for store in stores for part in _parts(store)],
        read_episodes,
        name=", ".join(map(str, paths)),
        columns=first.columns,
        episode_columns=first.episode_columns,
        known_tasks=list(dict.fromkeys(task for store in stores for task in store.tasks)),
        known_dimensions=(first.observation_dim, first.action_dim),
    )


def _shared(stores: list[EpisodeStore], name: str) -> Any:
    """What all stores say under a name, or None."""
    values = [origin.get(name) for store in stores for origin in store.provenance]
    return values[0] if values and values.count(values[0]) == len(values) else None


def _parts(store: EpisodeStore) -> list[Part]:
    """Runs of episodes of some thousand steps."""
    ends = np.cumsum(store.episode_length)
    cuts = [0, *(np.flatnonzero(np.diff(ends // _STEPS_PER_PART)) + 1).tolist(), store.num_episodes]
    path = store.path.resolve()
    return [
        Part((str(path), first, last), (path / MANIFEST,))
        for first, last in itertools.pairwise(cuts)
        if last > first
    ]


@functools.lru_cache(4)
def _opened(path: str, known: tuple[int, ...]) -> EpisodeStore:
    return EpisodeStore.open(path)


def read_episodes(key: tuple[str, int, int]) -> Content:
    """Some episodes of a store."""
    path, first, last = key
    store = _opened(path, stamp(Path(path) / MANIFEST))
    return Content([_episode(f"{path}: episode {i}", store.episode(i)) for i in range(first, last)])


def _episode(where: str, episode: Episode) -> SourceEpisode:
    with named(where):
        content = CheckedEpisode.of(
            episode.observations,
            episode.actions,
            episode.rewards,
            episode.success,
            columns=episode.columns,
            episode_columns=episode.episode_columns,
        )
    known = digest(content.observations, content.actions, content.rewards)
    return SourceEpisode(where, content, known, task=episode.task)
