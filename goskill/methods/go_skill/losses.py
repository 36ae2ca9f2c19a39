"""What GO-Skill minimises. Static shapes and no synchronisation: masks weigh, they never select."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goskill.methods.go_skill.networks import GoSkillNetworks
from goskill.methods.sequence.losses import masked_mean
from goskill.models import Decisions
from goskill.ops import focal_loss
from goskill.training import Batch, distributed

LossAndMetrics = tuple[Tensor, dict[str, Tensor]]


class SkillLoss(nn.Module):
    """Action reconstruction, and the VQ loss unless encoder and codebook are frozen (enhancement)."""

    def __init__(self, networks: GoSkillNetworks, frozen: bool, told: Tensor | None = None) -> None:
        """``told`` [tasks of the store, told tasks]: what ``GoSkillNetworks.told`` says of each; None: nothing."""
        super().__init__()
        self.networks = networks
        self.frozen = frozen
        self.told = told

    def forward(self, batch: Batch) -> LossAndMetrics:
        """A batch of ``SegmentSampler``, not normalised -> loss, metrics."""
        networks = self.networks
        actions, mask = batch["actions"], batch["mask"]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            window = networks.read_window(batch["observations"], actions)
            skill, index, vq_loss = networks.quantize(window.embedding, self.frozen)
        shown = index
        if self.frozen and index is not None and networks.settings.skill_noise:
            shown = some_swapped(index, batch["task"], networks.settings.skill_noise)
            skill = networks.vectors(shown)
        states = window.observations
        if self.told is not None:
            states = networks.decoder_states(states, self.told.index_select(0, batch["task"]))
        predicted = networks.decoder(skill, shown, window.reached, states, actions)
        error = masked_mean((predicted - actions).square().mean(-1), mask)  # in float32, as actions are
        loss = error * actions.shape[-1] if networks.settings.action_loss == "sum" else error
        metrics = {"action_error": error.detach()}
        # Enhancement's batches have as many windows of each skill: their codes' use says nothing of learning.
        if index is not None and not self.frozen:
            share = usage(index, networks.settings.codebook_size)
            metrics["usage"] = share
            metrics["perplexity"] = perplexity(share)
            metrics["dead_codes"] = (share == 0).sum(dtype=torch.float32)
        if not self.frozen and networks.settings.discrete:
            loss = loss + vq_loss
            metrics["vq_loss"] = vq_loss.detach()
        return loss, metrics


class PolicyLoss(nn.Module):
    """Focal loss or cross-entropy of the skills at decision points; squared error if continuous."""

    def __init__(self, networks: GoSkillNetworks) -> None:
        super().__init__()
        self.networks = networks

    def forward(self, batch: Batch) -> LossAndMetrics:
        """A batch of ``ContextSampler``, not normalised -> loss, metrics.

        ``skills`` are labels int64 [B, K], or embeddings float32 [B, K, E] for continuous skills.
        """
        networks, settings = self.networks, self.networks.settings
        skills, mask = batch["skills"], batch["mask"]
        prompt = decisions(networks, batch, "prompt_") if settings.prompt_length else None
        scores = networks.policy(decisions(networks, batch), prompt)
        if not settings.discrete:
            error = masked_mean((scores.float() - skills).square().mean(-1), mask)
            return error, {"embedding_error": error.detach()}
        gamma = settings.focal_gamma if settings.policy_loss == "focal" else 0.0
        total = focal_loss(scores.transpose(1, 2), skills, gamma=gamma, mask=mask, reduction="sum")
        loss = distributed.global_mean(total, mask.sum())
        return loss, choice_statistics(scores.detach(), skills, mask, gamma)


def choice_statistics(scores: Tensor, skills: Tensor, mask: Tensor, gamma: float) -> dict[str, Tensor]:
    """Where ``mask`` [B, K] is True: how well logits [B, K, M] know ``skills`` [B, K], and what focal loss makes of it.

    ``accuracy``; mean ``true_probability`` of the true skill; ``easy_share``, where it is above one half; mean
    ``focal_weight`` (1 - p)^gamma, 1 in cross-entropy.
    """
    probability = scores.float().softmax(-1).gather(-1, skills[..., None])[..., 0]
    statistics = {
        "accuracy": scores.argmax(-1) == skills,
        "true_probability": probability,
        "easy_share": probability > 0.5,
        "focal_weight": (1 - probability) ** gamma,
    }
    each = torch.stack([values.float() for values in statistics.values()])
    totals = torch.where(mask, each, 0.0).sum((1, 2))
    return dict(zip(statistics, distributed.global_mean(totals, mask.sum()), strict=True))


def decisions(networks: GoSkillNetworks, batch: Batch, prefix: str = "") -> Decisions:
    """The history (or with ``prefix`` the prompt) of a batch of ``ContextSampler`` as the policy takes it."""
    return Decisions(
        returns_to_go=batch[f"{prefix}returns_to_go"],
        observations=networks.normalize(batch[f"{prefix}observations"]),
        choices=networks.policy_input(batch[f"{prefix}skills"]),
        timesteps=batch[f"{prefix}timesteps"],
        mask=batch[f"{prefix}mask"],
    )


def some_swapped(index: Tensor, task: Tensor, share: float) -> Tensor:
    """Skills int64 [B] of which a ``share`` (in the mean) is that of a random row of the same task [B]."""
    others = torch.rand(len(task), len(task), device=index.device)
    other = (others * (task[:, None] == task)).argmax(1)
    return torch.where(torch.rand(index.shape, device=index.device) < share, index[other], index)


def usage(index: Tensor, count: int) -> Tensor:
    """The share [count] of each of ``count`` classes in ``index``, over the batches of all ranks."""
    classes = torch.arange(count, device=index.device)
    return distributed.average((index.flatten()[:, None] == classes).float().mean(0))


def perplexity(share: Tensor) -> Tensor:
    """exp of the entropy of shares [count] that sum to 1: from 1 to count."""
    return torch.exp(-torch.special.xlogy(share, share).sum())
