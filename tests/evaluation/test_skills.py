"""Skill usage of a dataset."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from goskill.errors import InputError
from goskill.evaluation import DataSkills


class Store:
    """2,500 short episodes of three tasks with random labels."""

    tasks = ("reach", "push", "door-open")

    def __init__(self) -> None:
        self.classes = 5
        random = np.random.default_rng(0)
        self.episode_length = random.integers(1, 6, 2_500)
        self.episode_task = random.integers(0, 2, 2_500)
        self.column = random.integers(0, 5, self.episode_length.sum()).astype(np.int32)

    def num_classes(self, name: str) -> int:
        return self.classes

    def labels(self, name: str) -> np.ndarray:
        assert name == "mine"
        return self.column


def test_usage_counts_every_step_of_every_task(tmp_path) -> None:
    store = Store()
    counts: Counter[tuple[str, int]] = Counter()
    step = 0
    for task, length in zip(store.episode_task, store.episode_length, strict=True):
        for skill in store.column[step : step + length]:
            counts[store.tasks[task], int(skill)] += 1
        step += length
    found = DataSkills.of_store(store, "mine")
    assert found.usage == {task: [counts[task, skill] for skill in range(5)] for task in store.tasks}
    assert DataSkills.load(found.save(tmp_path / "data_skills.json")) == found


def test_a_label_outside_the_codebook_is_refused() -> None:
    store = Store()
    store.classes = 4
    with pytest.raises(InputError, match=r"\[0, 4\), got 4"):
        DataSkills.of_store(store, "mine")
