"""GO-Skill's phases, losses and labels on a tiny store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_store import OBSERVATION, begin, small_settings, small_store
from torch import Tensor, nn

from goskill.data import EpisodeStore
from goskill.errors import CheckpointError, InputError
from goskill.methods.go_skill import ABLATIONS, GoSkill, label_name, networks_from_state
from goskill.methods.go_skill.losses import PolicyLoss, SkillLoss, perplexity, some_swapped, usage
from goskill.methods.sequence.losses import masked_mean
from goskill.training import TrainingSettings


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("data") / "store")


def train(method: GoSkill, learning_rate: float = 3e-3) -> dict[str, list[dict[str, Tensor]]]:
    """The step loop at its plainest. Returns every objective's metrics by phase and step."""
    torch.manual_seed(5)
    optimizers: dict[str, torch.optim.Optimizer] = {}
    history: dict[str, list[dict[str, Tensor]]] = {}
    for phase in method.phases():
        for module in method.modules.values():
            module.train()
        objectives = list(phase.begin())
        streams = [iter(objective.sampler) for objective in objectives]
        for _ in range(phase.iterations):
            for objective, stream in zip(objectives, streams, strict=True):
                parameters = [p for module in objective.modules for p in module.parameters()]
                optimizer = optimizers.setdefault(
                    objective.name, torch.optim.AdamW(parameters, learning_rate, weight_decay=1e-4)
                )
                optimizer.zero_grad()
                loss, metrics = objective.loss(next(stream))
                loss.backward()
                optimizer.step()
                history.setdefault(f"{phase.name}/{objective.name}", []).append(
                    {"loss": loss.detach(), **metrics}
                )
    return history


def gradient(module: nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


CASES: dict[str, dict[str, Any]] = {
    "default": {},
    **ABLATIONS,
    "no-vq-action-encoder": {"codebook": "none", "skill_source": "actions", "reached_goal": False},
    "gradient-codebook": {"codebook": "gradient", "commitment_weight": 0.25},
    "dead-codes": {"dead_code_threshold": 1.0},
    "multi-head": {"multi_head_decoder": True},
    "summed-action-loss": {"action_loss": "sum"},
    "goal-dimensions": {"goal_dimensions": (0, 1)},
    "policy-table": {"policy_skill_input": "index"},
    "no-prompt": {"prompt_length": 0},
    "mlp-decoder": {"decoder": "mlp"},
    "mlp-decoder-no-vq": {"decoder": "mlp", "codebook": "none"},
    "best-half": {"best_share": 0.5},
}


@pytest.mark.parametrize("name", CASES)
def test_every_variant_trains_and_learns(name: str, store: EpisodeStore) -> None:
    settings = small_settings(
        **{"extraction_iterations": 40, "policy_iterations": 25, "dropout": 0.0, **CASES[name]}
    )
    history = train(GoSkill(settings, store, TrainingSettings()))
    assert set(history) == {"extraction/skill", "policy/policy", "policy/skill"}
    for key, steps in history.items():
        values = torch.stack([step["loss"] for step in steps])
        assert values.isfinite().all(), key
        assert {name for name, metric in steps[0].items() if metric.ndim} <= {"usage"}
    error = torch.stack([step["action_error"] for step in history["extraction/skill"]])
    assert error[-5:].mean() < 0.9 * error[:3].mean()
    losses = torch.stack([step["loss"] for step in history["policy/policy"]])
    assert losses[-5:].mean() < losses[:5].mean()


def test_phases_and_batches_are_the_papers(store: EpisodeStore) -> None:
    method = GoSkill(small_settings(), store, TrainingSettings())
    assert [(phase.name, phase.iterations) for phase in method.phases()] == [
        ("extraction", 6),
        ("labelling", 0),
        ("policy", 6),
    ]
    batch = next(iter(begin(method, "extraction")["skill"].sampler))
    assert batch["observations"].shape == (16, 5, OBSERVATION)
    assert set(method.modules) == {"normalize", "encoder", "codebook", "decoder", "policy"}
    objectives = begin(method, "policy")
    assert list(objectives) == ["policy", "skill"]
    assert next(iter(objectives["policy"].sampler))["observations"].shape == (8, 5, OBSERVATION)
    assert next(iter(objectives["skill"].sampler))["skill"].shape == (16,)


def test_the_policy_takes_a_step_where_it_is_due(store: EpisodeStore) -> None:
    method = GoSkill(small_settings(policy_every=3), store, TrainingSettings())
    begin(method, "extraction")
    every = {name: objective.every for name, objective in begin(method, "policy").items()}
    assert every == {"policy": 3, "skill": 1}


@pytest.mark.parametrize("decoder", ["transformer", "mlp"])
def test_tables_begin_as_large_as_is_asked_for(decoder: str, store: EpisodeStore) -> None:
    """The other weights are the same."""
    released, small = (
        GoSkill(
            small_settings(decoder=decoder, table_std=std), store, TrainingSettings()
        ).networks.state_dict()
        for std in (1.0, 0.25)
    )
    tables = {
        "decoder.embed_step.weight",
        "policy.embedding.time.weight",
        "policy.prompt_embedding.time.weight",
    }
    for name, values in released.items():
        assert torch.equal(small[name], 0.25 * values if name in tables else values), name


def test_resampling_draws_equally_from_the_skills_that_occur(store: EpisodeStore) -> None:
    method = GoSkill(small_settings(), store, TrainingSettings())
    train_begin = begin(method, "extraction")
    del train_begin
    batch = next(iter(begin(method, "policy")["skill"].sampler))
    counts = np.bincount(batch["skill"].numpy(), minlength=5)
    assert counts[counts > 0].max() - counts[counts > 0].min() <= 1
    without = GoSkill(small_settings(resampling=False), store, TrainingSettings(), networks=None)
    begin(without, "extraction")
    assert "skill" not in next(iter(begin(without, "policy")["skill"].sampler))


def test_action_loss_reaches_the_encoder_through_skill_and_reached_goals(store: EpisodeStore) -> None:
    for reached in (True, False):
        method = GoSkill(
            small_settings(commitment_weight=0.0, reached_goal=reached), store, TrainingSettings()
        )
        objective = begin(method, "extraction")["skill"]
        loss, _ = objective.loss(next(iter(objective.sampler)))
        loss.backward()
        assert gradient(method.networks.encoder) > 0
    # Only the reached goals: the skill token is cut off.
    method = GoSkill(small_settings(commitment_weight=0.0), store, TrainingSettings())
    objective = begin(method, "extraction")["skill"]
    quantize = method.networks.quantize
    method.networks.quantize = lambda embedding, frozen: tuple(  # type: ignore[assignment, method-assign]
        part if part is None else part.detach() for part in quantize(embedding, frozen)
    )
    loss, _ = objective.loss(next(iter(objective.sampler)))
    loss.backward()
    assert gradient(method.networks.encoder) > 0


def test_enhancement_leaves_encoder_and_codebook_alone(store: EpisodeStore) -> None:
    for codebook in ("ema", "gradient"):
        method = GoSkill(small_settings(codebook=codebook), store, TrainingSettings())
        begin(method, "extraction")
        objective = begin(method, "policy")["skill"]
        abstraction = {
            f"{name}.{key}": value.clone()
            for name in ("encoder", "codebook", "normalize")
            for key, value in method.modules[name].state_dict().items()
        }
        method.modules["codebook"].train()
        loss, metrics = objective.loss(next(iter(objective.sampler)))
        loss.backward()
        assert "vq_loss" not in metrics
        assert gradient(method.networks.decoder) > 0
        for name in ("encoder", "codebook"):
            assert gradient(method.modules[name]) == 0
            assert not any(parameter.requires_grad for parameter in method.modules[name].parameters())
        for name in ("encoder", "codebook", "normalize"):
            for key, value in method.modules[name].state_dict().items():
                assert torch.equal(value, abstraction[f"{name}.{key}"]), (name, key)
        begin(method, "extraction")
        assert all(parameter.requires_grad for parameter in method.networks.encoder.parameters())


def test_kmeans_initialises_the_codebook_on_the_first_batch_without_using_it_up(store: EpisodeStore) -> None:
    method = GoSkill(small_settings(), store, TrainingSettings(seed=3))
    torch.manual_seed(0)
    objective = begin(method, "extraction")["skill"]
    codebook = method.networks.codebook
    assert codebook is not None
    assert bool(codebook._codebook.initted)
    assert objective.sampler.state_dict()["step"] == 0
    batch = next(iter(objective.sampler))
    embedding = method.networks.read_window(batch["observations"], batch["actions"]).embedding
    nearest = torch.cdist(embedding, codebook.codebook).argmin(-1)
    for code in nearest.unique():  # a fixed point of Lloyd's algorithm, or close to it after 10 iterations
        centre = embedding[nearest == code].mean(0)
        torch.testing.assert_close(codebook.codebook[code], centre, rtol=0, atol=0.2)


def test_skill_loss_is_a_masked_mean_in_float64(store: EpisodeStore) -> None:
    for action_loss in ("mean", "sum"):
        method = GoSkill(small_settings(action_loss=action_loss, dropout=0.0), store, TrainingSettings())
        objective = begin(method, "extraction")["skill"]
        stream = iter(objective.sampler)
        batch = next(stream)
        while batch["mask"].all():
            batch = next(stream)
        loss, metrics = SkillLoss(method.networks, frozen=True)(batch)
        networks = method.networks
        normalized = networks.normalize(batch["observations"])
        skill = networks.codebook(
            networks.encoder(normalized[:, -1] - normalized[:, 0]), freeze_codebook=True
        )[0]
        reached = networks.encoder(normalized[:, :-1] - normalized[:, :1])
        predicted = networks.decoder(skill, None, reached, normalized[:, :-1], batch["actions"]).double()
        errors = (predicted - batch["actions"].double())[batch["mask"]] ** 2
        torch.testing.assert_close(metrics["action_error"].double(), errors.mean(), rtol=1e-5, atol=0)
        expected = errors.mean() if action_loss == "mean" else errors.sum(-1).mean()
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)


def test_skills_are_swapped_within_tasks_in_the_share_that_is_asked_for() -> None:
    torch.manual_seed(0)
    task = torch.arange(2_000) % 2
    index = torch.arange(2_000)
    shown = some_swapped(index, task, 0.4)
    assert torch.equal(task[shown], task)
    assert abs(float((shown != index).float().mean()) - 0.4) < 0.05
    often = torch.bincount(some_swapped(index % 10, task, 1.0), minlength=10)
    assert ((often / 2_000 - 0.1).abs() < 0.03).all()
    assert torch.equal(some_swapped(index, task, 0.0), index)


def test_only_enhancement_shows_swapped_skills(store: EpisodeStore) -> None:
    """And nothing is said of the use of codes in its batches, which are balanced by skill."""
    found: dict[tuple[float, bool], dict[str, Tensor]] = {}
    for noise in (0.0, 0.999):
        torch.manual_seed(1)  # k-means draws its first centres
        method = GoSkill(small_settings(skill_noise=noise, dropout=0.0), store, TrainingSettings())
        batch = next(iter(begin(method, "extraction")["skill"].sampler))
        method.networks.eval()
        for frozen in (True, False):
            loss, metrics = SkillLoss(method.networks, frozen)(batch)
            found[noise, frozen] = {"loss": loss.detach(), **metrics}
    assert torch.equal(found[0.0, False]["loss"], found[0.999, False]["loss"])
    assert not torch.equal(found[0.0, True]["loss"], found[0.999, True]["loss"])
    for name in ("usage", "perplexity", "dead_codes"):
        assert torch.equal(found[0.0, False][name], found[0.999, False][name])
        assert name not in found[0.0, True]


def test_what_lies_past_the_end_of_an_episode_never_matters(store: EpisodeStore) -> None:
    method = GoSkill(small_settings(dropout=0.0), store, TrainingSettings())
    stream = iter(begin(method, "extraction")["skill"].sampler)
    batch = next(batch for batch in stream if not batch["mask"].all())
    padded = {name: value.clone() for name, value in batch.items()}
    padded["observations"][:, :-1][~batch["mask"]] = 50.0
    padded["actions"][~batch["mask"]] = -50.0
    loss = SkillLoss(method.networks, frozen=True)
    torch.testing.assert_close(loss(padded)[0], loss(batch)[0])


def test_focal_loss_and_cross_entropy_are_those_of_the_formula(store: EpisodeStore) -> None:
    method = GoSkill(small_settings(dropout=0.0), store, TrainingSettings())
    begin(method, "extraction")
    batch = next(iter(begin(method, "policy")["policy"].sampler))
    assert not batch["mask"].all()
    networks = method.networks
    logits: list[Tensor] = []
    networks.policy.skill_head.register_forward_hook(lambda *call: logits.append(call[2].double()))
    losses, reported = {}, {}
    for policy_loss in ("focal", "cross_entropy"):
        networks.settings = replace(networks.settings, policy_loss=policy_loss)
        losses[policy_loss], reported[policy_loss] = PolicyLoss(networks)(batch)
    metrics = reported["cross_entropy"]
    log_p = logits[0].log_softmax(-1).gather(-1, batch["skills"][..., None])[..., 0][batch["mask"]]
    expected = {"focal": -((1 - log_p.exp()) ** 2) * log_p, "cross_entropy": -log_p}
    for name, loss in losses.items():
        torch.testing.assert_close(loss.double(), expected[name].mean(), rtol=1e-5, atol=0)
    right = (logits[0].argmax(-1) == batch["skills"])[batch["mask"]]
    torch.testing.assert_close(metrics["accuracy"], right.float().mean())
    p = log_p.exp()
    torch.testing.assert_close(metrics["true_probability"].double(), p.mean(), rtol=1e-5, atol=0)
    torch.testing.assert_close(metrics["easy_share"], (p > 0.5).float().mean())
    assert metrics["focal_weight"] == 1  # of the cross-entropy
    weight = reported["focal"]["focal_weight"].double()
    torch.testing.assert_close(weight, ((1 - p) ** 2).mean(), rtol=1e-5, atol=0)


def test_continuous_skills_are_those_of_the_rows(store: EpisodeStore) -> None:
    method = GoSkill(small_settings(codebook="none"), store, TrainingSettings())
    begin(method, "extraction")
    batch = next(iter(begin(method, "policy")["policy"].sampler))
    networks = method.networks
    for prefix, points in (("", 5), ("prompt_", 3)):
        for row in range(len(batch["task"])):
            episode = store.episode(int(batch[f"{prefix}episode"][row]))
            steps = len(episode.actions)
            normalized = networks.normalize(torch.from_numpy(episode.observations.copy()))
            for point in range(points):
                if not batch[f"{prefix}mask"][row, point]:
                    continue
                observation = networks.normalize(batch[f"{prefix}observations"][row, point])
                at = int((normalized[:-1] - observation).abs().sum(-1).argmin())
                goal = normalized[min(at + 4, steps)] - normalized[at]
                skill = batch[f"{prefix}skills"][row, point]
                torch.testing.assert_close(skill, networks.encoder(goal), rtol=0, atol=1e-5)


def test_same_seed_same_weights_other_seed_other_weights(store: EpisodeStore) -> None:
    def weights(seed: int) -> Tensor:
        method = GoSkill(small_settings(), store, TrainingSettings(seed=seed))
        train(method)
        return torch.cat([p.detach().flatten() for p in method.networks.parameters()])

    first = weights(0)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_a_users_goal_features_replace_the_observations(store: EpisodeStore) -> None:
    seen: list[Tensor] = []

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(3.0))

        def forward(self, observations: Tensor) -> Tensor:
            seen.append(observations)
            return observations[..., :2] * self.scale

    method = GoSkill.with_goal_features(Features())(small_settings(), store, TrainingSettings())
    train(method)
    assert method.networks.encoder.stack[0].in_features == 2
    assert torch.equal(seen[-1][:, -1].sum(-1).isfinite(), torch.ones(len(seen[-1]), dtype=torch.bool))
    assert float(method.networks.goal_features.scale) == 3.0  # never trained
    assert "goal_features" in method.modules


def test_trained_networks_go_on_with_new_settings_of_the_schedule(store: EpisodeStore) -> None:
    method = GoSkill(small_settings(), store, TrainingSettings())
    train(method)
    before = {key: value.clone() for key, value in method.networks.encoder.state_dict().items()}
    settings = small_settings(extraction_iterations=0, policy_iterations=3)
    tuned = GoSkill(settings, store, TrainingSettings(), networks=method.networks)
    assert [phase.name for phase in tuned.phases()] == ["labelling", "policy"]
    train(tuned)
    assert all(torch.equal(value, before[key]) for key, value in tuned.networks.encoder.state_dict().items())


def test_networks_come_back_from_a_checkpoint(store: EpisodeStore) -> None:
    method = GoSkill(small_settings(), store, TrainingSettings())
    train(method)
    state = {name: part.state_dict() for name, part in method.modules.items()}
    again = networks_from_state(method.settings, state)
    assert label_name(again) == label_name(method.networks)
    batch = next(iter(begin(method, "policy")["policy"].sampler))
    torch.testing.assert_close(
        PolicyLoss(again.eval())(batch)[0], PolicyLoss(method.networks.eval())(batch)[0]
    )
    with pytest.raises(CheckpointError, match=r"'policy' is missing"):
        networks_from_state(method.settings, {name: part for name, part in state.items() if name != "policy"})
    with pytest.raises(
        CheckpointError, match=r"policy\.skill_head\.weight: expected \(7, 16\), got \(5, 16\)"
    ):
        networks_from_state(
            small_settings(codebook_size=7),
            {
                **state,
                "codebook": {
                    "_codebook.initted": torch.tensor(True),
                    "_codebook.cluster_size": torch.ones(1, 7),
                    "_codebook.embed_avg": torch.ones(1, 7, 8),
                    "_codebook.embed": torch.ones(1, 7, 8),
                },
            },
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"goal_dimensions": (0, 6)}, "goal_dimensions: expected dimensions below 6, got 6"),
        ({"max_decisions": 7}, "max_decisions: expected more than 7 for episodes of 30 steps, got 7"),
        ({"extraction_iterations": 0}, "extraction_iterations"),
    ],
)
def test_settings_that_do_not_fit_the_store_are_refused(
    changes: dict[str, Any], message: str, store: EpisodeStore
) -> None:
    with pytest.raises(InputError, match=message):
        GoSkill(small_settings(**changes), store, TrainingSettings())


def test_networks_of_other_settings_are_refused(store: EpisodeStore) -> None:
    networks = GoSkill(small_settings(), store, TrainingSettings()).networks
    with pytest.raises(InputError, match="horizon: expected 4 as the trained networks have, got 3"):
        GoSkill(small_settings(horizon=3), store, TrainingSettings(), networks=networks)


def test_masked_mean_and_perplexity() -> None:
    values, mask = torch.tensor([[1.0, 100.0], [3.0, 5.0]]), torch.tensor([[True, False], [True, True]])
    assert masked_mean(values, mask) == 3.0
    assert masked_mean(values, torch.zeros(2, 2, dtype=torch.bool)) == 0.0
    assert perplexity(usage(torch.arange(4), 16)).item() == pytest.approx(4.0)
    assert perplexity(usage(torch.zeros(9, dtype=torch.int64), 16)).item() == pytest.approx(1.0)
