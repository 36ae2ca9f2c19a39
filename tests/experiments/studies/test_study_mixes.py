"""A study's data may be a mix by quality of a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from goskill.data import EpisodeStore, StoreWriter
from goskill.evaluation.study import parse_study
from goskill.experiments import studies
from goskill.experiments.studies.runner import StudyFolder

STUDY = """
reference = "td3_bc"
[data.mixed]
store = "STORE"
mix = [1, 0, 1]
limits = { MR = 4 }
steps = 3
[[contenders]]
method = "td3_bc"
"""


def test_a_mix_is_made_once_and_keeps_that_it_is_scripted(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", 1, 1, ["a", "b"], provenance={"source": "scripted"}) as writer:
        for number in range(24):
            values = np.full((5, 1), float(number // 2))
            writer.append(
                task="ab"[number % 2], observations=values, actions=np.zeros((4, 1)), rewards=values[1:, 0]
            )
    study = parse_study(STUDY.replace("STORE", str(tmp_path / "s")), "s")
    found = studies._data(study, StudyFolder(tmp_path / "study"))["mixed"]
    again = studies._data(study, StudyFolder(tmp_path / "study"))["mixed"]
    assert found == again
    assert found.scripted
    store = EpisodeStore.open(found.path)
    assert store.num_episodes == 4 + 10
    assert set(store.episode_length) == {3}
