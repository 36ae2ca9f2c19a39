"""What an agent decides on: skills that are learned already, near their prior, or the actions of single steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.methods.simpl.settings import EmbeddingSettings, TaskSettings
from goskill.methods.skill_rl import SkillModel
from goskill.models import DiagonalNormal, Normalize, SquashedNormal
from goskill.models.normal import LOG_STD_MAX, LOG_STD_MIN


class DecisionDistribution(Protocol):
    """Distributions of decisions [..., size]."""

    @property
    def mean(self) -> Tensor:
        """Those to make without exploring."""

    def sample(self) -> Tensor:
        """Decisions drawn by torch's generator."""

    def at(self, noise: Tensor) -> Tensor:
        """The decisions that standard normal ``noise`` [..., size] leads to."""

    def sample_with_cost(self) -> tuple[Tensor, Tensor]:
        """Reparameterised decisions, and what the temperature weights [...], in nats."""

    def sample_for_target(self) -> tuple[Tensor, Tensor]:
        """The same with as much of the cost as counts in targets of critics."""


@dataclass(frozen=True)
class GuidedSkills:
    """Skills, whose cost is the divergence of ``policy`` from their ``prior``; in targets it is at most ``most``."""

    policy: DiagonalNormal
    prior: DiagonalNormal
    most: float | None = None

    @property
    def mean(self) -> Tensor:
        """The policy's mean."""
        return self.policy.mean

    def sample(self) -> Tensor:
        """Skills drawn from the policy."""
        return self.policy.sample()

    def at(self, noise: Tensor) -> Tensor:
        """Mean and scaled noise."""
        return self.policy.at(noise)

    def divergence(self) -> Tensor:
        """KL(policy || prior) in nats: [...]."""
        return self.policy.divergence(self.prior)

    def sample_with_cost(self) -> tuple[Tensor, Tensor]:
        """Skills, and the divergence."""
        return self.policy.sample(), self.divergence()

    def sample_for_target(self) -> tuple[Tensor, Tensor]:
        """Skills, and the divergence up to ``most``."""
        skill, cost = self.sample_with_cost()
        return skill, cost if self.most is None else cost.clamp(max=self.most)


@dataclass(frozen=True)
class FreeActions:
    """Actions, whose cost is their log density: minus the entropy of soft actor-critic."""

    policy: SquashedNormal

    @property
    def mean(self) -> Tensor:
        """The squashed mean."""
        return self.policy.mode()

    def sample(self) -> Tensor:
        """Actions drawn from the policy."""
        return self.policy.sample()[0]

    def at(self, noise: Tensor) -> Tensor:
        """Mean and scaled noise, squashed."""
        return self.policy.at(noise)

    def sample_with_cost(self) -> tuple[Tensor, Tensor]:
        """Actions, and their log densities."""
        return self.policy.sample()

    def sample_for_target(self) -> tuple[Tensor, Tensor]:
        """Actions, and their log densities."""
        return self.sample_with_cost()


class SingleActions(nn.Module):
    """Skills of one step, each of which is the action; observations stay raw."""

    horizon = 1

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.observation_dim, self.action_dim = observation_dim, action_dim
        self.normalize = Normalize(torch.zeros(observation_dim), torch.ones(observation_dim))

    @property
    def skill_size(self) -> int:
        """Numbers of an action."""
        return self.action_dim

    @property
    def parts(self) -> dict[str, nn.Module]:
        """What follows the networks to their device; nothing is learned."""
        return {"normalize": self.normalize}

    def plan(self, skill: Tensor) -> tuple[Tensor, Tensor] | None:
        """The action [N, 1, action_dim] is known at once."""
        return skill[:, None], torch.ones(len(skill), dtype=torch.int64)

    def act(self, observations: Tensor, skill: Tensor) -> Tensor:
        """The action itself."""
        return skill


def decisions(
    skills: SkillModel | SingleActions, observations: Tensor, output: Tensor, settings: EmbeddingSettings
) -> DecisionDistribution:
    """What a policy network's ``output`` [..., 2 size] means at observations [..., observation_dim]."""
    if isinstance(skills, SingleActions):
        return FreeActions(SquashedNormal.from_output(output.float()))
    assert isinstance(settings, TaskSettings)
    with torch.no_grad():
        prior = skills.prior(observations)
    policy = add_residual(prior, output, settings.scale_residual)
    return GuidedSkills(policy, prior, settings.divergence_clip)


def add_residual(prior: DiagonalNormal, output: Tensor, scale: str) -> DiagonalNormal:
    """The prior's parameters and a network's output [..., 2 skill_dim] added up, as ``scale_residual`` says."""
    mean, residual = output.float().chunk(2, dim=-1)
    if scale == "softplus":
        before = prior.log_std.exp().clamp(min=math.exp(LOG_STD_MIN)).expm1().log()
        log_std = F.softplus(before + residual).log()
    else:
        log_std = prior.log_std + residual
    return DiagonalNormal(prior.mean + mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX))
