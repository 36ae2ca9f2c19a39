"""Encoders and decoders of skills and tasks on one latent space, and the actor-critic that is told the latent."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.methods.sequence.checking import loaded, naming_the_missing, normalize_in
from goskill.methods.srtd.settings import SRTDSettings
from goskill.methods.td3_bc.networks import TD3BCNetworks
from goskill.models import Normalize
from goskill.models.ensemble import mlp


class SRTDNetworks(nn.Module):
    """Networks on normalised states; :meth:`act` takes raw ones. S, A and D are sizes of states, actions, latents."""

    def __init__(self, settings: SRTDSettings, normalize: Normalize, action_dim: int) -> None:
        super().__init__()
        self.settings = settings
        self.observation_dim, self.action_dim = normalize.mean.numel(), action_dim
        state, latent, n = self.observation_dim, settings.latent, settings.history
        self.step_size = action_dim + state + 1  # of what a task's latent is encoded from, per step
        skill = [settings.skill_width] * settings.skill_layers
        task = [settings.task_width] * settings.task_layers
        self.normalize = normalize
        self.skill_encoder = _he(mlp([2 * n * (state + action_dim), *skill, latent]))
        self.skill_decoder = _he(mlp([state + latent, *skill, action_dim]))
        self.task_encoder = _he(mlp([n * self.step_size, *task, latent]))
        self.task_decoder = _he(mlp([state + action_dim + latent, *task, state + 1]))
        self.learner = TD3BCNetworks(settings.learner(), _WithLatents(normalize, latent), action_dim)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Every network by name: what a checkpoint holds."""
        return {**self.decomposition, **self.learner.parts, "normalize": self.normalize}

    @property
    def decomposition(self) -> dict[str, nn.Module]:
        """The encoders and decoders by name."""
        names = ("skill_encoder", "skill_decoder", "task_encoder", "task_decoder")
        return {name: self.get_submodule(name) for name in names}

    def encode_skill(self, states: Tensor, actions: Tensor) -> Tensor:
        """2n steps [B, 2n, S] and [B, 2n, A], zero outside of the episode -> [B, D]."""
        latents: Tensor = self.skill_encoder(torch.cat([states, actions], -1).flatten(1))
        return latents.float()

    def decode_skill(self, states: Tensor, latents: Tensor) -> Tensor:
        """[..., S], [..., D] -> actions [..., A], not clipped."""
        actions: Tensor = self.skill_decoder(torch.cat([states, latents], -1))
        return actions.float()

    def encode_task(self, steps: Tensor) -> Tensor:
        """The last n steps (a, s', r) as [B, n, A + S + 1], oldest first, zero before the episode -> [B, D]."""
        latents: Tensor = self.task_encoder(steps.flatten(1))
        return latents.float()

    def decode_task(self, states: Tensor, actions: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """[..., S], [..., A], [..., D] -> next states [..., S], rewards [...]. The network gives the change."""
        change = self.task_decoder(torch.cat([states, actions, latents], -1)).float()
        return states + change[..., :-1], change[..., -1]

    def act(self, observations: Tensor, steps: Tensor) -> Tensor:
        """Actions [B, A] in [-1, 1] for raw observations [B, S] and the last n steps as :meth:`encode_task`'s."""
        actions: Tensor = self.learner(torch.cat([observations, self.encode_task(steps)], -1), None)
        return actions


class _WithLatents(Normalize):
    """Normalises states [..., S] and leaves the latents [..., D] behind them. Has no numbers of its own: they follow
    those of the states to a device.
    """

    def __init__(self, states: Normalize, latent: int) -> None:
        nn.Module.__init__(self)
        self.states, self.latent, self.limit = states, latent, None

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        return F.pad(self.states.mean, (0, self.latent))

    @property
    def std(self) -> Tensor:  # type: ignore[override]
        return F.pad(self.states.std, (0, self.latent), value=1.0)


def _he(network: nn.Sequential) -> nn.Sequential:
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return network


def networks_from_state(settings: SRTDSettings, state: Mapping[str, Mapping[str, Tensor]]) -> SRTDNetworks:
    """The networks of a checkpoint: ``state`` maps the names of ``SRTDNetworks.parts`` to state dicts.

    Raises CheckpointError that names the network that is missing or unexpected, or the key that does not fit.
    """
    with naming_the_missing():
        action_dim = len(state["skill_decoder"][f"{2 * settings.skill_layers}.bias"])
        normalize = normalize_in(state)
    return loaded(SRTDNetworks(settings, normalize, action_dim), state)
