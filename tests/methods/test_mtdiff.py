"""MTDIFF-P: schedule and loss against NumPy, cached sampling against the plain way in float64, and training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_store import ACTION, OBSERVATION, TASKS, episode, small_store
from torch import Tensor

from goskill.data import EpisodeStore
from goskill.errors import CheckpointError, InputError
from goskill.methods.method import Sources
from goskill.methods.mtdiff import Diffusion, MTDiff, MTDiffNetworks, MTDiffPolicy, MTDiffSettings, acting
from goskill.methods.mtdiff.method import PlanLoss
from goskill.models import Normalize
from goskill.rollouts.policy import Demonstration
from goskill.training import RunFolder, Trainer, TrainingSettings

SMALL: dict[str, Any] = {
    "width": 16,
    "layers": 2,
    "heads": 2,
    "plan": 4,
    "prompt_length": 3,
    "prompt_episodes": 2,
    "diffusion_steps": 6,
    "iterations": 6,
    "batch_per_task": 4,
}


def small(**changes: Any) -> MTDiffSettings:
    return MTDiffSettings(**{**SMALL, **changes})


def make_networks(**changes: Any) -> MTDiffNetworks:
    torch.manual_seed(4)
    normalize = Normalize(torch.linspace(-0.5, 0.5, OBSERVATION), torch.linspace(0.5, 2.0, OBSERVATION))
    networks = MTDiffNetworks(small(**changes), normalize, ACTION).eval()
    for parameter in networks.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return networks


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("data") / "store")


def signal_of(steps: int, low: float = 0.1, high: float = 10.0) -> np.ndarray[Any, Any]:
    t = np.arange(1, steps + 1)
    return np.cumprod(np.exp(-low / steps - 0.5 * (high - low) * (2 * t - 1) / steps**2))


def test_the_schedule_is_variance_preserving_and_noising_follows_it() -> None:
    diffusion = Diffusion(200, 0.1, 10.0)
    expected = signal_of(200)
    np.testing.assert_allclose(diffusion.signal.numpy(), expected, rtol=1e-5)
    assert expected[-1] < 0.01
    actions, noise, step = torch.rand(3, 4, 2), torch.randn(3, 4, 2), torch.tensor([0, 100, 199])
    share = expected[step.numpy()][:, None, None]
    plain = np.sqrt(share) * actions.numpy() + np.sqrt(1 - share) * noise.numpy()
    np.testing.assert_allclose(diffusion.noised(actions, noise, step).numpy(), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "expected"), [(0, [5, 4, 3, 2, 1, 0]), (3, [5, 2, 0]), (1, [5]), (6, [5, 4, 3, 2, 1, 0])]
)
def test_sampling_visits_all_steps_or_evenly_spaced_ones(steps: int, expected: list[int]) -> None:
    assert Diffusion(6, 0.1, 10.0).sampling_steps(steps) == expected


def test_true_noise_leads_back_to_the_actions() -> None:
    diffusion = Diffusion(50, 0.1, 10.0)
    actions, noise = torch.rand(2, 4, 2) * 2 - 1, torch.randn(2, 4, 2)
    visited = diffusion.sampling_steps(7)
    x = diffusion.noised(actions, noise, torch.tensor([49, 49]))
    for step, to in zip(visited, [*visited[1:], -1], strict=True):
        x = diffusion.back(x, noise, step, to, None)
    torch.testing.assert_close(x, actions, rtol=1e-3, atol=1e-3)


def demonstrations(length: int = 9) -> dict[str, list[Demonstration]]:
    return {
        "left": [episode(0, length, 0.3), episode(5, length + 2, 0.1)],
        "right": [episode(1, length, -0.3)],
        "short": [episode(2, 2, 0.0)],
    }


class PlainPolicy:
    """One environment: two passes of the whole sequence for each step of the diffusion, nothing kept, in float64."""

    def __init__(
        self, networks: MTDiffNetworks, shown: Demonstration, best: float, generator: np.random.Generator
    ) -> None:
        self.networks = networks.double()
        self.shown, self.best, self.generator = shown, best, generator
        self.seen: list[np.ndarray[Any, Any]] = []

    def normal(self, rows: list[Any], length: int) -> Tensor:
        padded = torch.zeros(length, OBSERVATION, dtype=torch.float64)
        if rows:
            padded[length - len(rows) :] = self.networks.normalize(torch.from_numpy(np.stack(rows)).double())
        return padded

    def plan(self, observation: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        settings, denoiser = self.networks.settings, self.networks.denoiser
        self.seen.append(observation)
        P = settings.prompt_length
        actions = torch.zeros(P, ACTION, dtype=torch.float64)
        last = self.shown.actions[-P:]
        actions[P - len(last) :] = torch.from_numpy(last).double()
        states = self.normal(list(self.shown.observations[:-1][-P:]), P)
        prompt = denoiser.prompt(torch.cat([states, actions], dim=1))[None]
        now = denoiser.state(self.normal(self.seen[-2:], 2))[None]
        value = torch.tensor([[self.best / len(self.shown.rewards) / settings.reward_scale]]).double()
        wanted = denoiser.wanted(value)
        visited = Diffusion(settings.diffusion_steps, 0.1, 10.0).sampling_steps(settings.sampling_steps)
        count = 1 if settings.sampling_steps else len(visited)
        noise = self.generator.standard_normal((count, settings.plan, ACTION), dtype=np.float32).astype(float)
        signal = np.append(signal_of(settings.diffusion_steps), 1.0)
        x = noise[0]
        for index, (step, to) in enumerate(zip(visited, [*visited[1:], -1], strict=True)):
            both = [
                denoiser(torch.from_numpy(x)[None], torch.tensor([step]), one, prompt, now)[0]
                .detach()
                .numpy()
                for one in (wanted, torch.zeros_like(wanted))
            ]
            epsilon = both[1] + settings.guidance * (both[0] - both[1])
            start = np.clip((x - math.sqrt(1 - signal[step]) * epsilon) / math.sqrt(signal[step]), -1, 1)
            if settings.sampling_steps or to < 0:
                epsilon = (x - math.sqrt(signal[step]) * start) / math.sqrt(1 - signal[step])
                x = math.sqrt(signal[to]) * start + math.sqrt(1 - signal[to]) * epsilon
            else:
                beta = 1 - signal[step] / signal[to]
                mean = math.sqrt(signal[to]) * beta / (1 - signal[step]) * start
                mean += math.sqrt(1 - beta) * (1 - signal[to]) / (1 - signal[step]) * x
                variance = beta * (1 - signal[to]) / (1 - signal[step])
                x = mean + math.sqrt(variance) * settings.noise_scale * noise[index + 1]
        return x


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, "all"),
        ({}, "some"),
        ({}, "none"),
        ({"sampling_steps": 3}, "all"),
        ({"actions_per_plan": 3, "guidance": 1.0}, "all"),
    ],
)
def test_kept_prompts_and_joint_passes_equal_the_plain_way(
    changes: dict[str, Any], kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kept != "all":
        monkeypatch.setattr(acting, "KEPT_BYTES", {"none": 0, "some": 20_000}[kept])
    tasks, shown = ["left", "right", "short", "left"], demonstrations()
    policy = MTDiffPolicy(make_networks(**changes), chunk=3)
    policy.reset(tasks, shown, seed=[3, 4, 5, 6])
    observations = np.random.default_rng(0).normal(size=(4, 4, OBSERVATION)).astype(np.float32)
    acted = []
    for seen in observations:
        acted.append(policy.act(seen))
        policy.observe(np.ones(4, np.float32))
    networks = make_networks(**changes)
    for row, task in enumerate(tasks):
        random = np.random.default_rng(row + 3)
        one = shown[task][int(random.integers(len(shown[task])))]
        best = max(float(each.rewards.astype(np.float64).sum()) for each in shown[task])
        plain = PlainPolicy(networks, one, best, np.random.default_rng(row + 3).spawn(1)[0])
        every = networks.settings.actions_per_plan
        for step in range(4):
            if step % every == 0:
                plan = plain.plan(observations[step, row])
            else:
                plain.seen.append(observations[step, row])
            np.testing.assert_allclose(acted[step][row], plan[step % every], rtol=0, atol=2e-4)


def test_an_environments_actions_do_not_depend_on_which_run_beside_it() -> None:
    policy, shown = MTDiffPolicy(make_networks()), demonstrations()
    seen = np.random.default_rng(0).normal(size=(3, OBSERVATION)).astype(np.float32)
    policy.reset(["left", "right", "left"], shown, seed=[7, 8, 9])
    together = policy.act(seen)
    alone = policy.fork()
    alone.reset(["left"], shown, seed=[9])
    np.testing.assert_allclose(alone.act(seen[2:])[0], together[2], rtol=0, atol=1e-5)


def test_the_loss_is_numpys_over_plans_that_begin_in_the_episode(store: EpisodeStore) -> None:
    method = MTDiff(small(dropout=0.0), store, TrainingSettings(seed=2))
    (objective,) = method.phases()[0].begin()
    loss = objective.loss
    assert isinstance(loss, PlanLoss)
    batch = next(batch for batch in objective.sampler if not batch["mask"][:, 1].all())
    random = np.random.default_rng(1)
    step, told = (
        torch.from_numpy(random.integers(0, 6, 8)),
        torch.from_numpy(random.integers(0, 2, (8, 1))).float(),
    )
    noise = torch.from_numpy(random.normal(size=(8, 4, ACTION))).float()
    value, _ = loss.error(batch, step, told, noise)
    networks, signal = method.networks, signal_of(6)
    errors = []
    for row in range(8):
        t = int(batch["timesteps"][row, 1])
        if not batch["mask"][row, 1]:
            continue
        data = store.episode(int(batch["episode"][row]))
        np.testing.assert_array_equal(batch["actions"][row, 1:], data.actions[t : t + 4])
        mean = data.rewards[t:].astype(np.float64).mean() / 10.0
        wanted = networks.denoiser.wanted(torch.tensor([[mean]]).float()) * told[row]
        prompt = networks.embed_prompt(
            *(batch[f"prompt_{name}"][row : row + 1] for name in ("observations", "actions", "mask"))
        )
        rows = networks.normalize(torch.from_numpy(np.array(data.observations[max(t - 1, 0) : t + 1])))
        rows = torch.cat([torch.zeros(2 - len(rows), OBSERVATION), rows])
        s = signal[step[row]]
        noisy = math.sqrt(s) * torch.tensor(data.actions[t : t + 4]) + math.sqrt(1 - s) * noise[row]
        out = networks.denoiser(
            noisy[None].float(), step[row : row + 1], wanted, prompt, networks.denoiser.state(rows)[None]
        )
        gap = np.abs((out[0] - noise[row]).detach().double().numpy())
        huber = np.where(gap < 1, gap**2 / 2, gap - 0.5)
        huber[0] *= 10
        errors.append(huber.mean())
    assert 0 < len(errors) < 8
    np.testing.assert_allclose(value.item(), np.mean(errors), rtol=1e-4)


def test_it_learns(store: EpisodeStore) -> None:
    method = MTDiff(small(dropout=0.0), store, TrainingSettings())
    (objective,) = method.phases()[0].begin()
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW([p for part in objective.modules for p in part.parameters()], 3e-3)
    losses = []
    for _, batch in zip(range(50), objective.sampler, strict=False):
        optimizer.zero_grad()
        loss, _ = objective.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for part in objective.modules for p in part.parameters())
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_a_run_is_resumed_to_the_same_weights(store: EpisodeStore, tmp_path: Path) -> None:
    def run(path: Path, iterations: int) -> MTDiff:
        path.mkdir(exist_ok=True)
        training = TrainingSettings(
            threads=1, log_every=1, checkpoint_every=2, precision="float32", device="cpu"
        )
        method = MTDiff(small(iterations=iterations), store, training)
        Trainer(method, RunFolder(path), training).train(resume=RunFolder(path).checkpoints.exists())
        return method

    whole = run(tmp_path / "whole", 5).networks.state_dict()
    run(tmp_path / "longer", 3)
    again = run(tmp_path / "longer", 5).networks.state_dict()
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_a_checkpoint_gives_the_networks_back(store: EpisodeStore) -> None:
    method = MTDiff(small(), store, TrainingSettings())
    state = {name: part.state_dict() for name, part in method.modules.items()}
    again = MTDiff.restore(method.settings, state)
    assert all(
        torch.equal(again.networks.state_dict()[key], value)
        for key, value in method.networks.state_dict().items()
    )
    tuned = again.fine_tune(small(iterations=9, sampling_steps=2), Sources(store), TrainingSettings())
    assert tuned.networks is again.networks
    with pytest.raises(CheckpointError, match="'denoiser' is missing"):
        MTDiff.restore(method.settings, {"normalize": state["normalize"]})


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"heads": 3},
        {"plan": 0},
        {"dropout": 1.0},
        {"sampling_steps": 7},
        {"actions_per_plan": 5},
        {"beta_max": 0.01},
        {"guidance": -1},
        {"reward_scale": 0},
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(wrong))}: expected .*, got "):
        small(**wrong)


def test_episodes_shorter_than_a_plan_are_refused(store: EpisodeStore) -> None:
    with pytest.raises(InputError, match="plan: expected at most 30, the longest episode's steps, got 31"):
        MTDiff(small(plan=31), store, TrainingSettings())
    assert set(store.tasks) == set(TASKS)


def test_the_schedule_is_where_a_run_moves_the_networks_to() -> None:
    """Meta tensors stand for those of a GPU: mixed with others they raise."""
    networks = make_networks()
    for module in networks.parts.values():
        module.to("meta")
    actions = torch.zeros(2, 4, ACTION, device="meta")
    step = torch.zeros(2, dtype=torch.int64, device="meta")
    assert networks.diffusion.noised(actions, actions, step).is_meta
