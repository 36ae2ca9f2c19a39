"""Prompt-DT and MTDT on a tiny store: batches, loss, learning, new tasks, and what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_store import ACTION, OBSERVATION, TASKS, episode, small_prompt_dt, small_store

from goskill.data import EpisodeStore, StoreWriter
from goskill.errors import CheckpointError, InputError
from goskill.methods.prompt_dt import PromptDT, PromptDTNetworks, networks_from_state
from goskill.methods.prompt_dt.method import PromptedActionLoss
from goskill.models import Normalize
from goskill.training import Objective, TrainingSettings

CASES: dict[str, dict[str, Any]] = {
    "prompt-dt": {},
    "mh-prompt-dt": {"multi_head": True},
    "mtdt": {"prompt_length": 0},
    "mtdt-identity": {"prompt_length": 0, "task_embedding": 4},
    "mh-mtdt": {"prompt_length": 0, "multi_head": True},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def new_tasks(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """Two tasks, of which the second is one of the other store's."""
    path = tmp_path_factory.mktemp("data") / "new"
    with StoreWriter(path, observation_dim=OBSERVATION, action_dim=ACTION, tasks=["up", "left"]) as writer:
        for task in ("up", "left"):
            one = episode(7, 20, 0.1)
            writer.append(task=task, observations=one.observations, actions=one.actions, rewards=one.rewards)
    return EpisodeStore.open(path)


def objective(method: PromptDT) -> Objective:
    (phase,) = method.phases()
    (only,) = phase.begin()
    return only


@pytest.mark.parametrize("name", CASES)
def test_every_form_learns(name: str, store: EpisodeStore) -> None:
    method = PromptDT(small_prompt_dt(dropout=0.0, **CASES[name]), store, TrainingSettings())
    only = objective(method)
    optimizer = torch.optim.AdamW([p for part in only.modules for p in part.parameters()], 3e-3)
    losses = []
    for _, batch in zip(range(60), only.sampler, strict=False):
        optimizer.zero_grad()
        loss, metrics = only.loss(batch)
        assert torch.equal(metrics["action_error"], loss.detach())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(parameter.grad is not None for part in only.modules for parameter in part.parameters())
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_batches_are_the_papers(store: EpisodeStore) -> None:
    """Starts uniform in [-(K - 1), T - K], the last steps of one of the best demonstrations; plain NumPy."""
    K, P = 5, 3
    method = PromptDT(small_prompt_dt(context=K, prompt_length=P), store, TrainingSettings(seed=3))
    (phase,) = method.phases()
    assert (phase.name, phase.iterations) == ("policy", 6)
    starts: dict[int, list[int]] = {index: [] for index in range(store.num_episodes)}
    for _, batch in zip(range(200), objective(method).sampler, strict=False):
        rows = {name: value.numpy() for name, value in batch.items()}
        assert rows["task"].tolist() == [0, 1] * 4
        for row in range(8):
            index, start = int(rows["episode"][row]), int(rows["start"][row])
            starts[index].append(start)
            shown = int(rows["prompt_episode"][row])
            own = np.flatnonzero(store.episode_task == rows["task"][row])
            best = own[np.argsort(-store.episode_return[own], kind="stable")[:2]]
            assert shown in best
            check_window(store, rows, "", row, index, start, K)
            check_window(store, rows, "prompt_", row, shown, int(store.episode_length[shown]) - P, P)
    for index, found in starts.items():
        possible = range(1 - K, int(store.episode_length[index]) - K + 1)
        assert set(found) <= set(possible)
    longest = int(np.argmax(store.episode_length))
    counts = np.bincount(np.array(starts[longest]) + K - 1, minlength=int(store.episode_length[longest]))
    assert len(counts) == store.episode_length[longest]
    expected = counts.mean()
    assert ((counts - expected) ** 2 / expected).sum() < 65, "chi squared, 29 degrees of freedom: p < 2e-4"


def check_window(
    store: EpisodeStore,
    rows: dict[str, np.ndarray],
    prefix: str,
    row: int,
    index: int,
    start: int,
    count: int,
) -> None:
    data = store.episode(index)
    for place in range(count):
        t = start + place
        assert rows[f"{prefix}mask"][row, place] == (t >= 0)
        assert rows[f"{prefix}timesteps"][row, place] == max(t, 0)
        seen = data.observations[t] if t >= 0 else np.zeros(OBSERVATION)
        taken = data.actions[t] if t >= 0 else np.zeros(ACTION)
        to_go = data.rewards[t:].astype(np.float64).sum() / 10.0 if t >= 0 else 0.0
        np.testing.assert_array_equal(rows[f"{prefix}observations"][row, place], seen)
        np.testing.assert_array_equal(rows[f"{prefix}actions"][row, place], taken)
        np.testing.assert_allclose(rows[f"{prefix}returns_to_go"][row, place, 0], to_go, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_loss_is_the_mean_over_what_is_not_padding_by_each_tasks_own_layer(
    name: str, store: EpisodeStore
) -> None:
    """One row at a time without padding, with a single layer for its task, in float64."""
    method = PromptDT(small_prompt_dt(dropout=0.0, **CASES[name]), store, TrainingSettings())
    only = objective(method)
    batch = next(iter(only.sampler))
    loss, _ = only.loss(batch)
    networks = method.networks.double()
    policy, total, count = networks.policy, 0.0, 0
    for row in range(len(batch["task"])):
        task = int(batch["task"][row])
        valid = batch["mask"][row]
        one = {key: value[row : row + 1] for key, value in batch.items()}
        parts = {}
        for prefix in ("prompt_", "") if "prompt_mask" in batch else ("",):
            keep = one[f"{prefix}mask"][0]
            for key in ("observations", "actions", "returns_to_go", "timesteps", "mask"):
                value = one[prefix + key][:, keep]
                parts[prefix + key] = value.double() if value.is_floating_point() else value
        index = torch.tensor([task])
        prompt = networks.decisions(parts, index, "prompt_") if "prompt_mask" in parts else None
        hidden = policy.hidden(networks.decisions(parts, index), prompt)
        head = slice(task * ACTION, (task + 1) * ACTION) if networks.settings.multi_head else slice(0, ACTION)
        action = (hidden @ policy.action_head.weight[head].T + policy.action_head.bias[head]).tanh()
        total += float((action[0] - batch["actions"][row, valid]).square().sum())
        count += int(valid.sum()) * ACTION
    np.testing.assert_allclose(float(loss), total / count, rtol=1e-5)


def test_several_heads_compute_only_those_of_the_rows(store: EpisodeStore) -> None:
    method = PromptDT(small_prompt_dt(multi_head=True), store, TrainingSettings())
    head = method.networks.policy.action_head
    assert head.weight.shape == (len(TASKS) * ACTION, 16)
    assert head(torch.zeros(3, 4, 16), torch.tensor([1, 0, 1])).shape == (3, 4, ACTION)


def test_tasks_of_the_store_are_told_apart_by_name(store: EpisodeStore) -> None:
    assert PromptDT(small_prompt_dt(), store, TrainingSettings()).settings.tasks == ()
    method = PromptDT(small_prompt_dt(multi_head=True, tasks=("right",)), store, TrainingSettings())
    assert method.settings.tasks == ("right", "left")
    assert method.networks.task_index(store.tasks).tolist() == [1, 0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "changes", [{"multi_head": True}, {"task_embedding": 3}, {"multi_head": True, "task_embedding": 3}]
)
def test_new_tasks_get_layers_and_vectors_and_old_ones_keep_theirs(
    changes: dict[str, Any], store: EpisodeStore, new_tasks: EpisodeStore
) -> None:
    trained = PromptDT(small_prompt_dt(**changes), store, TrainingSettings()).networks
    before = {key: value.clone() for key, value in trained.policy.state_dict().items()}
    method = PromptDT(
        small_prompt_dt(iterations=3, **changes), new_tasks, TrainingSettings(), networks=trained
    )
    assert method.settings.tasks == ("left", "right", "up")
    assert torch.equal(method.networks.normalize.mean, trained.normalize.mean)
    for key, value in method.networks.policy.state_dict().items():
        assert torch.equal(value[: len(before[key])], before[key]), key
    loss, _ = objective(method).loss(next(iter(objective(method).sampler)))
    loss.backward()
    head = method.networks.policy.action_head.weight.grad
    assert head is not None
    if "multi_head" in changes:
        used = head.view(3, ACTION, -1).abs().sum((1, 2)) > 0
        assert used.tolist() == [True, False, True], "left and up are in the store, right is not"


def test_networks_without_tasks_go_on_as_they_are(store: EpisodeStore, new_tasks: EpisodeStore) -> None:
    trained = PromptDT(small_prompt_dt(), store, TrainingSettings()).networks
    method = PromptDT(small_prompt_dt(iterations=9), new_tasks, TrainingSettings(), networks=trained)
    assert method.networks is trained
    assert method.settings.iterations == 9
    with pytest.raises(InputError, match="width: expected 16 as the trained networks have, got 32"):
        PromptDT(small_prompt_dt(width=32), new_tasks, TrainingSettings(), networks=trained)


def test_a_checkpoint_gives_the_networks_back(store: EpisodeStore) -> None:
    method = PromptDT(small_prompt_dt(multi_head=True, task_embedding=2), store, TrainingSettings())
    state = {name: part.state_dict() for name, part in method.modules.items()}
    again = networks_from_state(method.settings, state)
    for key, value in method.networks.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    with pytest.raises(CheckpointError, match="network 'critic' is not one of the method"):
        networks_from_state(method.settings, {**state, "critic": {}})
    with pytest.raises(
        CheckpointError, match=r"policy.action_head.weight: expected \(2, 16\), got \(4, 16\)"
    ):
        networks_from_state(small_prompt_dt(task_embedding=2, tasks=("left", "right")), state)
    with pytest.raises(CheckpointError, match="'policy' is missing"):
        networks_from_state(method.settings, {"normalize": state["normalize"]})


def test_seeds_decide_the_initial_weights(store: EpisodeStore) -> None:
    def head(seed: int) -> torch.Tensor:
        return PromptDT(
            small_prompt_dt(), store, TrainingSettings(seed=seed)
        ).networks.policy.action_head.weight

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"heads": 3},
        {"iterations": 0},
        {"prompt_length": -1},
        {"task_embedding": -1},
        {"dropout": 1.0},
        {"return_scale": float("nan")},
        {"table_std": 0.0},
        {"tasks": ("a", "a"), "multi_head": True},
        {"tasks": ("a",)},
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(wrong))}: expected .*, got "):
        small_prompt_dt(**wrong)


def test_what_does_not_fit_is_refused(store: EpisodeStore) -> None:
    with pytest.raises(
        InputError, match="max_decisions: expected more than 29 for episodes of 30 steps, got 12"
    ):
        PromptDT(small_prompt_dt(max_decisions=12), store, TrainingSettings())
    normalize = Normalize(torch.zeros(OBSERVATION + 1), torch.ones(OBSERVATION + 1))
    other = PromptDTNetworks(small_prompt_dt(), normalize, ACTION)
    with pytest.raises(InputError, match=": expected observation_dim 7 as the networks have, got 6"):
        PromptDT(small_prompt_dt(), store, TrainingSettings(), networks=other)
    with pytest.raises(InputError, match="tasks: expected at least one"):
        PromptDTNetworks(small_prompt_dt(multi_head=True), normalize, ACTION)


@pytest.mark.parametrize("name", CASES)
def test_steps_are_static_and_stay_on_the_device(name: str) -> None:
    """Meta tensors have no values: whatever looks at one on the host raises."""
    tasks = TASKS if "task_embedding" in CASES[name] or "multi_head" in CASES[name] else ()
    settings = small_prompt_dt(tasks=tasks, **CASES[name])
    normalize = Normalize(torch.zeros(OBSERVATION), torch.ones(OBSERVATION))
    networks = PromptDTNetworks(settings, normalize, ACTION).to("meta")
    batch = {"task": torch.empty(6, dtype=torch.int64, device="meta")}
    lengths = {"": settings.context, "prompt_": settings.prompt_length}
    for prefix, length in lengths.items():
        if length:
            batch |= {
                f"{prefix}observations": torch.empty(6, length, OBSERVATION, device="meta"),
                f"{prefix}actions": torch.empty(6, length, ACTION, device="meta"),
                f"{prefix}returns_to_go": torch.empty(6, length, 1, device="meta"),
                f"{prefix}timesteps": torch.empty(6, length, dtype=torch.int64, device="meta"),
                f"{prefix}mask": torch.empty(6, length, dtype=torch.bool, device="meta"),
            }
    place = torch.empty(2, dtype=torch.int64, device="meta") if tasks else None
    loss, metrics = PromptedActionLoss(networks, place)(batch)
    loss.backward()
    assert loss.is_meta
    assert all(metric.is_meta and metric.ndim == 0 for metric in metrics.values())
