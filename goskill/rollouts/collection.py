"""Collecting episodes of a suite into an episode store."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import goskill
from goskill.data.store import EpisodeStore
from goskill.data.store_files import MANIFEST
from goskill.data.writer import StoreWriter
from goskill.envs.collectors import check_policy, collector_of
from goskill.envs.jobs import in_order
from goskill.envs.metaworld.tasks import episode_seed
from goskill.envs.suite import CollectedEpisode, Suite
from goskill.envs.suite_processes import choose_workers, packed, unpacked
from goskill.envs.suite_registry import find_suite, tasks_in
from goskill.errors import InputError, StoreError
from goskill.seeds import check_seed

QUALITIES = ("near-optimal", "sub-optimal")
_COLLECTOR = "goskill.rollouts.collection"
_LEAST_SHARD_EPISODES = 20
_MOST_SHARDS = 200
_ROUND_EPISODES = 16  # of each rank between two exchanges
_Job = tuple[str, int]
_Episodes = Generator[CollectedEpisode, None, None]
_YOUNGER = ("suite", "reward_version")
"""What the provenance of older collections does not say."""


class Ranks(Protocol):
    """Processes that do the same at once, such as ``goskill.training.distributed`` under torchrun."""

    def rank(self) -> int: ...

    def world_size(self) -> int: ...

    def gather(self, value: Any, /) -> list[Any]:
        """Every rank's ``value``, in the order of the ranks."""


class _Alone:
    def rank(self) -> int:
        return 0

    def world_size(self) -> int:
        return 1

    def gather(self, value: Any, /) -> list[Any]:
        return [value]


def collect(
    tasks: str | Iterable[str] | None,
    path: str | os.PathLike[str],
    *,
    suite: Suite | str | None = None,
    episodes: int = 40,
    quality: str = "near-optimal",
    policy: str = "scripted",
    workers: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks | None = None,
) -> EpisodeStore:
    """Collect episodes of a suite's tasks into the store ``path``; go on where an earlier call was stopped.

    An interruption keeps all but the last few episodes (fewer than 20, or 1/200 of them all), and what is
    collected in the end is the same, byte for byte, as without one.

    ``tasks`` are names of ``suite``'s tasks (None: all), by default MetaWorld's, or the name of a suite. With
    ``policy="scripted"`` a task's ``episodes`` go from random to expert like the replay buffer of an agent that learns
    (`goskill.envs.collectors`), or are what the suite's own collector makes; ``"random"`` acts uniformly at random in
    any suite. ``quality="near-optimal"`` keeps all, ``"sub-optimal"`` the first half. ``workers`` processes share the
    work (default: one per core; 0: this process); the columns are the same, byte for byte, for any number of them.
    ``progress(done, total)`` is called with numbers of episodes.

    The store declares the columns ``terminated`` and ``truncated``; its provenance names the suite, and says that the
    data is scripted. All ``ranks`` have to call this alike (each with workers of its own); they share the episodes, and
    rank 0 writes the same columns.

    Raises `InputError` for wrong arguments, and for a folder that holds anything but an unfinished or
    finished collection with the same arguments; `WorkerDied` when a worker process ends (calling again goes
    on).
    """
    found, names = tasks_in(suite, tasks)
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise InputError(f"tasks: expected each task once, got {twice!r} twice")
    _check(episodes, quality)
    seed = check_seed("seed", seed)
    workers = choose_workers(found, workers)
    options = found.prepare({})
    check_policy(found, policy)
    provenance = _provenance(found, episodes, quality, policy, seed)
    kept = episodes if quality == "near-optimal" else max(episodes // 2, 1)
    jobs = [(task, episode) for task in names for episode in range(kept)]
    ranks = ranks or _Alone()
    writes = ranks.rank() == 0
    done = ranks.gather(_collected(Path(path), names, provenance) if writes else 0)[0]
    roll_out = partial(
        _roll_out, suite=found, policy=policy, options=options, episodes=episodes, seed=seed, workers=workers
    )
    rolled_out = _shared(jobs[done:], ranks, roll_out)
    if not writes:
        for _ in rolled_out:
            pass
    elif done < len(jobs) or EpisodeStore.open(path).unfinished:
        shard_episodes = max(_LEAST_SHARD_EPISODES, -(-len(jobs) // _MOST_SHARDS))
        with_ends = _declares_ends(path)
        columns, episode_columns = (
            (found.columns, found.episode_columns) if policy == "scripted" else ({}, {})
        )
        with (
            StoreWriter(
                path,
                found.observation_dim,
                found.action_dim,
                names,
                provenance=provenance,
                append=True,
                unfinished=True,
                columns={"terminated": bool, "truncated": bool, **columns} if with_ends else None,
                episode_columns=episode_columns if with_ends else None,
            ) as writer,
            _whole_shards(writer),
            contextlib.closing(rolled_out),
        ):
            if progress is not None:
                progress(done, len(jobs))
            for (task, number), episode in zip(jobs[done:], rolled_out, strict=True):
                _append(writer, task, number, episode, with_ends)
                done += 1
                if done % shard_episodes == 0:
                    writer.flush()
                if progress is not None:
                    progress(done, len(jobs))
            writer.finish()
    ranks.gather(None)  # the store is whole when any of them opens it
    return EpisodeStore.open(path)


def _declares_ends(path: str | os.PathLike[str]) -> bool:
    """False for a collection that began before stores had such columns; it goes on without."""
    return not (Path(path) / MANIFEST).exists() or bool(EpisodeStore.open(path).columns)


def _append(writer: StoreWriter, task: str, number: int, episode: CollectedEpisode, with_ends: bool) -> None:
    try:
        writer.append(
            task=task,
            observations=episode.observations,
            actions=episode.actions,
            rewards=episode.rewards,
            success=episode.success,
            columns={"terminated": episode.terminated, "truncated": episode.truncated, **episode.columns}
            if with_ends
            else None,
            episode_columns=episode.episode_columns if with_ends else None,
        )
    except StoreError:
        raise
    except InputError as error:
        raise InputError(f"task {task!r}, episode {number}: {error}") from None


@contextlib.contextmanager
def _whole_shards(writer: StoreWriter) -> Iterator[None]:
    """Drops an interrupted shard, so that shards end at the same episodes however often there was a stop."""
    try:
        yield
    except BaseException:
        writer.discard()
        raise


def _check(episodes: int, quality: str) -> None:
    if episodes < 1:
        raise InputError(f"episodes: expected at least 1, got {episodes}")
    if quality not in QUALITIES:
        raise InputError(f"quality: expected one of {', '.join(QUALITIES)}, got {quality!r}")


def episode_seeds(store: EpisodeStore) -> list[int] | None:
    """What the environment of each episode of a collected store was reset with; None for any other store.

    With that seed an environment of its suite begins where the episode began, as long as the packages are
    those that the provenance names. A suite's own collector may begin episodes in other ways.
    """
    origin = store.provenance[0] if len(store.provenance) == 1 else {}
    if origin.get("collector") != _COLLECTOR or not isinstance(origin.get("seed"), int):
        return None
    try:
        suite = find_suite(origin.get("suite", "metaworld"))
    except InputError:
        return None
    if origin.get("source") == "scripted" and suite.collector() is not None:
        return None
    counts = dict.fromkeys(store.tasks, 0)
    seeds = []
    for index in store.episode_task:
        task = store.tasks[index]
        seeds.append(episode_seed(origin["seed"], task, counts[task], "collection"))
        counts[task] += 1
    return seeds


def suite_of_store(store: EpisodeStore) -> str | None:
    """The name of the suite that a store was collected in; None where it does not say."""
    names = {origin.get("suite") for origin in store.provenance}
    name = names.pop() if len(names) == 1 else None
    return name if isinstance(name, str) else None


def _provenance(suite: Suite, episodes: int, quality: str, policy: str, seed: int) -> dict[str, Any]:
    packages = {name: importlib.metadata.version(name) for name in (*suite.packages, "numpy")}
    return {
        "source": policy,
        "collector": _COLLECTOR,
        "policy": f"scripted: {suite.scripted}" if policy == "scripted" else policy,
        "episodes": episodes,
        "quality": quality,
        "seed": seed,
        "packages": {"goskill": goskill.__version__, **packages},
        "suite": suite.name,
        **({} if suite.reward_version is None else {"reward_version": suite.reward_version}),
    }


def finished_by(
    path: str | os.PathLike[str], tasks: Sequence[str], episodes: int, quality: str, seed: int
) -> Mapping[str, str] | None:
    """The versions of the packages that finished this collection in the folder; None if it has none, or another."""
    if not (Path(path) / MANIFEST).exists():
        return None
    store = EpisodeStore.open(path)
    if store.unfinished or store.tasks != list(tasks) or len(store.provenance) != 1:
        return None
    (origin,) = store.provenance
    wanted = {"collector": _COLLECTOR, "episodes": episodes, "quality": quality, "seed": seed}
    packages = origin.get("packages")
    if not isinstance(packages, dict) or any(origin.get(name) != value for name, value in wanted.items()):
        return None
    return packages


def _collected(path: Path, tasks: Sequence[str], provenance: dict[str, Any]) -> int:
    """How many episodes of this very collection the folder holds already."""
    if not (path / MANIFEST).exists():
        return 0  # the writer refuses what is not empty
    store = EpisodeStore.open(path)
    if store.tasks != list(tasks):
        raise InputError(f"{path}: exists already, with the tasks {', '.join(store.tasks)}")
    for theirs in store.provenance:
        for key in sorted(provenance.keys() | theirs.keys()):
            if key in _YOUNGER and key not in theirs:
                continue
            if theirs.get(key) != provenance.get(key):
                raise InputError(
                    f"{path}: exists already, with {key} {theirs.get(key)!r} where this collection has "
                    f"{provenance.get(key)!r}"
                )
    return store.num_episodes


def _shared(jobs: Sequence[_Job], ranks: Ranks, roll_out: Callable[[Sequence[_Job]], _Episodes]) -> _Episodes:
    """The episodes of the jobs, in their order, rolled out by all ranks."""
    count = ranks.world_size()
    with contextlib.closing(roll_out(jobs[ranks.rank() :: count])) as own:
        if count == 1:
            yield from own
            return
        for first in range(0, len(jobs), _ROUND_EPISODES * count):
            parts = ranks.gather(list(islice(own, _ROUND_EPISODES)))
            for index in range(min(_ROUND_EPISODES * count, len(jobs) - first)):
                yield parts[index % count][index // count]


def _roll_out(
    jobs: Sequence[_Job],
    suite: Suite,
    policy: str,
    options: dict[str, Any],
    episodes: int,
    seed: int,
    workers: int,
) -> _Episodes:
    """The episodes of the jobs, in their order."""
    if workers == 0:
        collector = collector_of(suite, policy, options)
        yield from (collector(task, episode, episodes, seed) for task, episode in jobs)
        return
    arguments = (packed(suite), policy, options, episodes, seed)
    yield from in_order(jobs, workers, "collection worker", "goskill.rollouts.collection:serve", arguments)


def serve(
    packed_suite: bytes, policy: str, options: dict[str, Any], episodes: int, seed: int
) -> Callable[[_Job], CollectedEpisode]:
    """In a worker process: rolls out the (task, episode) it is sent."""
    collector = collector_of(unpacked(packed_suite), policy, options)
    return lambda job: collector(*job, episodes, seed)
