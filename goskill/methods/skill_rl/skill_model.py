"""Skills as latent variables of short action sequences, and the prior that says which fit a state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from goskill.data import EpisodeStore
from goskill.methods.sequence.checking import loaded, naming_the_missing, normalize_in
from goskill.methods.skill_rl.settings import LARGEST_OBSERVATION, SkillSettings
from goskill.methods.store_method import normalize_of
from goskill.models import DiagonalNormal, EnsembleMLP, Normalize, mlp
from goskill.training.randomness import seeded


class SkillEncoder(nn.Module):
    """q(z | window): an LSTM over actions, and over states where the decoder sees them."""

    def __init__(self, settings: SkillSettings, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.sees_states = settings.decoder == "closed"
        inputs = action_dim + (observation_dim if self.sees_states else 0)
        self.lstm = nn.LSTM(inputs, settings.skill_width, batch_first=True)
        self.output = nn.Linear(settings.skill_width, 2 * settings.skill_dim)

    def forward(self, states: Tensor, actions: Tensor, length: Tensor) -> DiagonalNormal:
        """Normalised states [B, H, observation_dim], actions [B, H, action_dim], steps int64 [B] that count."""
        inputs = torch.cat([actions, states], -1) if self.sees_states else actions
        hidden, _ = self.lstm(inputs)
        last = hidden[torch.arange(len(hidden), device=hidden.device), length - 1]
        return DiagonalNormal.from_output(self.output(last))


class ClosedLoopDecoder(nn.Module):
    """The action from each state and the skill."""

    def __init__(self, settings: SkillSettings, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        hidden = [settings.skill_width] * settings.decoder_layers
        self.layers = mlp([observation_dim + settings.skill_dim, *hidden, action_dim], last=nn.Tanh)

    def forward(self, states: Tensor, skill: Tensor) -> Tensor:
        """Normalised states [..., observation_dim], skills [..., skill_dim] -> actions in [-1, 1]."""
        actions: Tensor = self.layers(torch.cat([states, skill], -1))
        return actions


class OpenLoopDecoder(nn.Module):
    """All actions of a skill at once: an LSTM that reads the skill at every step.

    Its state holds all that it has put out, so that it is autoregressive without being fed its own actions.
    """

    def __init__(self, settings: SkillSettings, action_dim: int) -> None:
        super().__init__()
        self.horizon = settings.horizon
        self.lstm = nn.LSTM(settings.skill_dim, settings.skill_width, batch_first=True)
        self.output = nn.Linear(settings.skill_width, action_dim)

    def forward(self, skill: Tensor) -> Tensor:
        """Skills [B, skill_dim] -> actions [B, H, action_dim] in [-1, 1]."""
        hidden, _ = self.lstm(skill[:, None].expand(-1, self.horizon, -1))
        return torch.tanh(self.output(hidden))


class SkillModel(nn.Module):
    """Skill encoder, decoder and prior; observations go in raw.

    Args:
        settings: of the skills.
        normalize: of observations.
        action_dim: size of an action.
    """

    def __init__(self, settings: SkillSettings, normalize: Normalize, action_dim: int) -> None:
        super().__init__()
        self.settings, self.normalize = settings, normalize
        self.observation_dim, self.action_dim = normalize.mean.numel(), action_dim
        self.encoder = SkillEncoder(settings, self.observation_dim, action_dim)
        self.decoder: ClosedLoopDecoder | OpenLoopDecoder
        if settings.decoder == "closed":
            self.decoder = ClosedLoopDecoder(settings, self.observation_dim, action_dim)
        else:
            self.decoder = OpenLoopDecoder(settings, action_dim)
        # One member, so that agents' actors, which begin as the prior, have its weights in the same shape.
        self.prior_network = EnsembleMLP(1, self.prior_sizes)

    @property
    def prior_sizes(self) -> list[int]:
        """Sizes of the prior's layers."""
        hidden = [self.settings.prior_width] * self.settings.prior_layers
        return [self.observation_dim, *hidden, 2 * self.settings.skill_dim]

    @property
    def horizon(self) -> int:
        """Steps of a skill."""
        return self.settings.horizon

    @property
    def skill_size(self) -> int:
        """Numbers that a skill is told by."""
        return self.settings.skill_dim

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Every network by name: what a checkpoint holds."""
        return {
            "normalize": self.normalize,
            "skill_encoder": self.encoder,
            "skill_decoder": self.decoder,
            "prior": self.prior_network,
        }

    def prior(self, observations: Tensor) -> DiagonalNormal:
        """p(z | s) for observations [..., observation_dim]."""
        flat = self.normalize(observations).reshape(-1, self.observation_dim)
        output = self.prior_network(flat)[0]
        return DiagonalNormal.from_output(output.view(*observations.shape[:-1], -1))

    def encode(self, observations: Tensor, actions: Tensor, length: Tensor) -> DiagonalNormal:
        """q(z | window) for observations [B, H, observation_dim], actions [B, H, action_dim], lengths int64 [B]."""
        posterior: DiagonalNormal = self.encoder(self.normalize(observations), actions, length)
        return posterior

    def decode(self, observations: Tensor, skill: Tensor) -> Tensor:
        """Actions [B, H, action_dim] for states [B, H, observation_dim] and skills [B, skill_dim]."""
        if isinstance(self.decoder, OpenLoopDecoder):
            planned: Tensor = self.decoder(skill)
            return planned
        every = skill[:, None].expand(-1, observations.shape[1], -1)
        actions: Tensor = self.decoder(self.normalize(observations), every)
        return actions

    def plan(self, skill: Tensor) -> tuple[Tensor, Tensor] | None:
        """All actions [N, H, action_dim] of skills [N, skill_dim], and H for each; None of the closed-loop decoder."""
        if not isinstance(self.decoder, OpenLoopDecoder):
            return None
        return self.decoder(skill), torch.full((len(skill),), self.horizon)

    def act(self, observations: Tensor, skill: Tensor) -> Tensor:
        """Actions [N, action_dim] of the closed-loop decoder for raw observations [N, observation_dim]."""
        actions: Tensor = self.decoder(self.normalize(observations), skill)
        return actions


def new_model(settings: SkillSettings, store: EpisodeStore, seed: int) -> SkillModel:
    """A new model, whose normalisation is that of all the store's episodes."""
    with seeded(seed):
        return SkillModel(settings, normalize_of(store, LARGEST_OBSERVATION), store.action_dim)


def model_from_state(settings: SkillSettings, state: Mapping[str, Mapping[str, Tensor]]) -> SkillModel:
    """The model of a checkpoint: ``state`` maps at least the names of ``SkillModel.parts`` to state dicts.

    Raises CheckpointError that names the network that is missing, or the key that does not fit.
    """
    last = f"layers.{2 * settings.decoder_layers}.bias" if settings.decoder == "closed" else "output.bias"
    with naming_the_missing():
        normalize = normalize_in(state, LARGEST_OBSERVATION)
        action_dim = len(state["skill_decoder"][last])
    model = SkillModel(settings, normalize, action_dim)
    return loaded(model, {name: value for name, value in state.items() if name in model.parts})
