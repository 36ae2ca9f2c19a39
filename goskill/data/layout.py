"""What the manifests of an episode store say, checked."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from goskill.data.columns import Columns, read_columns
from goskill.data.normalization import Statistics
from goskill.data.store_files import MANIFEST, column_entries, count_field, field, read_manifest
from goskill.errors import StoreError

FORMAT = "goskill-episodes"
SHARD_FORMAT = "goskill-episodes-shard"
VERSION = 1
DECLARING_VERSION = 2  # of stores that declare columns; programs that know none must not take them for others

_SHARD = re.compile(r"shard-([0-9]{6,})")
_TASK_NAME_LIMIT = 200


def is_task_name(name: object) -> bool:
    """Whether a task may be called so: 1 to 200 printable characters, since terminals and figures show it.

    A name is no path: it may hold slashes and dots, and who makes files of it has to encode them.
    """
    return isinstance(name, str) and 1 <= len(name) <= _TASK_NAME_LIMIT and name.isprintable()


def shard_name(index: int) -> str:
    """The folder of a shard."""
    return f"shard-{index:06d}"


def check_format(
    path: Path, content: dict[str, Any], expected: str, versions: tuple[int, ...] = (VERSION,)
) -> None:
    """Refuse manifests of something else or of another version."""
    if content.get("format") != expected:
        raise StoreError(f"{path}: expected format {expected!r}, got {content.get('format')!r:.80}")
    version = content.get("version")
    if type(version) is not int or version not in versions:
        known = " or ".join(map(str, versions))
        raise StoreError(f"{path}: expected format version {known}, got {version!r:.80}")


def _statistics(path: Path, content: dict[str, Any], dim: int) -> Statistics:
    raw = field(path, content, "statistics", dict)
    arrays = {}
    for name in ("mean", "squares", "minimum", "maximum"):
        values = field(path, raw, name, list)
        valid = len(values) == dim and all(isinstance(v, float) and math.isfinite(v) for v in values)
        if not valid:
            raise StoreError(f"{path}: expected statistics {name!r} of {dim} finite numbers")
        arrays[name] = np.array(values, dtype=np.float64)
    return Statistics(count_field(path, raw, "count", 1), **arrays)


@dataclass(frozen=True)
class ShardLayout:
    """One shard: its folder, counts, statistics, the manifest's entry of each column, and the writer's note."""

    folder: Path
    steps: int
    episodes: int
    statistics: Statistics
    columns: dict[str, dict[str, Any]]
    note: dict[str, Any]
    checksum: str
    actions_outside: int | None

    @classmethod
    def read(cls, folder: Path, observation_dim: int) -> ShardLayout:
        """Read and check the manifest of a shard. StoreError names what is wrong."""
        path = folder / MANIFEST
        content = read_manifest(path)
        check_format(path, content, SHARD_FORMAT)
        steps = count_field(path, content, "steps", 1)
        statistics = _statistics(path, content, observation_dim)
        if statistics.count != steps:
            raise StoreError(f"{path}: the statistics count {statistics.count} of {steps} steps")
        columns = column_entries(path, content)
        episodes = count_field(path, content, "episodes", 1)
        note = field(path, content, "note", dict) if "note" in content else {}
        outside = count_field(path, content, "actions_outside", 0) if "actions_outside" in content else None
        return cls(folder, steps, episodes, statistics, columns, note, str(content["checksum"]), outside)


@dataclass(frozen=True)
class StoreLayout:
    """A whole store as its manifests describe it."""

    path: Path
    observation_dim: int
    action_dim: int
    tasks: list[str]
    columns: Columns
    episode_columns: Columns
    provenance: list[dict[str, Any]]
    shards: list[ShardLayout]
    unfinished: bool

    @classmethod
    def read(cls, path: Path) -> StoreLayout:
        """Read and check all manifests of a store. StoreError names what is wrong."""
        if not path.is_dir():
            found = "it is a file" if path.exists() else "no such folder"
            raise StoreError(f"{path}: there is no episode store ({found})")
        manifest = path / MANIFEST
        if not manifest.exists():
            raise StoreError(f"{path}: there is no episode store (no {MANIFEST})")
        content = read_manifest(manifest)
        check_format(manifest, content, FORMAT, (VERSION, DECLARING_VERSION))
        declares = content["version"] == DECLARING_VERSION
        columns = read_columns(manifest, content, "columns", texts=False) if declares else {}
        of_episodes = read_columns(manifest, content, "episode_columns", texts=True) if declares else {}
        twice = next((name for name in of_episodes if name in columns), None)
        if twice is not None:
            raise StoreError(f"{manifest}: expected distinct columns, got {twice!r} of steps and of episodes")
        observation_dim = count_field(manifest, content, "observation_dim", 1)
        tasks = field(manifest, content, "tasks", list)
        for task in tasks:
            if not is_task_name(task):
                raise StoreError(
                    f"{manifest}: expected 'tasks' to be printable names of 1 to 200 characters, got {task!r:.80}"
                )
        if len(set(tasks)) != len(tasks):
            raise StoreError(f"{manifest}: expected 'tasks' to be distinct names, got one more than once")
        provenance = field(manifest, content, "provenance", list)
        for origin in provenance:
            if not isinstance(origin, dict):
                raise StoreError(f"{manifest}: expected 'provenance' to be JSON objects, got {origin!r:.80}")
        known = count_field(manifest, content, "shards", 0)
        return cls(
            path,
            observation_dim,
            count_field(manifest, content, "action_dim", 1),
            tasks,
            columns,
            of_episodes,
            provenance,
            [ShardLayout.read(path / shard_name(i), observation_dim) for i in range(cls._count(path, known))],
            field(manifest, content, "unfinished", bool) if "unfinished" in content else False,
        )

    def action_repeat(self) -> int:
        """See :attr:`EpisodeStore.action_repeat`."""
        repeats = [origin.get("action_repeat", 1) for origin in self.provenance] or [1]
        if any(type(repeat) is not int or repeat < 1 or repeat != repeats[0] for repeat in repeats):
            raise StoreError(
                f"{self.path}: expected one 'action_repeat' in the provenance, got {repeats!r:.80}"
            )
        return int(repeats[0])

    def fingerprint(self) -> str:
        """See :attr:`EpisodeStore.fingerprint`."""
        columns = [
            str(entry["sha256"]) for shard in self.shards for _, entry in sorted(shard.columns.items())
        ]
        return hashlib.sha256("\n".join([*self.tasks, *columns]).encode()).hexdigest()[:16]

    def checksums(self) -> dict[Path, str]:
        """See :meth:`EpisodeStore.shard_checksums`."""
        return {
            shard.folder / f"{name}.npy": str(entry["sha256"])
            for shard in self.shards
            for name, entry in shard.columns.items()
        }

    def statistics(self) -> Statistics:
        """Of all shards together."""
        total = Statistics.empty(self.observation_dim)
        for shard in self.shards:
            total = total.merge(shard.statistics)
        return total

    @staticmethod
    def _count(path: Path, known: int) -> int:
        """How many shards: those the manifest knows, and one published just before its writer died."""
        names = (_SHARD.fullmatch(entry.name) for entry in path.iterdir())
        present = {
            int(name.group(1)) for name in names if name and shard_name(int(name.group(1))) == name.group()
        }
        if len(present) < known or max(present, default=-1) >= len(present):
            missing = next(i for i in range(max(len(present), known) + 1) if i not in present)
            raise StoreError(f"{path}: {shard_name(missing)} is missing")
        return len(present)
