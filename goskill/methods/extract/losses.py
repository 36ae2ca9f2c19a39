"""What EXTRACT minimises: for skills (Eq. 2), for critics and for actors (Eq. 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.methods.extract.agents import ExtractAgents
from goskill.methods.extract.model import ExtractModel
from goskill.methods.sequence.losses import masked_mean
from goskill.methods.skill_rl.losses import soft_target
from goskill.training import Batch

LossAndMetrics = tuple[Tensor, dict[str, Tensor]]


class ExtractLoss(nn.Module):
    """A beta-VAE of segments that also tells progress, and both priors' likelihood, which changes no skill."""

    def __init__(self, model: ExtractModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> LossAndMetrics:
        """A batch of ``VariableSegmentSampler``, not normalised -> loss, metrics."""
        model, mask, choice, length = self.model, batch["mask"], batch["skill"], batch["length"]
        posterior = model.encoder(batch["actions"], choice, length)
        argument = posterior.sample()
        actions, progress = model.decoder(choice, argument)
        action_error = masked_mean((actions.float() - batch["actions"]).square().mean(-1), mask)
        steps = torch.arange(mask.shape[1], device=mask.device, dtype=progress.dtype)
        true_progress = steps / (length - 1).clamp(min=1)[:, None]
        progress_error = masked_mean((progress.float() - true_progress).square(), mask)
        divergence = posterior.divergence_from_standard().mean()
        log_choice, arguments = model.priors(batch["observations"][:, 0])
        choice_nll = F.nll_loss(log_choice, choice)
        rows = torch.arange(len(choice), device=choice.device)
        surprise = -arguments.log_density(argument.detach()[:, None])[rows, choice].mean()
        loss = 0.5 * action_error + progress_error + model.settings.beta * divergence + choice_nll + surprise
        metrics = {
            "action_error": action_error,
            "progress_error": progress_error,
            "divergence": divergence,
            "choice_nll": choice_nll,
            "argument_nll": surprise,
        }
        return loss, {name: value.detach() for name, value in metrics.items()}


class ExtractCriticLoss(nn.Module):
    """Squared error of the chosen skill's value, for both critics, against the smaller regularised target value."""

    def __init__(self, agents: ExtractAgents) -> None:
        super().__init__()
        self.agents = agents

    def forward(self, batch: Batch) -> LossAndMetrics:
        """Decisions [agents, B, ...], whose ``actions`` are skills -> loss, metrics."""
        agents, settings = self.agents, self.agents.settings
        with torch.no_grad():
            following = batch["next_observations"]
            future, _ = _regularised(agents, following, agents.target_critic)
            target = soft_target(batch, future, settings.reward_scale)
            target = target.clamp(-settings.largest_value, settings.largest_value)
        argument, choice = batch["actions"][..., :-1], batch["actions"][..., -1].long()
        values = agents.values(batch["observations"], argument)
        place = choice[:, None, :, None].expand(-1, 2, -1, 1)
        own = values.gather(-1, place)[..., 0]
        loss = (own - target[:, None]).square().mean(2).sum()
        return loss, {"value": own.mean(), "target": target.mean()}


class ExtractActorLoss(nn.Module):
    """Minus the regularised value, as an expectation over skills and one argument drawn for each."""

    def __init__(self, agents: ExtractAgents) -> None:
        super().__init__()
        self.agents = agents

    def forward(self, batch: Batch) -> LossAndMetrics:
        """Decisions [agents, B, ...] -> loss, metrics."""
        value, metrics = _regularised(self.agents, batch["observations"], None)
        return -value.mean(1).sum(), metrics


def _regularised(
    agents: ExtractAgents, observations: Tensor, critic: nn.Module | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The value of acting on, less both weighted divergences: [agents, B]."""
    settings, policy = agents.settings, agents.policy(observations)
    with torch.no_grad():
        log_prior, prior = agents.skills.priors(observations)
    of_choice, of_argument = policy.divergences(log_prior, prior)
    values = agents.values_of_each(observations, policy.argument.sample(), critic).amin(1)
    by_skill = values - settings.argument_temperature * of_argument
    share = policy.log_choice.exp()
    value = (share * by_skill).sum(-1) - settings.choice_temperature * of_choice
    metrics = {
        "choice_divergence": of_choice.mean(),
        "argument_divergence": (share * of_argument).sum(-1).mean(),
        "value": value.mean(),
    }
    return value, metrics
