"""The field's MetaWorld datasets: npz files in the layouts of GO-Skill, MTDiff and HarmoDT."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from goskill.data.convert.report import ConversionReport
from goskill.data.convert.restricted_pickle import load_prompts
from goskill.data.convert.transitions import SourceEpisode, append_episode, columns_of, episodes_of
from goskill.data.store import EpisodeStore
from goskill.data.writer import StoreWriter
from goskill.envs.jobs import in_order
from goskill.errors import InputError, StoreError

_FILE_LIMIT = 1 << 30
_SHARD_STEPS = 500_000
_FILES_PER_JOB = 8
_QUALITIES = {"near-optimal": "expert", "sub-optimal": "medium"}
_VERSION = re.compile(r"-v[0-9]+$")

LAYOUTS = ("goskill", "mtdiff", "harmodt")


@dataclass(frozen=True)
class SourceFile:
    """A file of episodes of one task."""

    task: str
    path: Path


def _numbered(files: Iterable[Path]) -> list[Path]:
    """In numeric order of the file names; names without a number come last."""
    numbers = {file: [int(n) for n in re.findall(r"[0-9]+", file.stem)] for file in files}
    return sorted(numbers, key=lambda file: (not numbers[file], numbers[file], file.name))


def _task_folders(root: Path, layout: str) -> list[Path]:
    base = root / "metaworld" if layout == "goskill" and (root / "metaworld").is_dir() else root
    if not base.is_dir():
        raise StoreError(f"{base}: there is no such folder")
    pattern = "*/dataset/*.npz" if layout == "mtdiff" else "*.npz"
    folders = [
        folder for folder in sorted(base.iterdir()) if folder.is_dir() and next(folder.glob(pattern), None)
    ]
    if not folders:
        raise StoreError(f"{base}: found no task folders with {pattern} files of the {layout} layout")
    return folders


def _limit(layout: str, quality: str) -> int:
    limits = {"near-optimal": 2000, "sub-optimal": 1000}
    return limits[quality] - (2 if layout == "harmodt" else 0)


def _files(root: Path, layout: str, limit: int) -> list[SourceFile]:
    files = []
    for folder in _task_folders(root, layout):
        pattern = "*/dataset/*.npz" if layout == "mtdiff" else "*.npz"
        task = _VERSION.sub("", folder.name)
        # A file holds at least one episode.
        files += [SourceFile(task, file) for file in _numbered(folder.glob(pattern))[:limit]]
    return files


def _prompt_file(root: Path, layout: str, folder: Path, quality: str) -> Path | None:
    if layout == "goskill":
        return folder.parent / "prompt" / f"{folder.name}-prompt-{_QUALITIES[quality]}.npy"
    if layout == "mtdiff":
        candidates = [
            base / "metaworld_prompts" / f"{folder.name}_prompt.npy" for base in (root, root.parent)
        ]
        return next((file for file in candidates if file.exists()), candidates[0])
    return None


FileContent = tuple[list[SourceEpisode], int, int]


def read_file(path: Path, at_terminals: bool) -> FileContent:
    """The episodes of one npz file, the cuts besides its terminals, the steps dropped. StoreError names the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > _FILE_LIMIT:
                raise StoreError(f"{path}: holds more than {_FILE_LIMIT} bytes")
        with np.load(path, allow_pickle=False) as content:
            wanted = ("observations", "actions", "rewards", "next_observations", "terminals", "dones")
            arrays = {name: content[name] for name in wanted if name in content.files}
    except StoreError:
        raise
    # A damaged archive raises one of many errors of zipfile, zlib and NumPy.
    except Exception as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error
    columns = columns_of(str(path), arrays)
    ends = columns["ends"] if at_terminals else np.zeros_like(columns["ends"])
    return episodes_of(columns, ends)


def serve(at_terminals: bool) -> Callable[[bytes], bytes]:
    """In a worker process: reads the pickled paths it is sent; what is wrong with a file is an answer, too."""

    def handle(message: bytes) -> bytes:
        answer: list[FileContent] | StoreError
        try:
            answer = [read_file(path, at_terminals) for path in pickle.loads(message)]
        except StoreError as error:
            answer = error
        return pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL)

    return handle


def _read_in_order(
    files: list[SourceFile], at_terminals: bool, workers: int
) -> Iterator[tuple[SourceFile, FileContent]]:
    """Each file with what :func:`read_file` gives, in order; only a few are in memory at a time."""
    if workers == 1:
        yield from ((file, read_file(file.path, at_terminals)) for file in files)
        return
    parts = [files[i : i + _FILES_PER_JOB] for i in range(0, len(files), _FILES_PER_JOB)]
    jobs = [[file.path for file in part] for part in parts]
    answers = in_order(jobs, workers, "reading worker", "goskill.data.convert.npz:serve", (at_terminals,))
    for part, answer in zip(parts, answers, strict=True):
        if isinstance(answer, StoreError):
            raise answer
        yield from zip(part, answer, strict=True)


def from_npz(
    layout: str,
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    quality: str = "near-optimal",
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Convert a dataset of npz files into a store, going on where an earlier call was interrupted.

    Parameters
    ----------
    layout: "goskill" (``metaworld/<task>/<i>.npz``), "harmodt" (``<task>/<i>.npz``) or "mtdiff"
        (``<task>/<sub>/dataset/*.npz``, cut at ``terminals``).
    source: the dataset's root folder. path: the store.
    quality: "near-optimal" (the first 2000 episodes of a task; 1998 for harmodt) or "sub-optimal" (the
        first half).
    workers: processes that read files, 0 for all cores.
    progress: called with (files done, files).

    Every file is checked: columns, shapes, dtypes, finite values that fit float32. Where
    ``next_observations[t]`` is not ``observations[t + 1]`` the episode is cut, so that every transition
    stays exact. Prompts go into a store ``prompts`` inside the store's folder. A version suffix of task
    names ("-v2") is dropped.

    Returns the report, also written to ``conversion.json``. Raises InputError, StoreError that names
    the file, or WorkerDied when a process is killed (calling again goes on).
    """
    root, target = Path(source), Path(path)
    if layout not in LAYOUTS:
        raise InputError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
    if quality not in _QUALITIES:
        raise InputError(f"quality: expected 'near-optimal' or 'sub-optimal', got {quality!r}")
    if workers < 0:
        raise InputError(f"workers: expected at least 0, got {workers}")
    limit = _limit(layout, quality)
    files = _files(root, layout, limit)
    tasks = list(dict.fromkeys(file.task for file in files))
    at_terminals = layout == "mtdiff"
    first, _, _ = read_file(files[0].path, at_terminals)
    if not first:
        raise StoreError(f"{files[0].path}: holds no whole step")
    provenance = {"converter": "goskill", "layout": layout, "quality": quality, "source": str(root.resolve())}
    dimensions = (first[0].observations.shape[1], first[0].actions.shape[1])
    report = ConversionReport(source=str(root))
    with StoreWriter(
        target, *dimensions, tasks, provenance, append=True, shard_steps=1 << 40, unfinished=True
    ) as writer:
        store = EpisodeStore.open(target)
        if any(known != provenance for known in store.provenance):
            raise StoreError(f"{target}: holds other data than this conversion would write")
        notes = store.shard_notes
        state: dict[str, Any] = {"files": 0, "taken": {}, "report": report.to_json()}
        if notes:
            state = notes[-1]
        report = ConversionReport(**state["report"])
        try:
            _copy(writer, store, files, at_terminals, limit, state, report, workers, progress)
        except BaseException:
            # What is not flushed has no note, and would be read again by the next call.
            writer.discard()
            raise
        writer.finish()
    _finish(root, layout, quality, target, report, limit)
    return report


def _copy(
    writer: StoreWriter,
    store: EpisodeStore,
    files: list[SourceFile],
    at_terminals: bool,
    limit: int,
    state: dict[str, Any],
    report: ConversionReport,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    done, taken, pending = int(state["files"]), dict(state["taken"]), 0
    digests = {_stored(store, i).digest() for i in range(store.num_episodes)}
    reading = _read_in_order(files[done:], at_terminals, workers or len(os.sched_getaffinity(0)))
    for file, (episodes, cuts, dropped) in reading:
        if cuts:
            report.add("split", f"{file.path}: {cuts} times")
        if dropped:
            report.add("shortened", str(file.path))
        room = limit - taken.get(file.task, 0)
        for episode in episodes[: room + cuts] if room > 0 else []:
            digest = episode.digest()
            if digest in digests:
                report.add("duplicates", str(file.path))
            digests.add(digest)
            append_episode(writer, str(file.path), file.task, episode)
            pending += len(episode.rewards)
        taken[file.task] = taken.get(file.task, 0) + len(episodes) - cuts
        done += 1
        if progress is not None:
            progress(done, len(files))
        if pending >= _SHARD_STEPS or done == len(files):
            writer.flush({"files": done, "taken": taken, "report": report.to_json()})
            pending = 0


def _stored(store: EpisodeStore, index: int) -> SourceEpisode:
    episode = store.episode(index)
    return SourceEpisode(episode.observations, episode.actions, episode.rewards)


def _finish(
    root: Path, layout: str, quality: str, target: Path, report: ConversionReport, limit: int
) -> None:
    """Add what is known only when all episodes are there: prompts and statistics."""
    store = EpisodeStore.open(target)
    report.count(store)
    constant = store.statistics.minimum == store.statistics.maximum
    report.constant_dimensions = [int(i) for i in np.flatnonzero(constant)]
    counts = np.bincount(store.episode_task, minlength=len(store.tasks))
    report.fewer_episodes = {
        task: int(count) for task, count in zip(store.tasks, counts, strict=True) if count < limit
    }
    report.missing_prompts, report.prompt_episodes = [], {}
    prompts: dict[str, list[SourceEpisode]] = {}
    for folder in _task_folders(root, layout):
        task, file = _VERSION.sub("", folder.name), _prompt_file(root, layout, folder, quality)
        if file is None:
            continue
        if not file.exists():
            report.missing_prompts.append(task)
            continue
        prompts[task] = []
        for number, arrays in enumerate(load_prompts(file)):
            columns = columns_of(f"{file}: episode {number}", arrays)
            prompts[task] += episodes_of(columns, np.zeros_like(columns["ends"]))[0]
    if prompts:
        _write_prompts(store, prompts, report)
    report.write(target)


def _write_prompts(
    store: EpisodeStore, prompts: dict[str, list[SourceEpisode]], report: ConversionReport
) -> None:
    places = {_stored(store, i).digest(): i for i in range(store.num_episodes)}
    folder = store.path / "prompts"
    if not (folder / "manifest.json").exists() or EpisodeStore.open(folder).unfinished:
        dimensions = (store.observation_dim, store.action_dim)
        with StoreWriter(folder, *dimensions, list(prompts), unfinished=True) as writer:
            for task, episodes in prompts.items():
                for number, episode in enumerate(episodes):
                    append_episode(writer, f"prompt {number} of {task}", task, episode)
            writer.finish()
    for task, episodes in prompts.items():
        found = [places[digest] for digest in (e.digest() for e in episodes) if digest in places]
        report.prompt_episodes[task] = found
