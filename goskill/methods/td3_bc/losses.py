"""What TD3+BC minimises, on batches of ``goskill.data.TransitionSampler``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goskill.methods.td3_bc.networks import TD3BCNetworks
from goskill.training import Batch

LossAndMetrics = tuple[Tensor, dict[str, Tensor]]


class TD3CriticLoss(nn.Module):
    """Squared error of both critics against the smaller target value of a smoothed target action (TD3, Eq. 14)."""

    def __init__(self, networks: TD3BCNetworks, task_index: Tensor | None) -> None:
        super().__init__()
        self.networks, self.task_index = networks, task_index

    def forward(self, batch: Batch) -> LossAndMetrics:
        """Transitions, not normalised -> loss, metrics."""
        networks, settings = self.networks, self.networks.settings
        task = places(self.task_index, batch)
        with torch.no_grad():
            following = networks.inputs(batch["next_observations"], task)
            noise = (torch.randn_like(batch["actions"]) * settings.policy_noise).clamp(
                -settings.noise_clip, settings.noise_clip
            )
            action = (networks.act(following, networks.target_actor) + noise).clamp(-1, 1)
            future = networks.values(following, action, networks.target_critic).amin(0)
            goes_on = batch["discount"] * (~batch["terminated"]).to(future.dtype)
            target = settings.reward_scale * batch["rewards"] + goes_on * future
        values = networks.values(networks.inputs(batch["observations"], task), batch["actions"])
        loss = (values - target).square().mean(1).sum(0)
        return loss, {"value": values.mean(), "target": target.mean()}


class TD3BCActorLoss(nn.Module):
    """Distance of the actor's actions to the data's, less their value over its mean absolute value (TD3+BC, Eq. 5)."""

    def __init__(self, networks: TD3BCNetworks, task_index: Tensor | None) -> None:
        super().__init__()
        self.networks, self.task_index = networks, task_index

    def forward(self, batch: Batch) -> LossAndMetrics:
        """Transitions, not normalised -> loss, metrics."""
        networks = self.networks
        states = networks.inputs(batch["observations"], places(self.task_index, batch))
        actions = networks.act(states)
        value = networks.values(states, actions)[0]
        error = (actions - batch["actions"]).square().mean()
        scale = networks.settings.alpha / value.abs().mean().detach().clamp(min=1e-6)
        return error - scale * value.mean(), {"action_error": error, "value": value.mean()}


def places(task_index: Tensor | None, batch: Batch) -> Tensor | None:
    """Where the networks keep the task of each row; None if they are not told it."""
    return None if task_index is None else task_index.index_select(0, batch["task"])
