"""EXTRACT: segments against brute force, losses row by row, resuming to the bit, a whole run, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from point_store import point_store
from point_suite import PointSuite
from torch.distributions import Categorical, Normal, kl_divergence

import goskill
from goskill.data import EpisodeStore, StoreWriter, VariableSegmentSampler
from goskill.errors import InputError
from goskill.experiments import pipeline
from goskill.methods import Sources, find
from goskill.methods.extract import (
    Extract,
    ExtractActorLoss,
    ExtractAgents,
    ExtractCriticLoss,
    ExtractLoss,
    ExtractModel,
    ExtractSettings,
    clustered,
    features_of,
    label_segments,
    merged,
)
from goskill.models import Normalize
from goskill.rollouts import evaluate
from goskill.training import RunFolder, Trainer, TrainingSettings, placement

TRAINING = TrainingSettings(device="cpu", precision="float32", log_every=10, checkpoint_every=7, threads=1)
SMALL = ExtractSettings(
    features="action",
    tasks=PointSuite.tasks,
    clusters=3,
    median_steps=3,
    shortest=2,
    longest=5,
    argument_dim=2,
    skill_width=8,
    prior_width=8,
    prior_layers=1,
    skill_iterations=9,
    skill_batch_size=8,
    critic_width=8,
    critic_layers=1,
    iterations=20,
    steps_per_update=3,
    warmup_steps=15,
    batch_size=8,
    capacity=500,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return point_store(tmp_path_factory.mktemp("extract") / "store")


def agents_of(**changes: Any) -> ExtractAgents:
    torch.manual_seed(0)
    settings = replace(SMALL, **changes)
    return ExtractAgents(settings, ExtractModel(settings, Normalize(torch.zeros(2), torch.ones(2)), 1))


def test_short_segments_become_parts_of_the_next() -> None:
    assert merged(np.array([0, 0, 0, 1, 2, 2, 2]), 3).tolist() == [0, 0, 0, 2, 2, 2, 2]
    assert merged(np.array([0, 1, 2, 2, 2]), 3).tolist() == [2, 2, 2, 2, 2]
    assert merged(np.array([1, 1, 1, 0, 2]), 3).tolist() == [1, 1, 1, 1, 1]
    assert merged(np.array([1, 0]), 3).tolist() == [0, 0]
    random = np.random.default_rng(0)
    for _ in range(50):
        labels = random.integers(0, 3, 40).repeat(random.integers(1, 5, 40))
        found = merged(labels, 4)
        runs = np.diff([0, *(np.flatnonzero(np.diff(found)) + 1), len(found)])
        assert len(runs) == 1 or runs.min() >= 4
        assert merged(labels, 1).tolist() == labels.tolist()


def test_segments_are_medians_of_clusters_within_episodes(store: EpisodeStore) -> None:
    features = features_of(store, "action")
    raw = np.concatenate(
        [(one := store.episode(index).actions) - one[0] for index in range(store.num_episodes)]
    )
    np.testing.assert_allclose(features, raw / raw.std(0), rtol=1e-5)
    settings = replace(SMALL, shortest=1)
    labels = np.asarray(store.labels(label_segments(store, settings, seed=4)), np.int64)
    clusters, start = clustered(features, 3, seed=4), 0
    for length in store.episode_length.tolist():
        own = clusters[start : start + length]
        wide = [own[0], *own, own[-1]]
        expected = [int(np.median(wide[step : step + 3])) for step in range(length)]
        assert labels[start : start + length].tolist() == expected
        start += length


def test_clusters_are_blobs() -> None:
    random = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    truth = random.integers(0, 3, 90)
    found = clustered((centres[truth] + random.normal(0, 0.1, (90, 2))).astype(np.float32), 3, seed=1)
    assert len({(int(a), int(b)) for a, b in zip(truth, found, strict=True)}) == 3
    with pytest.raises(
        InputError, match="clusters: expected at most as many as there are different features"
    ):
        clustered(np.zeros((10, 2), np.float32), 2, seed=0)


def test_the_loss_of_skills_is_that_of_each_segment(store: EpisodeStore) -> None:
    agents = agents_of()
    model = agents.skills
    labels = label_segments(store, SMALL, seed=0)
    batch = next(iter(VariableSegmentSampler(store, labels, 5, 12)))
    torch.manual_seed(1)
    loss, _ = ExtractLoss(model)(batch)
    torch.manual_seed(1)
    noise = torch.randn(12, 2)
    errors, progress, rest = [], [], []
    for row in range(12):
        steps, skill = int(batch["length"][row]), batch["skill"][row : row + 1]
        actions = batch["actions"][row : row + 1, :steps]
        posterior = model.encoder(actions, skill, torch.tensor([steps]))
        posterior = Normal(posterior.mean, posterior.log_std.exp())
        argument = posterior.mean + posterior.stddev * noise[row]
        decoded, told = model.decoder(skill, argument)
        errors.append((decoded[0, :steps] - actions[0]).square())
        progress.append((told[0, :steps] - torch.linspace(0, 1, steps)).square())
        log_choice, prior = model.priors(batch["observations"][row, :1])
        own = Normal(prior.mean[0, skill[0]], prior.log_std[0, skill[0]].exp())
        terms = 1e-3 * kl_divergence(posterior, Normal(0.0, 1.0)).mean() - own.log_prob(argument[0]).mean()
        rest.append(terms - Categorical(logits=log_choice).log_prob(skill)[0])
    expected = 0.5 * torch.cat(errors).mean() + torch.cat(progress).mean() + torch.stack(rest).mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_losses_are_expectations_over_skills() -> None:
    """State by state, skill by skill: each has the value of its own argument; the critic's is the stored skill's."""
    agents = agents_of(argument_temperature=0.3, choice_temperature=0.2, largest_value=0.9)
    random = torch.Generator().manual_seed(1)
    stored = torch.randint(0, 3, (2, 6, 1), generator=random)
    batch = {
        "observations": torch.randn(2, 6, 2, generator=random),
        "next_observations": torch.randn(2, 6, 2, generator=random),
        "actions": torch.cat([torch.randn(2, 6, 2, generator=random), stored], -1),
        "rewards": torch.randn(2, 6, generator=random),
        "terminated": torch.rand(2, 6, generator=random) < 0.3,
        "discount": torch.rand(2, 6, generator=random),
    }
    torch.manual_seed(3)
    noise = torch.randn(2, 6, 3, 2)

    def q(net: Any, state: torch.Tensor, argument: torch.Tensor, agent: int, skill: int) -> torch.Tensor:
        x = torch.cat([state, argument])[None]
        return torch.stack([net.of_members(x, torch.tensor([2 * agent + k]))[0, skill] for k in range(2)])

    def value(state: torch.Tensor, agent: int, row: int, net: Any) -> torch.Tensor:
        chosen = agents.policy_in([PointSuite.tasks[agent]])(state[None])
        log_prior, prior = agents.skills.priors(state[None])
        total = -0.2 * kl_divergence(
            Categorical(logits=chosen.log_choice[0]), Categorical(logits=log_prior[0])
        )
        for skill in range(3):
            own = Normal(chosen.argument.mean[0, skill], chosen.argument.log_std[0, skill].exp())
            other = Normal(prior.mean[0, skill], prior.log_std[0, skill].exp())
            argument = own.mean + own.stddev * noise[agent, row, skill]
            inside = q(net, state, argument, agent, skill).min() - 0.3 * kl_divergence(own, other).sum()
            total = total + chosen.log_choice[0, skill].exp() * inside
        return total

    critic, actor = 0.0, 0.0
    for agent in range(2):
        for row in range(6):
            one = {name: part[agent, row] for name, part in batch.items()}
            future = value(one["next_observations"], agent, row, agents.target_critic)
            target = one["rewards"] + one["discount"] * ~one["terminated"] * future
            both = q(agents.critic, one["observations"], one["actions"][:2], agent, int(one["actions"][2]))
            critic += float((both - target.clamp(-0.9, 0.9)).square().sum().detach()) / 6
            actor -= float(value(one["observations"], agent, row, agents.critic).detach()) / 6
    torch.manual_seed(3)
    assert float(ExtractCriticLoss(agents)(batch)[0]) == pytest.approx(critic, rel=1e-4)
    torch.manual_seed(3)
    assert float(ExtractActorLoss(agents)(batch)[0]) == pytest.approx(actor, rel=1e-4)


def test_decisions_are_kept_where_training_data_is(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "choose_device", lambda name: torch.device("meta"))
    sources = Sources(store, PointSuite(), tasks=PointSuite.tasks, workers=0)
    for data, device in (("device", "meta"), ("host", "cpu")):
        method = Extract.create(SMALL, sources, replace(TRAINING, data=data))
        assert method.replay.device.type == device


def test_a_skill_ends_when_its_progress_is_whole() -> None:
    model = agents_of().skills
    progress = torch.tensor([[0.1, 0.5, 0.96, 0.2, 0.3], [0.0, 0.1, 0.2, 0.3, 0.4]])
    model.decoder.forward = lambda choice, argument: (torch.zeros(2, 5, 1), progress)  # type: ignore[method-assign]
    assert model.plan(torch.zeros(2, 3))[1].tolist() == [3, 5]


@pytest.mark.parametrize("kill", [3, 15])
def test_a_run_that_was_cut_ends_with_the_same_bits(kill: int, store: EpisodeStore, tmp_path: Path) -> None:
    def make() -> Extract:
        return Extract.create(
            SMALL, Sources(store, PointSuite(), tasks=PointSuite.tasks, workers=0), TRAINING
        )

    def train(path: str, method: Extract, *, resume: bool = False) -> Extract:
        run = RunFolder.create(tmp_path / path, {}, resume=resume)
        Trainer(method, run, TRAINING, progress=False).train(resume=resume)
        return method

    whole, cut = train("whole", make()), make()
    interact = cut._interact

    def stopping(iteration: int) -> Any:
        if iteration == kill:
            raise RuntimeError("cut")
        return interact(iteration)

    cut._interact = stopping  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="cut"):
        train("cut", cut)
    resumed = train("cut", make(), resume=True)
    for part, module in whole.modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, resumed.modules[part].state_dict()[key]), (part, key)
    for name, value in whole.replay.state_dict().items():
        assert torch.equal(value, resumed.replay.state_dict()[name]), name


@pytest.mark.parametrize("method", ["extract_state", "extract"])
def test_a_run_goes_the_whole_way(method: str, tmp_path: Path) -> None:
    """From the command's own function, over clusters or over the labels of a codebook, to an evaluation."""
    store = point_store(tmp_path / "data")
    names = (
        "median_steps",
        "shortest",
        "longest",
        "argument_dim",
        "skill_width",
        "prior_width",
        "iterations",
    )
    small = [
        f"{name}={getattr(SMALL, name)}"
        for name in (*names, "skill_iterations", "warmup_steps", "batch_size")
    ]
    if method == "extract":
        random = np.random.default_rng(0)
        store.write_labels("codes", random.integers(0, 5, store.num_steps), 5)
        small.append("labels=codes")
    changes = ["training.device=cpu", "training.threads=1", *(f"method.{change}" for change in small)]
    run = pipeline.train(
        tmp_path / "data", tmp_path / "run", method=method, overrides=changes, suite="point_suite:PointSuite"
    )
    assert run.settings["method"]["clusters"] == (5 if method == "extract" else 8)
    results = evaluate(
        goskill.load_policy(run.path), ["left"], episodes=2, max_steps=20, workers=0, suite=PointSuite()
    )
    assert results.overall.episodes == 2


def test_what_does_not_fit_is_named(store: EpisodeStore, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"features: .* has no column 'pictures': expected one of state, action"
    ):
        features_of(store, "pictures")
    sources = Sources(store, PointSuite(), tasks=PointSuite.tasks)
    with pytest.raises(InputError, match="labels: "):
        Extract.create(replace(SMALL, labels="codes"), sources, TRAINING)
    with pytest.raises(InputError, match="median_steps: expected an odd number, got 4"):
        find("extract").settings({"median_steps": 4})
    with pytest.raises(InputError, match="shortest: expected a positive number, got 0"):
        find("extract").settings({"shortest": 0})
    with StoreWriter(tmp_path / "odd", 2, 1, ["a"], columns={"image": ("f4", 2)}) as writer:
        image = np.full((2, 2), 0.125, np.float32)
        rows = {"observations": np.zeros((3, 2)), "actions": np.zeros((2, 1)), "rewards": np.zeros(2)}
        writer.append(task="a", **rows, columns={"image": image})
    (column,) = (tmp_path / "odd").rglob("image.npy")
    content = column.read_bytes()
    column.write_bytes(content[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(InputError, match="features: 'image': expected finite values, episode 0 has others"):
        features_of(EpisodeStore.open(tmp_path / "odd"), "image")
