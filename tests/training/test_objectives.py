"""Objectives of one phase: shared batches, intervals, own optimisers, hooks, and whose parameters gradients reach."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_method import TRAINING, ToySampler

from goskill.errors import CheckpointError, InputError
from goskill.training import (
    Batch,
    Objective,
    OptimizerSettings,
    Phase,
    RunFolder,
    Stateful,
    Trainer,
    TrainingSettings,
)

ITERATIONS = 12
ADAM = OptimizerSettings(1e-2, "adam")


class Walk:
    """An environment of one number that a critic is shown: moves by its own random numbers."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.seen = np.zeros(0)

    def step(self) -> float:
        self.seen = np.append(self.seen, self.random.normal())
        return float(self.seen[-1])

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "random": json.dumps(self.random.bit_generator.state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"].numpy()
        self.random.bit_generator.state = json.loads(state["random"])


class ActorCritic:
    """A critic with a target, an actor that is trained through the critic at every second iteration."""

    def __init__(self, *, actor_sampler: Any = "critic", every: int = 2) -> None:
        torch.manual_seed(0)
        self.critic, self.actor = nn.Linear(6, 1), nn.Linear(5, 1)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.walk = Walk()
        self.actor_sampler, self.every = actor_sampler, every
        self.shown: dict[str, list[Tensor]] = {"critic": [], "actor": []}
        self.target_follows: list[bool] = []

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"critic": self.critic, "actor": self.actor, "target": self.target}

    @property
    def state(self) -> Mapping[str, Stateful]:
        return {"walk": self.walk}

    def phases(self) -> Sequence[Phase]:
        return [Phase("learn", ITERATIONS, self._begin, interact=self._interact)]

    def _interact(self, iteration: int) -> Mapping[str, float]:
        assert len(self.walk.seen) == iteration
        moved = self.walk.step()
        return {"moved": moved} if iteration % 2 else {}

    def _begin(self) -> Sequence[Objective]:
        return [
            Objective(
                "critic", ToySampler(1), self._critic_loss, [self.critic], after=self._follow, optimizer=ADAM
            ),
            Objective(
                "actor", self.actor_sampler, self._actor_loss, [self.actor], every=self.every, optimizer=ADAM
            ),
        ]

    def _critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        self.shown["critic"].append(batch["x"].clone())
        both = torch.cat([batch["x"], self.actor(batch["x"])], 1)
        wanted = self.target(both).detach() * 0.9 + batch["x"][:, :1] + float(self.walk.seen[-1])
        return (self.critic(both) - wanted).square().mean(), {}

    def _actor_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        self.shown["actor"].append(batch["x"].clone())
        action = self.actor(batch["x"])
        return action.square().mean() - self.critic(torch.cat([batch["x"], action], 1)).mean(), {}

    def _follow(self) -> None:
        for slow, fast in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            slow.lerp_(fast, 0.1)


def folder(path: Path, training: TrainingSettings, *, resume: bool = False) -> RunFolder:
    return RunFolder.create(path, {"training": training}, resume=resume)


def plain(method: ActorCritic) -> None:
    """What the trainer has to do, written out with torch's optimisers."""
    critic = torch.optim.Adam(method.critic.parameters(), lr=1e-2)
    actor = torch.optim.Adam(method.actor.parameters(), lr=1e-2)
    batches: Iterator[Batch] = iter(ToySampler(1))
    for iteration in range(ITERATIONS):
        method._interact(iteration)
        batch = next(batches)
        critic.zero_grad()
        method._critic_loss(batch)[0].backward()
        critic.step()
        with torch.no_grad():
            method._follow()
        if iteration % 2:
            actor.zero_grad()
            method._actor_loss(batch)[0].backward()
            actor.step()


def weights(method: ActorCritic) -> dict[str, Tensor]:
    return {f"{n}.{k}": v for n, module in method.modules.items() for k, v in module.state_dict().items()}


def test_an_actor_and_its_critic_are_trained_as_written_out(tmp_path: Path) -> None:
    expected, method = ActorCritic(), ActorCritic()
    plain(expected)
    Trainer(method, folder(tmp_path / "run", TRAINING), TRAINING, progress=False).train()
    for name, value in weights(method).items():
        torch.testing.assert_close(value, weights(expected)[name], rtol=1e-5, atol=1e-6)
    assert all(
        torch.equal(a, b) for a, b in zip(method.shown["actor"], method.shown["critic"][1::2], strict=True)
    )


def test_no_gradient_reaches_what_an_objective_does_not_own(tmp_path: Path) -> None:
    """The actor's loss passes through the critic; the critic's through the actor."""
    method = ActorCritic(every=1)
    gradients: list[tuple[bool, bool]] = []
    critic_loss, actor_loss = method._critic_loss, method._actor_loss

    def watched(loss: Any) -> Any:
        def look(batch: Batch) -> Any:
            gradients.append((method.critic.weight.grad is None, method.actor.weight.grad is None))
            return loss(batch)

        return look

    method._critic_loss, method._actor_loss = watched(critic_loss), watched(actor_loss)  # type: ignore[method-assign]
    Trainer(method, folder(tmp_path / "run", TRAINING), TRAINING, progress=False).train()
    assert set(gradients) == {(True, True)}
    assert method.critic.weight.grad is None
    assert method.actor.weight.grad is None


@pytest.mark.parametrize("kill_before", [1, 5, 8])
def test_a_run_with_states_ends_alike_after_an_interruption(tmp_path: Path, kill_before: int) -> None:
    whole = ActorCritic()
    training = replace(TRAINING, checkpoint_every=3)
    Trainer(whole, folder(tmp_path / "whole", training), training, progress=False).train()
    cut = ActorCritic()
    step = cut.walk.step

    def stopping() -> float:
        if len(cut.walk.seen) == kill_before:
            raise RuntimeError("cut")
        return step()

    cut.walk.step = stopping  # type: ignore[method-assign]
    run = tmp_path / "cut"
    with pytest.raises(RuntimeError, match="cut"):
        Trainer(cut, folder(run, training), training, progress=False).train()
    resumed = ActorCritic()
    Trainer(resumed, folder(run, training, resume=True), training, progress=False).train(resume=True)
    assert resumed.walk.state_dict()["random"] == whole.walk.state_dict()["random"]
    np.testing.assert_array_equal(resumed.walk.seen, whole.walk.seen)
    for name, value in weights(resumed).items():
        assert torch.equal(value, weights(whole)[name]), name


def test_metrics_of_environments_and_of_rare_objectives_are_means_of_what_there_was(tmp_path: Path) -> None:
    method = ActorCritic()
    run = folder(tmp_path / "run", TRAINING)
    Trainer(method, run, replace(TRAINING, log_every=5), progress=False).train()
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [5, 10, 12]
    seen = method.walk.seen
    means = [seen[1:5:2].mean(), seen[5:10:2].mean(), seen[11]]
    assert [line["environment/moved"] for line in lines] == pytest.approx(means)
    assert all({"actor/loss", "critic/loss"} <= line.keys() for line in lines)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("critics", "objective 'actor': sampler: expected a sampler or the name .*, got 'critics'"),
        ("actor", "objective 'actor': sampler: expected a sampler or the name .*, got 'actor'"),
    ],
)
def test_a_batch_of_nobody_is_refused(tmp_path: Path, sampler: str, message: str) -> None:
    method = ActorCritic(actor_sampler=sampler)
    with pytest.raises(InputError, match=message):
        Trainer(method, folder(tmp_path / "run", TRAINING), TRAINING, progress=False).train()


def test_a_checkpoint_without_a_state_is_refused_by_name(tmp_path: Path) -> None:
    class Stateless(ActorCritic):
        @property
        def state(self) -> Mapping[str, Stateful]:
            return {}

    Trainer(Stateless(), folder(tmp_path / "run", TRAINING), TRAINING, progress=False).train()
    run = folder(tmp_path / "run", TRAINING, resume=True)
    with pytest.raises(CheckpointError, match="state 'walk' is missing"):
        Trainer(ActorCritic(), run, TRAINING, progress=False).train(resume=True)


@pytest.mark.parametrize("algorithm", ["adam", "adamw", "radam"])
def test_optimizers_are_torchs_own(tmp_path: Path, algorithm: str) -> None:
    settings = OptimizerSettings(3e-2, algorithm, weight_decay=0.05, betas=(0.8, 0.95))
    names = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "radam": torch.optim.RAdam}
    parameter = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    other = nn.Parameter(parameter.detach().clone())
    from goskill.training.optimizer import ObjectiveOptimizer

    ours = ObjectiveOptimizer(settings)
    ours.begin({"w": parameter})
    theirs: Any = names[algorithm]([other], lr=3e-2, weight_decay=0.05, betas=(0.8, 0.95))
    for step in range(8):
        gradient = torch.tensor([1.0, 0.1, -3.0]) * (step + 1)
        parameter.grad, other.grad = gradient.clone(), gradient.clone()
        ours.set_learning_rate(1)
        norm = ours.step()
        ours.steps += 1
        theirs.step()
        assert float(norm) == pytest.approx(float(gradient.norm()))
    torch.testing.assert_close(parameter, other, rtol=1e-6, atol=1e-7)
