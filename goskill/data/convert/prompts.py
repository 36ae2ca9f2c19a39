"""From the layouts' files of prompts to a store of them inside the store of the episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from goskill.data.convert.copying import append_episode, digests
from goskill.data.convert.ends import FLAGS
from goskill.data.convert.fingerprints import content_digest
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.restricted_pickle import load_prompts
from goskill.data.convert.transitions import Content, columns_of, content_of
from goskill.data.store import PROMPTS, EpisodeStore
from goskill.data.store_files import MANIFEST, open_regular, storage_errors
from goskill.data.writer import StoreWriter
from goskill.errors import StoreError

# Of one file: 500 episodes of 500 steps. Pickles can name the same episode again and again in two bytes.
_MOST_STEPS = 250_000


def copy_prompts(files: Mapping[str, Path], store: EpisodeStore, report: ConversionReport) -> None:
    """Write the prompts of each task's file into the store ``prompts``, unless that was done before.

    One episode is in memory at a time beside the file that it is read from. The report is told which of the store's
    episodes they are, and what was odd about them. StoreError names what is wrong, also files that have changed since.
    """
    if not files:
        return
    made_of = {task: _facts(file) for task, file in files.items()}
    # A call that was killed at its start left a folder without a manifest.
    there = store.prompts if (store.path / PROMPTS / MANIFEST).exists() else None
    if there is not None and there.num_episodes:
        _check_same(there, files, made_of)
    if there is None or there.unfinished or not there.num_episodes:
        report.add_oddities(_write(files, made_of, store))
    else:
        report.add_oddities(_noted_oddities(there))
    report.prompt_episodes = _places(store)


def _facts(file: Path) -> dict[str, Any]:
    """What a file of prompts is known by."""
    with storage_errors(file), open_regular(file) as opened:
        size, digest = content_digest(opened)
    return {"bytes": size, "sha256": digest}


def _check_same(
    there: EpisodeStore, files: Mapping[str, Path], made_of: Mapping[str, dict[str, Any]]
) -> None:
    """StoreError if the prompts that are there were made of other files than these."""
    if not set(files) <= set(there.tasks):
        missing = sorted(set(files) - set(there.tasks))
        raise StoreError(
            f"{there.path}: expected prompts of {', '.join(missing)}, which the source has, got those of "
            f"{', '.join(there.tasks)}: remove the folder and convert again"
        )
    noted = [entry["files"] for entry in there.provenance if "files" in entry]
    for known in noted:
        if not isinstance(known, dict):
            raise StoreError(
                f"{there.path / MANIFEST}: expected 'files' of the provenance by their tasks, got {known!r:.80}"
            )
    for task, file in files.items():
        if noted and noted[0].get(task) != made_of[task]:
            raise StoreError(
                f"{file}: expected what the prompts in {there.path} were made of, {noted[0].get(task)!r:.200}, "
                f"got {made_of[task]}: remove the folder and convert again"
            )


def _noted_oddities(there: EpisodeStore) -> Content:
    """What was odd about the files that prompts were made of, as the last shard's note keeps it."""
    note, found = there.shard_notes[-1], []
    for kind in ("split", "shortened", "rounded"):
        listed = note.get(kind, [])
        if not isinstance(listed, list) or not all(isinstance(what, str) for what in listed):
            raise StoreError(
                f"{there.shard_folders[-1] / MANIFEST}: expected {kind!r} of the note to be a list of texts, "
                f"got {listed!r:.80}"
            )
        found.append(listed)
    return Content([], *found)


def _write(files: Mapping[str, Path], made_of: Mapping[str, Any], store: EpisodeStore) -> Content:
    """Returns what was odd; the last shard's note keeps it for later calls."""
    sizes, path = (store.observation_dim, store.action_dim), store.path / PROMPTS
    noted = ConversionReport(str(path))
    # What holds no episode is finished all the same, but files that are better now may be added.
    append = (path / MANIFEST).exists() and not EpisodeStore.open(path).num_episodes
    with StoreWriter(
        path,
        *sizes,
        list(files),
        {"converter": "goskill", "files": dict(made_of)},
        append=append,
        shard_steps=1 << 40,
        unfinished=True,
    ) as writer:
        try:
            for task, file in files.items():
                for content in read_prompts(file, *sizes):
                    noted.add_oddities(content)
                    for episode in content.episodes:
                        append_episode(writer, task, episode)
        except BaseException:
            writer.discard()  # or the next call would ask for the same files, mended or not
            raise
        writer.flush({"split": noted.split, "shortened": noted.shortened, "rounded": noted.rounded})
        writer.finish()
    return Content([], noted.split, noted.shortened, noted.rounded)


def _places(store: EpisodeStore) -> dict[str, list[int]]:
    """Which of a store's episodes its prompts are, by task, as far as they are among them."""
    prompts = store.prompts
    if prompts is None:
        return {}
    known: dict[tuple[str, int], int] = {}
    for index, digest in enumerate(digests(store)):
        known.setdefault((store.tasks[store.episode_task[index]], digest), index)
    result: dict[str, list[int]] = {task: [] for task in prompts.tasks}
    for index, digest in enumerate(digests(prompts)):
        task = prompts.tasks[prompts.episode_task[index]]
        if (task, digest) in known:
            result[task].append(known[task, digest])
    return result


def read_prompts(file: Path, observation_dim: int, action_dim: int) -> Iterator[Content]:
    """The episodes of a file, one at a time. StoreError names the file and the episode, also beyond 250,000 steps."""
    widths = {"observations": observation_dim, "next_observations": observation_dim, "actions": action_dim}
    widths |= {"rewards": 1, **dict.fromkeys(FLAGS, 1)}
    left = _MOST_STEPS
    for number, arrays in enumerate(load_prompts(file)):
        where = f"{file}: episode {number}"
        for name, width in widths.items():
            if name in arrays and _count(f"{where}: column {name!r}", arrays[name], {}) > left * width:
                raise StoreError(
                    f"{where}: expected at most {_MOST_STEPS:,} steps in a file of prompts, got more up to here"
                )
        columns = columns_of(where, arrays)
        left -= len(columns["rewards"])
        yield content_of(where, columns, np.zeros(len(columns["rewards"]), bool))


def _count(where: str, value: Any, known: dict[int, int]) -> int:
    """How many numbers the array of a column would hold, found without making it: lists may repeat one another."""
    if isinstance(value, np.ndarray):
        return value.size
    if not isinstance(value, list):
        return 1
    if id(value) not in known:
        for item in value:
            # An array of text has room for the longest in every place.
            if not isinstance(item, (list, int, float, np.number, np.bool_)) and not _is_numeric(item):
                raise StoreError(f"{where}: expected numbers, got {type(item).__name__} in a list")
        known[id(value)] = sum(max(1, _count(where, item, known)) for item in value)
    return known[id(value)]


def _is_numeric(item: object) -> bool:
    return isinstance(item, np.ndarray) and item.dtype.kind in "fiub"
