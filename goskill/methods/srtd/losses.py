"""What the decomposition minimises, on windows of ``goskill.data.TransitionSampler(window=(n + 1, n))``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from goskill.methods.srtd.networks import SRTDNetworks
from goskill.methods.srtd.settings import SRTDSettings
from goskill.training import Batch

LossAndMetrics = tuple[Tensor, dict[str, Tensor]]


class SRTDWindow(NamedTuple):
    """2n steps around t, the n before it first; zero outside of the episode."""

    states: Tensor  # [B, 2n + 1, S], normalised
    actions: Tensor  # [B, 2n, A]
    rewards: Tensor  # [B, 2n], as the settings want them
    mask: Tensor  # float [B, 2n]

    @classmethod
    def of(cls, batch: Batch, settings: SRTDSettings) -> SRTDWindow:
        """The window of a batch, which has one step more at its beginning."""
        rewards = settings.reward_scale * batch["window_rewards"]
        own = rewards[:, 1:]
        if settings.rewards == "differences":
            own = own - rewards[:, :-1]
        mask = batch["window_mask"][:, 1:].float()
        return cls(batch["window_observations"][:, 1:], batch["window_actions"][:, 1:], own * mask, mask)

    def history(self, n: int) -> Tensor:
        """The n steps before t as [B, n, A + S + 1]."""
        states = self.states[:, 1 : n + 1] * self.mask[:, :n, None]
        return torch.cat([self.actions[:, :n], states, self.rewards[:, :n, None]], -1)

    def skill(self) -> tuple[Tensor, Tensor]:
        """States and actions of all steps, as ``SRTDNetworks.encode_skill`` takes them."""
        return self.states[:, :-1] * self.mask[..., None], self.actions


def discrepancy(samples: Tensor, prior: Tensor) -> Tensor:
    """The maximum mean discrepancy of two sets [B, D], unbiased, with k(x, y) = C / (C + |x - y|²), C = 4 D.

    Eq. 2, whose last term is printed without the factor 2 that makes it a discrepancy.
    """
    count, scale = len(samples), 4.0 * samples.shape[1]

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
        return scale / (scale + squares.clamp(min=0))

    with torch.autocast(samples.device.type, enabled=False):
        samples, prior = samples.to(prior.dtype), prior
        # Each sample's kernel with itself is 1.
        own = kernel(samples, samples).sum() + kernel(prior, prior).sum() - 2 * count
        return own / (count * (count - 1)) - 2 * kernel(samples, prior).mean()


class SRTDSkillLoss(nn.Module):
    """Squared error of the actions of a window, decoded from its latent, and the latents' discrepancy (Eq. 1)."""

    def __init__(self, networks: SRTDNetworks) -> None:
        super().__init__()
        self.networks = networks

    def forward(self, batch: Batch) -> LossAndMetrics:
        """A batch of windows -> loss, metrics."""
        networks, settings = self.networks, self.networks.settings
        window = SRTDWindow.of(batch, settings)
        states, actions = window.skill()
        latents = networks.encode_skill(states, actions)
        spread = latents[:, None].expand(-1, states.shape[1], -1)
        errors = (networks.decode_skill(states, spread) - actions).square().sum(-1) * window.mask
        error = errors.sum(1).mean()
        prior = discrepancy(latents, torch.randn_like(latents))
        return error + settings.prior_weight * prior, {"action_error": error, "discrepancy": prior}


class SRTDTaskLoss(nn.Module):
    """Eq. 5: squared error of the next states and rewards of t - n ... t, decoded from the task's latent (Eq. 3), the
    latents' discrepancy, and their distance to the skill's, weighted by the quality of the episode (Eq. 4).

    ``quality`` float [episodes of the store], not negative.
    """

    quality: Tensor

    def __init__(self, networks: SRTDNetworks, quality: Tensor) -> None:
        super().__init__()
        self.networks = networks
        self.register_buffer("quality", quality, persistent=False)

    def forward(self, batch: Batch) -> LossAndMetrics:
        """A batch of windows -> loss, metrics."""
        networks, settings = self.networks, self.networks.settings
        n = settings.history
        window = SRTDWindow.of(batch, settings)
        latents = networks.encode_task(window.history(n))
        spread = latents[:, None].expand(-1, n + 1, -1)
        following, rewards = networks.decode_task(
            window.states[:, : n + 1], window.actions[:, : n + 1], spread
        )
        mask = window.mask[:, : n + 1]
        state_error = ((following - window.states[:, 1 : n + 2]).square().sum(-1) * mask).sum(1).mean()
        reward_error = ((rewards - window.rewards[:, : n + 1]).square() * mask).sum(1).mean()
        prior = discrepancy(latents, torch.randn_like(latents))
        loss = state_error + reward_error + settings.prior_weight * prior
        metrics = {"state_error": state_error, "reward_error": reward_error, "discrepancy": prior}
        if settings.skill_regularization:
            with torch.no_grad():
                skills = networks.encode_skill(*window.skill())
            squares = (latents - skills).square().sum(1)
            weights = self.quality.index_select(0, batch["episode"])
            loss = loss + settings.skill_regularization * (weights * squares).mean()
            metrics["distance"] = squares.mean()
        return loss, metrics
