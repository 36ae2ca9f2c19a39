"""The best share of each task's episodes, and that methods learn from nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from small_store import begin, small_prompt_dt, small_settings, small_store

from goskill.data import EpisodeStore
from goskill.data.selection import best_share
from goskill.errors import InputError
from goskill.methods.bc import BCSettings, BehaviourCloning
from goskill.methods.go_skill import GoSkill
from goskill.methods.prompt_dt import PromptDT
from goskill.training import TrainingSettings


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("data") / "store", lengths=(9, 6, 12, 5, 8))


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_each_task_keeps_its_episodes_of_highest_return(share: float, store: EpisodeStore) -> None:
    chosen = best_share(store, share)
    assert chosen is not None
    for task in range(2):
        own = np.flatnonzero(store.episode_task == task)
        kept = np.intersect1d(own, chosen)
        left = np.setdiff1d(own, chosen)
        assert len(kept) == math.ceil(share * 5)
        assert not len(left) or store.episode_return[left].max() <= store.episode_return[kept].min()
    assert best_share(store, 1.0) is None


@pytest.mark.parametrize("name", ["go_skill", "prompt_dt", "bc"])
def test_methods_sample_from_the_best_episodes_alone(name: str, store: EpisodeStore) -> None:
    training, method = TrainingSettings(), None
    if name == "go_skill":
        method = GoSkill(small_settings(best_share=0.4), store, training)
        method.phases()[0].begin()
        method.label(store)
        phases = ["extraction", "policy"]
    else:
        kind: Any = PromptDT if name == "prompt_dt" else BehaviourCloning
        settings = small_prompt_dt(best_share=0.4) if name == "prompt_dt" else BCSettings(best_share=0.4)
        method, phases = kind(settings, store, training), ["policy"]
    expected = best_share(store, 0.4)
    assert expected is not None
    for phase in phases:
        for objective in begin(method, phase).values():
            seen: set[int] = set()
            for _, batch in zip(range(20), objective.sampler, strict=False):  # type: ignore[arg-type]
                seen |= set(batch["episode"].tolist())
            assert seen == set(expected), (phase, objective.name)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, math.nan])
def test_a_share_outside_of_its_range_is_named(share: float) -> None:
    for settings in (small_settings, small_prompt_dt, BCSettings):
        with pytest.raises(InputError, match=r"^best_share: expected a number above 0 and at most 1, got "):
            settings(best_share=share)  # type: ignore[operator]
