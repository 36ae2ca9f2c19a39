"""MTRL: distillation against torch.distributions, resuming to the bit, target tasks, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cut_run import check_cut_and_resumed, train
from point_store import point_store
from point_suite import PointSuite
from torch.distributions import Normal, kl_divergence

import goskill
from goskill.errors import InputError
from goskill.experiments import learning, pipeline
from goskill.methods import Sources
from goskill.methods.mtrl import MTRL, DistillationLoss, SharedPolicy
from goskill.methods.mtrl.method import MTRLSettings, MTRLTarget, MTRLTargetSettings
from goskill.methods.skill_rl import SkillAgents, finished_run, new_model
from goskill.rollouts import evaluate
from goskill.training import Batch, Checkpoints, RunFolder, TrainingSettings

TRAINING = TrainingSettings(device="cpu", precision="float32", log_every=10, checkpoint_every=5, threads=1)
SKILLS: dict[str, Any] = {
    "horizon": 3,
    "skill_dim": 2,
    "skill_width": 8,
    "decoder_layers": 1,
    "prior_width": 8,
    "prior_layers": 1,
}
SMALL: dict[str, Any] = {
    **SKILLS,
    "skill_iterations": 2,
    "critic_width": 8,
    "critic_layers": 1,
    "iterations": 8,
    "warmup_decisions": 10,
    "batch_size": 8,
    "distillation_iterations": 8,
}


def test_distillation_follows_the_critics_of_each_task(tmp_path: Path) -> None:
    """Eq. 6 with each task's own critics; agents stay as they are, and the temperature follows the mean divergence."""
    settings = MTRLSettings(**SMALL, tasks=("a", "b"), shared_divergence=0.1)
    torch.manual_seed(0)
    agents = SkillAgents(settings, new_model(settings, point_store(tmp_path / "store", episodes=5), 0))
    shared = SharedPolicy(agents, 0.3)
    states = torch.randn(2, 6, 2)
    torch.manual_seed(5)
    noise = torch.randn(2, 6, 2)
    total, divergences = torch.zeros(()), []
    for task in range(2):
        outputs = shared.actor(agents.skills.normalize(states[task]))[0]
        mean, log_std = outputs.chunk(2, -1)
        policy, prior = Normal(mean, log_std.exp()), agents.skills.prior(states[task])
        divergence = kl_divergence(policy, Normal(prior.mean.detach(), prior.log_std.exp().detach())).sum(-1)
        skill = mean + log_std.exp() * noise[task]
        seen = torch.cat([agents.skills.normalize(states[task]), skill], -1)
        every = agents.critic(seen.expand(4, -1, -1))[..., 0]
        total = total + (0.3 * divergence - every[2 * task : 2 * task + 2].min(0).values).mean() / 2
        divergences.append(divergence.detach())
    pull = shared.temperature.value[0] * (0.1 - torch.stack(divergences).mean())
    trained = [*shared.actor.parameters(), shared.temperature.log_value]
    expected = torch.autograd.grad(total + pull, trained)
    torch.manual_seed(5)
    found = torch.autograd.grad(DistillationLoss(shared, agents, 0.1)({"observations": states})[0], trained)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    shared.begin_as_prior()
    begun, prior = shared.policy(states), agents.skills.prior(states)
    torch.testing.assert_close(begun.mean, prior.mean)
    torch.testing.assert_close(begun.log_std, prior.log_std)


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with skills of its own."""
    root = tmp_path_factory.mktemp("mtrl")
    point_store(root / "data", episodes=10)
    changes = ["training.device=cpu", "training.threads=1"]
    changes += [f"method.{name}={value}" for name, value in SMALL.items()]
    return pipeline.train(
        root / "data", root / "run", method="mtrl", overrides=changes, suite="point_suite:PointSuite"
    ).path


@pytest.mark.parametrize("kill", [6])
def test_training_that_was_cut_ends_with_the_same_bits(kill: int, meta: Path, tmp_path: Path) -> None:
    sources = Sources(None, PointSuite(), tasks=PointSuite.tasks, workers=0)
    settings = MTRLSettings(**SMALL, skills=str(meta))
    check_cut_and_resumed(lambda: MTRL.create(settings, sources, TRAINING), TRAINING, kill, tmp_path)


@pytest.mark.parametrize("kill", [6])
@pytest.mark.filterwarnings("ignore:tasks. left, right. meta-trained on as well")
def test_target_learning_that_was_cut_ends_with_the_same_bits(kill: int, meta: Path, tmp_path: Path) -> None:
    sources = Sources(None, PointSuite(), tasks=PointSuite.tasks, workers=0)
    settings = MTRLTargetSettings(meta=str(meta), iterations=8, warmup_decisions=10, batch_size=8)
    check_cut_and_resumed(lambda: MTRLTarget.create(settings, sources, TRAINING), TRAINING, kill, tmp_path)


def test_distillation_that_was_cut_ends_with_the_same_bits(
    meta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agents' buffers and everything else that it reads come from the checkpoint."""
    sources = Sources(None, PointSuite(), tasks=PointSuite.tasks, workers=0)
    settings = MTRLSettings(**SMALL, skills=str(meta))

    def make() -> MTRL:
        return MTRL.create(settings, sources, TRAINING)

    whole = train(tmp_path / "whole", make(), TRAINING)
    forward, calls = DistillationLoss.forward, 0

    def stopping(self: DistillationLoss, batch: Batch) -> Any:
        nonlocal calls
        calls += 1
        if calls == 7:  # two after the checkpoint of update 8 + 5
            raise RuntimeError("cut")
        return forward(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(DistillationLoss, "forward", stopping)
        with pytest.raises(RuntimeError, match="cut"):
            train(tmp_path / "cut", make(), TRAINING)
    found = Checkpoints(RunFolder.open(tmp_path / "cut").checkpoints).newest()
    assert found is not None
    assert found.state["phases"][found.state["phase"]][0] == "distillation"
    resumed = train(tmp_path / "cut", make(), TRAINING, resume=True)
    for part, module in whole.modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, resumed.modules[part].state_dict()[key]), (part, key)
    assert all(
        torch.equal(value, resumed.replay.state_dict()[name])
        for name, value in whole.replay.state_dict().items()
    )


def test_target_tasks_begin_with_the_shared_policy(meta: Path, tmp_path: Path) -> None:
    sources = Sources(None, PointSuite(), tasks=("right",), workers=0)
    with pytest.warns(UserWarning, match="tasks: right: meta-trained on as well"):
        method = MTRLTarget.create(MTRLTargetSettings(meta=str(meta)), sources, TRAINING)
    method._start()
    shared = finished_run("meta", meta, "mtrl")[1]["shared_actor"]
    assert all(torch.equal(own, shared[name]) for name, own in method.agents.actor.named_parameters())
    changes = ["training.device=cpu", "training.threads=1", "method.iterations=10", "method.batch_size=8"]
    changes += ["method.warmup_decisions=15", f"method.meta={meta}"]
    with pytest.warns(UserWarning, match="meta-trained on as well"):
        run = pipeline.train(
            None,
            tmp_path / "run",
            method="mtrl_ft",
            overrides=changes,
            suite="point_suite:PointSuite",
            tasks=["right"],
        )
    assert learning.episodes(run.path)["right"]
    options: dict[str, Any] = {"max_steps": 20, "workers": 0, "suite": PointSuite()}
    for path in (run.path, meta):
        assert evaluate(goskill.load_policy(path), ["right"], episodes=2, **options).overall.episodes == 2


def test_what_does_not_fit_is_named(meta: Path, tmp_path: Path) -> None:
    def refused(message: str, where: str, *changes: str) -> None:
        with pytest.raises(InputError, match=message):
            pipeline.train(None, tmp_path / "run", method="mtrl_ft", suite=where, overrides=list(changes))

    refused("meta: expected a run of mtrl, got none", "point_suite:PointSuite")
    refused("meta: .*expected a run of suite maze, got one of point_suite", "maze", f"method.meta={meta}")
    sources = Sources(None, PointSuite(), "elsewhere", PointSuite.tasks, 0)
    with pytest.raises(
        InputError, match=r"skills: .*expected a run of suite elsewhere, got one of point_suite"
    ):
        MTRL.create(MTRLSettings(**SMALL, skills=str(meta)), sources, TRAINING)
    with pytest.raises(InputError, match="tasks: expected different names, got"):
        MTRLSettings(tasks=("left", "left"))
    with pytest.raises(InputError, match=r"meta: expected a run of simpl, .* is one of mtrl"):
        pipeline.train(
            None,
            tmp_path / "run",
            method="simpl_ft",
            suite="point_suite:PointSuite",
            overrides=[f"method.meta={meta}"],
        )
