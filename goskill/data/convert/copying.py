"""Copying a source's episodes into a store: by several processes, in order, and going on after an interruption."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from goskill.data.columns import EPISODE_ENDS, EVERY_STORE
from goskill.data.convert.fingerprints import fingerprint, stamp
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.transitions import Content, SourceBlock, SourceEpisode, digest, named
from goskill.data.selection import episode_counts
from goskill.data.store import EpisodeStore
from goskill.data.store_files import MANIFEST
from goskill.data.writer import StoreWriter
from goskill.envs.jobs import in_order
from goskill.errors import InputError, StoreError

_SHARD_STEPS = 500_000
_NOT_IN_NAMES = re.compile("[^A-Za-z0-9_]")
# Starting processes takes about 0.3 s of every core: seconds until that is decided, and from how many on it pays.
_TRIAL, _WORTHWHILE = 0.1, 1.0


@dataclass(frozen=True)
class Part:
    """What is read at once: the ``key`` that the reader finds episodes by, the files it reads, and their task.

    Without a task the episodes say theirs themselves.
    """

    key: Any
    files: tuple[Path, ...]
    task: str | None = None


@dataclass(frozen=True)
class Member:
    """One of several sources that are converted into a store one after another; it may be gone before the next comes.

    ``origin`` is what the store is to remember of all of them in place of the member's own path.
    """

    name: str
    last: bool
    origin: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Where episodes come from. ``read`` and the parts' keys travel to other processes, pickled."""

    root: Path  # a folder, or the one file
    layout: str
    details: dict[str, Any]  # what else the store is to remember of the source
    parts: list[Part]
    read: Callable[[Any], Content]  # what is behind a key; StoreError says what is wrong with it
    parts_per_job: int = 1
    limit: int | None = None  # episodes of a task that are taken, whole
    name: str = ""  # for messages, if the root does not say it
    columns: Mapping[str, Any] = field(default_factory=dict)  # that the store is to declare
    episode_columns: Mapping[str, Any] = field(default_factory=dict)
    known_tasks: Sequence[str] = ()  # by default those of the parts
    known_dimensions: tuple[int, int] | None = None  # by default those of the first episode
    member: Member | None = None

    def __str__(self) -> str:
        return self.name or str(self.root)

    @property
    def provenance(self) -> dict[str, Any]:
        origin = (
            {"source": self.name or str(self.root.resolve())} if self.member is None else self.member.origin
        )
        return {"converter": "goskill", "layout": self.layout, **origin, **self.details}

    @property
    def tasks(self) -> list[str]:
        """All that the store is to have."""
        return list(
            self.known_tasks or dict.fromkeys(part.task for part in self.parts if part.task is not None)
        )

    def dimensions(self) -> tuple[int, int]:
        """Sizes of an observation and an action."""
        if self.known_dimensions is not None:
            return self.known_dimensions
        for part in self.parts:
            for episode in self.read(part.key).episodes:
                return episode.content.observations.shape[1], episode.content.actions.shape[1]
        raise StoreError(f"{self}: holds no whole step")

    def relative(self, file: Path) -> str:
        """The name of a file within the source, wherever that lies."""
        name, folder = str(file), f"{self.root}{os.sep}"
        if name.startswith(folder):  # mostly, and much faster
            return name[len(folder) :]
        return file.name if file == self.root else os.path.relpath(file, self.root)

    @property
    def listing(self) -> str:
        """A digest of what the parts are, in order."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update("\n".join([part.task or "", *map(self.relative, part.files), ""]).encode())
        return digest.hexdigest()


def column_name(name: str) -> str:
    """What a store calls a column of a source: ``infos/qpos`` becomes ``infos_qpos``."""
    return _NOT_IN_NAMES.sub("_", name)


def unasked_column_name(name: str) -> str:
    """The same of a column that is kept unasked, which cannot be left out if stores have one of that name themselves.

    Then it gets a prefix: ``rewards`` becomes ``source_rewards``.
    """
    plain = column_name(name)
    return f"source_{plain}" if plain in EVERY_STORE or plain in EPISODE_ENDS else plain


def column_names(names: Iterable[str], called: Callable[[str], str] = column_name) -> dict[str, str]:
    """What a store calls columns of a source, by their names there. InputError for two that it would call the same."""
    known: dict[str, str] = {}
    for name in names:
        there = known.setdefault(called(name), name)
        if there != name:
            raise InputError(
                f"columns: expected names that differ in letters and digits, got {there!r:.80} and {name!r:.80}"
            )
    return {name: column for column, name in known.items()}


def serve(read: Callable[[Any], Content]) -> Callable[[list[Any]], list[Content] | StoreError]:
    """In a worker process: reads what is behind keys; what is wrong with the source is an answer, too."""

    def handle(keys: list[Any]) -> list[Content] | StoreError:
        try:
            return [read(key) for key in keys]
        except StoreError as error:
            return error

    return handle


def _read_in_order(source: Source, parts: Sequence[Part], workers: int) -> Iterator[tuple[Part, Content]]:
    """Each part with its content, in order; only a few are in memory at a time.

    This process reads until what is left would take it longer than several processes and their start.
    """
    begin = time.monotonic()
    for done, part in enumerate(parts):
        spent = time.monotonic() - begin
        if workers > 1 and done and spent > _TRIAL and spent / done * (len(parts) - done) > _WORTHWHILE:
            yield from _read_by_processes(source, parts[done:], workers)
            return
        yield part, source.read(part.key)


def _read_by_processes(source: Source, parts: Sequence[Part], workers: int) -> Iterator[tuple[Part, Content]]:
    groups = [parts[i : i + source.parts_per_job] for i in range(0, len(parts), source.parts_per_job)]
    jobs = [[part.key for part in group] for group in groups]
    target = "goskill.data.convert.copying:serve"
    for group, answer in zip(
        groups, in_order(jobs, workers, "reading worker", target, (source.read,)), strict=True
    ):
        if isinstance(answer, StoreError):
            raise answer
        yield from zip(group, answer, strict=True)


def copy_source(
    source: Source,
    path: str | os.PathLike[str],
    workers: int,
    progress: Callable[[int, int], None] | None,
    complete: Callable[[EpisodeStore, ConversionReport], None] | None = None,
) -> ConversionReport:
    """Copy every episode into the store at ``path``, going on where an earlier call was interrupted.

    ``workers``: processes that read, 0 for all cores; this one alone reads what takes no longer than their start.
    ``progress`` is called with (parts done, parts). The report is written into the store, after ``complete`` has added
    to it.
    Raises InputError, StoreError that names the place, or WorkerDied when a process is killed.
    """
    if workers < 0:
        raise InputError(f"workers: expected at least 0, got {workers}")
    if (Path(path) / MANIFEST).exists():
        there = EpisodeStore.open(path)
        if there.tasks != source.tasks or any(known != source.provenance for known in there.provenance):
            raise StoreError(f"{path}: holds other data than this conversion would write")
        check_unchanged(source, there)
    with StoreWriter(
        path,
        *source.dimensions(),
        source.tasks,
        source.provenance,
        append=True,
        shard_steps=1 << 40,
        unfinished=True,
        columns=source.columns,
        episode_columns=source.episode_columns,
    ) as writer:
        store = EpisodeStore.open(path)
        state = _state(source, store)
        report = ConversionReport.from_json(state["report"])
        try:
            taken = _copy(
                writer, store, source, state, report, workers or len(os.sched_getaffinity(0)), progress
            )
        except BaseException:
            # What is not flushed has no note, and would be read again by the next call.
            writer.discard()
            raise
        if source.member is None or source.member.last:
            _check_not_empty(source, path)
            writer.finish()
    store = EpisodeStore.open(path)
    report.count(store)
    constant = store.statistics.minimum == store.statistics.maximum
    report.constant_dimensions = [int(i) for i in np.flatnonzero(constant)]
    if source.limit is None:
        counts, least = dict(zip(store.tasks, episode_counts(store), strict=True)), 1
    else:
        counts, least = {task: taken.get(task, 0) for task in source.tasks}, source.limit
    report.fewer_episodes = {task: count for task, count in counts.items() if count < least}
    if complete is not None:
        complete(store, report)
    report.write(Path(path))
    return report


def _check_not_empty(source: Source, path: str | os.PathLike[str]) -> None:
    """StoreError for a source that has no episode of the tasks that were wanted."""
    if not EpisodeStore.open(path).num_episodes:
        raise StoreError(f"{source}: holds no episodes of {', '.join(source.tasks):.200}")


def _state(source: Source, store: EpisodeStore) -> dict[str, Any]:
    """How far the conversion is. StoreError if the store does not say, or the source has other parts than it had."""
    report, notes = ConversionReport(str(source)).to_json(), _notes(source, store)
    state: dict[str, Any] = {"done": 0, "taken": {}, "report": report}
    state |= {"parts": len(source.parts), "listing": source.listing}
    if notes:
        known = _checked_state(store, notes[-1])
        if any(known.get(name) != state[name] for name in ("parts", "listing")):
            raise StoreError(f"{source}: is not what it was when the conversion to {store.path} began")
        return known
    if source.member is not None:
        state["member"] = source.member.name
        if store.shard_notes:  # of the members before
            known = _checked_state(store, store.shard_notes[-1])
            state |= {"taken": known["taken"], "report": known["report"]}
    return state


def _notes(source: Source, store: EpisodeStore) -> list[dict[str, Any]]:
    """What shards of this source, or member, say."""
    name = None if source.member is None else source.member.name
    return [note for note in store.shard_notes if note.get("member") == name]


def finished_members(path: str | os.PathLike[str]) -> set[str]:
    """The members that a store has all of."""
    if not (Path(path) / MANIFEST).exists():
        return set()
    store = EpisodeStore.open(path)
    notes = [_checked_state(store, note) for note in store.shard_notes if "member" in note]
    return {str(note["member"]) for note in notes if note["done"] == note.get("parts")}


def check_unchanged(source: Source, store: EpisodeStore) -> None:
    """StoreError names a file of the source that is not what the store was made of."""
    files = {source.relative(file): file for part in source.parts for file in part.files}
    for note in _notes(source, store):
        made_of = note.get("files")
        if not isinstance(made_of, dict):
            raise StoreError(f"{store.path}: does not say what it was made of: give another folder")
        for name, known in made_of.items():
            if name not in files or fingerprint(files[name]) != known:
                raise StoreError(
                    f"{source.root / name if source.root.is_dir() else source.root}: is not what {store.path} was "
                    "made of: give another folder, or remove that one to convert anew"
                )


class _FilesRead:
    """The files that were read since the last shard, and what they are known by."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[Path, tuple[str, tuple[int, ...]]] = {}
        self._since: set[Path] = set()

    def add(self, file: Path) -> None:
        if file not in self._known:
            self._known[file] = fingerprint(file), stamp(file)
        self._since.add(file)

    def note(self) -> dict[str, str]:
        """By name. StoreError for a file that changed while it was read."""
        noted = {}
        for file in sorted(self._since):
            known, before = self._known[file]
            if stamp(file) != before:
                raise StoreError(f"{file}: has changed while it was read")
            noted[self._source.relative(file)] = known
        self._since.clear()
        return noted


def _checked_state(store: EpisodeStore, state: dict[str, Any]) -> dict[str, Any]:
    """What the last shard says of how far the conversion was; StoreError if that cannot be."""
    done, taken, report = (state.get(name) for name in ("done", "taken", "report"))
    counts = [done, *(taken.values() if isinstance(taken, dict) else [taken])]
    if isinstance(report, dict) and all(type(count) is int and count >= 0 for count in counts):
        with contextlib.suppress(TypeError):
            ConversionReport.from_json(report)
            return state
    raise StoreError(f"{store.path}: its last shard does not say how far the conversion was")


def _copy(
    writer: StoreWriter,
    store: EpisodeStore,
    source: Source,
    state: dict[str, Any],
    report: ConversionReport,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, int]:
    """Returns how many of the source's episodes each task has."""
    done, taken, pending = int(state["done"]), dict(state["taken"]), 0
    # Of members before this one nothing is compared: their episodes would be read again for every member.
    known = set(digests(store)) if done < len(source.parts) and (done or source.member is None) else set()
    files = _FilesRead(source)
    for part, content in _read_in_order(source, source.parts[done:], workers):
        for file in part.files:
            files.add(file)
        room = math.inf if source.limit is None else source.limit - taken.get(part.task or "", 0)
        chosen = first_of(content.episodes, room)
        if chosen or content.blocks or room > 0:
            report.add_oddities(content)
        for episode in chosen:
            if episode.digest in known:
                report.add("duplicates", episode.where)
            known.add(episode.digest)
            task = _task_of(part, episode)
            append_episode(writer, task, episode)
            taken[task] = taken.get(task, 0) + (not episode.continues)
            pending += len(episode.content.rewards)
        for block in content.blocks:
            for where, found in block.digests():
                if found in known:
                    report.add("duplicates", where)
                known.add(found)
            append_block(writer, block)
            for task, count in Counter(block.tasks).items():
                taken[task] = taken.get(task, 0) + count
            pending += block.content.rewards.size
        done += 1
        if progress is not None:
            progress(done, len(source.parts))
        if pending >= _SHARD_STEPS or done == len(source.parts):
            noted = {"done": done, "taken": taken, "report": report.to_json(), "files": files.note()}
            writer.flush({**state, **noted})
            pending = 0
    return taken


def first_of(episodes: list[SourceEpisode], count: float) -> list[SourceEpisode]:
    """What came of the source's first ``count`` episodes: one that was cut counts once, and is taken whole."""
    numbers = itertools.accumulate(not episode.continues for episode in episodes)
    return [episode for episode, number in zip(episodes, numbers, strict=True) if number <= count]


def _task_of(part: Part, episode: SourceEpisode) -> str:
    task = episode.task if part.task is None else part.task
    if task is None:
        raise StoreError(f"{episode.where}: expected a task, got none")
    return task


def digests(store: EpisodeStore) -> Iterator[int]:
    """What the episodes of a store are known by, as those of sources are."""
    for index in range(store.num_episodes):
        observations, actions, rewards, *_ = store.native.episode(index)
        yield digest(observations, actions, rewards)


def append_episode(writer: StoreWriter, task: str, episode: SourceEpisode) -> None:
    """Write an episode; what is wrong with it becomes a StoreError that says where it came from."""
    with named(episode.where):
        writer.append_checked(task, episode.content)


def append_block(writer: StoreWriter, block: SourceBlock) -> None:
    """Write episodes of one length; what is wrong with them becomes a StoreError that says where they came from."""
    with named(block.where):
        writer.append_block(block.tasks, block.content)
