"""Skill usage in a dataset, as a small file that figures can be drawn from without the dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from goskill.errors import InputError
from goskill.evaluation.result_files import read_json
from goskill.evaluation.results import Results, check_counts
from goskill.files import write_atomically
from goskill.settings import from_mapping

FILE_NAME = "data_skills.json"
_FORMAT = "goskill-data-skills"
_VERSION = 1
_EPISODES_AT_ONCE = 1_000


@dataclass(frozen=True)
class DataSkills:
    """How many steps of each task's data carry each skill's label."""

    labels: str  # name of the label column
    count: int  # size of the codebook
    usage: Mapping[str, Sequence[int]]  # steps per skill, ``count`` entries a task

    def __post_init__(self) -> None:
        check_counts("usage", self.usage, self.count)

    @classmethod
    def of_store(cls, store: Any, labels: str, count: int | None = None) -> DataSkills:
        """Count the label column ``labels`` of an episode store, whose classes are ``count`` if not given.

        Raises StoreError if there is none, InputError if a label is not one of the column's classes.
        """
        column = store.labels(labels)
        count = int(store.num_classes(labels)) if count is None else count
        ends = np.cumsum(np.asarray(store.episode_length, dtype=np.int64))
        usage = np.zeros((len(store.tasks), count), dtype=np.int64)
        for first in range(0, len(ends), _EPISODES_AT_ONCE):
            last = min(first + _EPISODES_AT_ONCE, len(ends))
            begin = int(ends[first - 1]) if first else 0
            skills = np.asarray(column[begin : int(ends[last - 1])], dtype=np.int64)
            if skills.size and not 0 <= skills.min() <= skills.max() < count:
                raise InputError(f"labels {labels!r}: expected skills in [0, {count}), got {skills.max()}")
            tasks = np.repeat(store.episode_task[first:last], store.episode_length[first:last])
            flat = np.bincount(tasks * count + skills, minlength=usage.size)
            usage += flat.reshape(usage.shape)
        return cls(labels, count, {task: usage[row].tolist() for row, task in enumerate(store.tasks)})

    def save(self, path: str | Path) -> Path:
        """Write JSON, whole or not at all."""
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "labels": self.labels,
            "count": self.count,
            "usage": {task: list(counts) for task, counts in self.usage.items()},
        }
        return write_atomically(path, json.dumps(document, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> DataSkills:
        """Read what :meth:`save` wrote. Raises InputError for anything else."""
        document = read_json(Path(path), _FORMAT, _VERSION)
        content = {name: value for name, value in document.items() if name not in ("format", "version")}
        return from_mapping(cls, content, str(path))


def skills_of(run: Path) -> dict[str, Mapping[str, Sequence[int]]]:
    """How often each skill is chosen in each task, ``in_data`` and ``in_evaluation``, as far as a run tells.

    Raises InputError for damaged files.
    """
    found: dict[str, Mapping[str, Sequence[int]]] = {}
    if (run / FILE_NAME).exists():
        found["in_data"] = DataSkills.load(run / FILE_NAME).usage
    if (run / "results.json").exists():
        skills = Results.load(run / "results.json").skills
        if skills is not None:
            found["in_evaluation"] = skills.usage
    return found
