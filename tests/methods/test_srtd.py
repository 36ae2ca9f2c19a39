"""SRTD: losses against NumPy in float64, latents in training and acting, demonstrations, resuming, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from goskill.data import EpisodeStore, StoreWriter
from goskill.errors import InputError
from goskill.experiments import pipeline
from goskill.methods import find
from goskill.methods.srtd import SRTD, SRTDSettings, SRTDSkillLoss, SRTDTaskLoss, discrepancy
from goskill.methods.srtd.latent_stores import embed, episode_quality, imagine, write_stores
from goskill.methods.srtd.networks import SRTDNetworks
from goskill.models import Normalize
from goskill.training import RunFolder, Trainer, TrainingSettings

TASKS = ("left", "right", "up")
STATE, ACTION = 5, 2
SMALL: dict[str, Any] = {
    "latent": 3,
    "history": 2,
    "skill_width": 16,
    "skill_layers": 2,
    "task_width": 16,
    "width": 16,
    "layers": 2,
    "decomposition_iterations": 4,
    "decomposition_batch": 12,
    "iterations": 6,
    "batch_size": 12,
    "rewards": "differences",
}
TRAINING = TrainingSettings(device="cpu", precision="float32", log_every=1, checkpoint_every=3, threads=1)


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    random = np.random.default_rng(0)
    with StoreWriter(tmp_path / "s", STATE, ACTION, list(TASKS), columns={"terminated": bool}) as writer:
        for task in TASKS:
            for length in (9, 1, 6, 12):
                writer.append(
                    task=task,
                    observations=random.normal(size=(length + 1, STATE)) * 2 + 1,
                    actions=random.uniform(-1, 1, (length, ACTION)),
                    rewards=random.uniform(-1, 10, length),
                    columns={"terminated": length == 6},
                )
    return EpisodeStore.open(tmp_path / "s")


def make(store: EpisodeStore, name: str = "srtd", **changes: Any) -> SRTD:
    return SRTD(find(name).settings({**SMALL, **changes}), store, TRAINING)


def run_through(network: nn.Sequential, x: np.ndarray) -> np.ndarray:
    for layer in network:
        if isinstance(layer, nn.Linear):
            x = x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        else:
            x = np.maximum(x, 0)
    return x


def rewards_of(store: EpisodeStore, episode: int) -> np.ndarray:
    raw = store.episode(episode).rewards.astype(float)
    return 0.1 * np.array([r - (raw[t - 1] if t else 0) for t, r in enumerate(raw)])


def normalized(made: SRTD, rows: np.ndarray) -> np.ndarray:
    normalize = made.networks.normalize
    return (rows.astype(float) - normalize.mean.double().numpy()) / normalize.std.double().numpy()


def task_latent(made: SRTD, episode: int, t: int) -> np.ndarray:
    """Of the two steps before t, from the episode itself."""
    data, rewards = made.store.episode(episode), rewards_of(made.store, episode)
    rows = [
        np.concatenate([data.actions[i], normalized(made, data.observations[i + 1]), rewards[i : i + 1]])
        if i >= 0
        else np.zeros(ACTION + STATE + 1)
        for i in range(t - 2, t)
    ]
    return run_through(made.networks.task_encoder, np.concatenate(rows))


def skill_latent(made: SRTD, episode: int, t: int) -> np.ndarray:
    data = made.store.episode(episode)
    rows = [
        np.concatenate([normalized(made, data.observations[i]), data.actions[i]])
        if 0 <= i < len(data.rewards)
        else np.zeros(STATE + ACTION)
        for i in range(t - 2, t + 2)
    ]
    return run_through(made.networks.skill_encoder, np.concatenate(rows))


def oracle_discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    count, constant = len(x), 2 * x.shape[1] * 2

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return constant / (constant + ((a - b) ** 2).sum())

    pairs = [(i, j) for i in range(count) for j in range(count)]
    own = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs if i != j) / (count * (count - 1))
    return own - 2 * sum(k(x[i], y[j]) for i, j in pairs) / count**2


def test_the_discrepancy_is_the_sum_over_pairs() -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(9, 4)) + 1, random.normal(size=(9, 4))
    found = discrepancy(torch.from_numpy(x), torch.from_numpy(y))
    assert found.item() == pytest.approx(oracle_discrepancy(x, y), rel=1e-12)


@pytest.mark.parametrize("quality", [True, False])
def test_losses_are_those_written_out(store: EpisodeStore, quality: bool) -> None:
    made = make(store, quality_weight=quality)
    batch = next(made._windows())
    skill_error, next_error, reward_error, distances = [], [], [], []
    skills, tasks = [], []
    for episode, t in zip(batch["episode"].tolist(), batch["start"].tolist(), strict=True):
        data, rewards = store.episode(episode), rewards_of(store, episode)
        b, z = skill_latent(made, episode, t), task_latent(made, episode, t)
        skills.append(b)
        tasks.append(z)
        states = normalized(made, data.observations)
        steps = [i for i in range(t - 2, t + 2) if 0 <= i < len(rewards)]
        skill_error.append(
            sum(
                (
                    (
                        run_through(made.networks.skill_decoder, np.concatenate([states[i], b]))
                        - data.actions[i]
                    )
                    ** 2
                ).sum()
                for i in steps
            )
        )
        changes = {
            i: run_through(made.networks.task_decoder, np.concatenate([states[i], data.actions[i], z]))
            for i in steps
            if i <= t
        }
        next_error.append(sum(((states[i] + c[:-1] - states[i + 1]) ** 2).sum() for i, c in changes.items()))
        reward_error.append(sum((c[-1] - rewards[i]) ** 2 for i, c in changes.items()))
        weight = max(sum(0.99**i * r for i, r in enumerate(rewards)), 0) if quality else 1.0
        distances.append(weight * ((b - z) ** 2).sum())
    torch.manual_seed(5)
    prior = torch.randn(12, 3).double().numpy()
    expected = np.mean(skill_error) + 100 * oracle_discrepancy(np.array(skills), prior)
    torch.manual_seed(5)
    loss, metrics = SRTDSkillLoss(made.networks)(batch)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert float(metrics["action_error"]) == pytest.approx(np.mean(skill_error), rel=1e-4)
    expected = np.mean(next_error) + np.mean(reward_error) + 1e-2 * np.mean(distances)
    expected += 100 * oracle_discrepancy(np.array(tasks), prior)
    torch.manual_seed(5)
    loss, metrics = SRTDTaskLoss(made.networks, episode_quality(store, made.settings))(batch)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert float(metrics["reward_error"]) == pytest.approx(np.mean(reward_error), rel=1e-4)
    loss.backward()
    assert all(value.grad is None for value in made.networks.skill_encoder.parameters())


def test_acting_and_training_see_the_same_latents(store: EpisodeStore) -> None:
    made = make(store)
    policy = made.policy()
    for index in (0, 1, 3):
        episode = store.episode(index)
        embedded = embed(made.networks, episode)
        expected = [task_latent(made, index, t) for t in range(len(episode.rewards) + 1)]
        np.testing.assert_allclose(embedded.states[:, STATE:], expected, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(embedded.states[:, :STATE], episode.observations)
        policy.reset(["left"])
        for t, reward in enumerate(episode.rewards):
            found = policy.act(episode.observations[t][None])
            states = torch.from_numpy(embedded.states[t][None])
            np.testing.assert_allclose(
                found, made.networks.learner(states, None).detach().numpy(), rtol=1e-3, atol=1e-5
            )
            policy._action = torch.from_numpy(episode.actions[t][None].copy())  # as the episode went on
            policy.observe(np.array([reward]))


def test_rewards_are_learned_from_as_they_are_by_default(store: EpisodeStore) -> None:
    assert find("srtd").settings({}).rewards == "plain"
    plain = embed(make(store, rewards="plain").networks, store.episode(3)).rewards
    np.testing.assert_allclose(plain, 0.1 * store.episode(3).rewards, rtol=1e-6)


def test_demonstrations_are_rolled_out_one_after_the_other(store: EpisodeStore, tmp_path: Path) -> None:
    made = make(store, "srtd_id", augmented_size=1.0)
    networks = made.networks
    with torch.no_grad():
        networks.skill_decoder[-1].weight.mul_(10)  # so that there is something to clip
    write_stores(networks, store, tmp_path / "made", seed=3)
    found = EpisodeStore.open(tmp_path / "made" / "augmented")
    assert found.num_steps == pytest.approx(store.num_steps, abs=4)
    assert set(found.episode_length) == {4}
    assert np.bincount(found.episode_task).min() > 0
    clipped = 0
    for index in range(found.num_episodes):
        episode = found.episode(index)
        history: list[np.ndarray] = []
        for t in range(4):
            z = episode.observations[t, STATE:].astype(float)
            state = normalized(made, episode.observations[t, :STATE])
            action = run_through(networks.skill_decoder, np.concatenate([state, z]))
            clipped += int((np.abs(action) > 1).sum())
            np.testing.assert_allclose(episode.actions[t], action.clip(-1, 1), rtol=1e-3, atol=1e-4)
            change = run_through(
                networks.task_decoder, np.concatenate([state, episode.actions[t].astype(float), z])
            )
            assert float(episode.rewards[t]) == pytest.approx(change[-1], rel=1e-3, abs=1e-4)
            following = normalized(made, episode.observations[t + 1, :STATE])
            np.testing.assert_allclose(following, state + change[:-1], rtol=1e-3, atol=1e-3)
            history.append(np.concatenate([episode.actions[t], following, episode.rewards[t : t + 1]]))
            if len(history) >= 2:
                z = run_through(networks.task_encoder, np.concatenate(history[-2:]))
                np.testing.assert_allclose(episode.observations[t + 1, STATE:], z, rtol=1e-2, atol=1e-3)
        assert not episode.columns["terminated"].any()
    assert clipped > 0
    before = found.fingerprint
    write_stores(networks, store, tmp_path / "made", seed=3)
    assert EpisodeStore.open(tmp_path / "made" / "augmented").fingerprint == before
    noise = imagine(networks, torch.zeros(1, STATE), torch.zeros(1, 2, 8), torch.Generator().manual_seed(0))
    other = imagine(networks, torch.zeros(1, STATE), torch.zeros(1, 2, 8), torch.Generator().manual_seed(1))
    assert not np.array_equal(noise[0], other[0])


@pytest.mark.parametrize(
    ("name", "changes"),
    [("srtd", {}), ("srtd_id", {}), ("srtd", {"augmentation": "noise", "skill_regularization": 0.0})],
)
def test_a_run_trains_resumes_and_acts(
    name: str, changes: dict[str, Any], store: EpisodeStore, tmp_path: Path
) -> None:
    def train(path: str, cut: int | None = None, resume: bool = False) -> SRTD:
        run = RunFolder.create(tmp_path / path, {}, resume=resume)
        method = SRTD(find(name).settings({**SMALL, **changes}), store, TRAINING, run.made)
        if cut is not None:
            phases = method.phases()

            def stop(iteration: int) -> dict[str, float]:
                if iteration == cut:
                    raise RuntimeError("cut")
                return {}

            phases[2].interact = stop
            method.phases = lambda: phases  # type: ignore[method-assign]
            with pytest.raises(RuntimeError, match="cut"):
                Trainer(method, run, TRAINING, progress=False).train()
            return method
        Trainer(method, run, TRAINING, progress=False).train(resume=resume)
        return method

    whole = train("whole")
    train("cut", cut=4)
    resumed = train("cut", resume=True)
    for part, module in whole.modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, resumed.modules[part].state_dict()[key]), (part, key)
    restored = SRTD.restore(
        whole.settings, {part: module.state_dict() for part, module in whole.modules.items()}
    )
    observations = np.random.default_rng(1).normal(size=(3, 4, STATE)).astype(np.float32)
    actions = []
    for made in (whole, restored):
        policy = made.policy()
        policy.reset(["up"] * 4)
        for rows in observations:
            actions.append(policy.act(rows))
            policy.observe(np.arange(4.0))
    np.testing.assert_array_equal(actions[2], actions[5])


def test_a_run_of_the_command_keeps_its_stores(store: EpisodeStore, tmp_path: Path) -> None:
    overrides = [f"method.{name}={value}" for name, value in SMALL.items()]
    run = pipeline.train(
        store.path,
        tmp_path / "run",
        method="srtd",
        ablations=["gaussian-noise"],
        overrides=[*overrides, "training.device=cpu", "training.threads=1"],
    )
    assert EpisodeStore.open(run.made / "augmented").num_episodes > 0
    made = EpisodeStore.open(run.made / "embedded")
    assert made.observation_dim == STATE + 3
    np.testing.assert_array_equal(
        made.episode(2).columns["terminated"], store.episode(2).columns["terminated"]
    )


def test_what_does_not_fit_is_named(store: EpisodeStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"history: expected at most 12, .* got 13"):
        make(store, history=13)
    with pytest.raises(InputError, match="augmented_size: expected a number above 0 and at most 4"):
        SRTDSettings(augmented_size=5)
    with pytest.raises(InputError, match="alpha"):
        SRTDSettings(alpha=0)
    with StoreWriter(tmp_path / "bare", STATE, ACTION, ["left"]) as writer:
        writer.append(
            task="left", observations=np.zeros((5, STATE)), actions=np.zeros((4, ACTION)), rewards=[0] * 4
        )
    with pytest.raises(InputError, match=r"terminated: .* declares no column"):
        make(EpisodeStore.open(tmp_path / "bare"))
    policy = make(store).policy()
    policy.reset(["left"])
    policy.act(np.zeros((1, STATE), np.float32))
    with pytest.raises(InputError, match="observe"):
        policy.act(np.zeros((1, STATE), np.float32))


def test_networks_act_on_the_device_that_a_run_moves_them_to() -> None:
    """Meta tensors stand for those of a GPU: mixed with others they raise."""
    settings = SRTDSettings(latent=2, history=3, skill_width=8, task_width=8, width=8)
    networks = SRTDNetworks(settings, Normalize(torch.zeros(5), torch.ones(5)), 2)
    for module in networks.parts.values():
        module.to("meta")
    steps = torch.zeros(4, 3, networks.step_size, device="meta")
    assert networks.act(torch.zeros(4, 5, device="meta"), steps).is_meta
