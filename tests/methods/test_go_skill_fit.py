"""Networks, checkpoints and stores that do not fit together are refused by name, before anything is done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_store import ACTION, OBSERVATION, small_settings, small_store
from torch import Tensor, nn

from goskill.data import EpisodeStore, StoreWriter
from goskill.errors import CheckpointError, InputError
from goskill.methods.go_skill import GoSkill, GoSkillNetworks, label_store, networks_from_state
from goskill.models import Normalize
from goskill.training import TrainingSettings


def networks(goal_features: nn.Module | None = None) -> GoSkillNetworks:
    normalize = Normalize(torch.zeros(OBSERVATION), torch.ones(OBSERVATION))
    torch.manual_seed(0)
    built = GoSkillNetworks(small_settings(), normalize, ACTION, goal_features).eval()
    assert built.codebook is not None
    built.quantize(torch.randn(20, 8), frozen=True)
    return built


def state(of: GoSkillNetworks) -> dict[str, dict[str, Tensor]]:
    return {name: part.state_dict() for name, part in of.parts.items()}


def test_a_network_that_the_settings_do_not_have_is_refused() -> None:
    trained = state(networks())
    with pytest.raises(CheckpointError, match="network 'critic' is not one of the method"):
        networks_from_state(small_settings(), {**trained, "critic": {"weight": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match="network 'codebook' is not one of the method"):
        networks_from_state(small_settings(codebook="none", resampling=False), trained)


def test_a_goal_hook_that_is_not_passed_is_asked_for() -> None:
    # As many goals as observations: nothing but the network's name tells.
    trained = state(networks(nn.Linear(OBSERVATION, OBSERVATION)))
    with pytest.raises(CheckpointError, match=r"trained with a goal hook, .* passed as goal_features="):
        networks_from_state(small_settings(), trained)
    hook = nn.Linear(OBSERVATION, OBSERVATION)
    again = networks_from_state(small_settings(), trained, hook)
    assert again.goal_features is hook
    assert torch.equal(hook.weight, trained["goal_features"]["weight"])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((OBSERVATION + 1, ACTION), ": expected observation_dim 6 as the networks have, got 7"),
        ((OBSERVATION, ACTION + 1), ": expected action_dim 2 as the networks have, got 3"),
    ],
)
def test_a_store_of_other_sizes_is_not_labelled(sizes: tuple[int, int], message: str, tmp_path: Path) -> None:
    with StoreWriter(tmp_path, *sizes, tasks=["left"]) as writer:
        observations, actions = np.zeros((6, sizes[0])), np.zeros((5, sizes[1]))
        writer.append(task="left", observations=observations, actions=actions, rewards=np.zeros(5))
    with pytest.raises(InputError, match=message):
        label_store(networks(), EpisodeStore.open(tmp_path))
    assert not (tmp_path / "labels").exists()


def test_the_largest_seed_has_streams_for_all_samplers(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store")
    method = GoSkill(small_settings(), store, TrainingSettings(seed=2**60 - 1))
    for phase in method.phases():
        for objective in phase.begin():
            next(iter(objective.sampler))


def test_progress_of_labelling_ends_at_the_number_of_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goskill.methods.go_skill.labelling.CPU_CHUNK", 40)
    store = small_store(tmp_path / "store")
    seen: list[tuple[int, int]] = []
    label_store(networks(), store, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (store.num_steps, store.num_steps)
    assert len(seen) > 2
    assert seen == sorted(seen)
