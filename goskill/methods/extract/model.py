"""Skills of any length: a choice of one of K, and a continuous argument."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.methods.extract.settings import ExtractSettings
from goskill.methods.sequence.checking import loaded, naming_the_missing, normalize_in
from goskill.methods.skill_rl.settings import LARGEST_OBSERVATION
from goskill.models import DiagonalNormal, EnsembleMLP, Normalize


class SegmentEncoder(nn.Module):
    """q(z | actions, d): an LSTM over the actions of a segment, and its skill."""

    def __init__(self, settings: ExtractSettings, action_dim: int) -> None:
        super().__init__()
        self.clusters = settings.clusters
        self.lstm = nn.LSTM(action_dim + settings.clusters, settings.skill_width, batch_first=True)
        self.output = nn.Linear(settings.skill_width, 2 * settings.argument_dim)

    def forward(self, actions: Tensor, choice: Tensor, length: Tensor) -> DiagonalNormal:
        """Actions [B, L, action_dim], skills int64 [B], steps int64 [B] that count."""
        told = F.one_hot(choice, self.clusters).to(actions.dtype)[:, None].expand(-1, actions.shape[1], -1)
        hidden, _ = self.lstm(torch.cat([actions, told], -1))
        last = hidden[torch.arange(len(hidden), device=hidden.device), length - 1]
        return DiagonalNormal.from_output(self.output(last))


class SegmentDecoder(nn.Module):
    """All actions of a skill, and how far each is in it: an LSTM that reads skill and argument at every step."""

    def __init__(self, settings: ExtractSettings, action_dim: int) -> None:
        super().__init__()
        self.clusters, self.longest = settings.clusters, settings.longest
        self.lstm = nn.LSTM(settings.argument_dim + settings.clusters, settings.skill_width, batch_first=True)
        self.output = nn.Linear(settings.skill_width, action_dim + 1)

    def forward(self, choice: Tensor, argument: Tensor) -> tuple[Tensor, Tensor]:
        """Skills int64 [B], arguments [B, argument_dim] -> actions [B, L, action_dim] in [-1, 1], progress [B, L]."""
        told = torch.cat([argument, F.one_hot(choice, self.clusters).to(argument.dtype)], -1)
        hidden, _ = self.lstm(told[:, None].expand(-1, self.longest, -1))
        output = self.output(hidden)
        return torch.tanh(output[..., :-1]), output[..., -1]


class ExtractModel(nn.Module):
    """Encoder, decoder and both priors; observations go in raw.

    A skill is told by ``argument_dim`` numbers and the number of its choice: [..., argument_dim + 1].
    """

    def __init__(self, settings: ExtractSettings, normalize: Normalize, action_dim: int) -> None:
        super().__init__()
        self.settings, self.normalize = settings, normalize
        self.observation_dim, self.action_dim = normalize.mean.numel(), action_dim
        self.encoder = SegmentEncoder(settings, action_dim)
        self.decoder = SegmentDecoder(settings, action_dim)
        # One member each, so that agents' actors, which begin as the priors, have their weights in the same shapes.
        self.choice_prior = EnsembleMLP(1, self.sizes(settings.clusters))
        self.argument_prior = EnsembleMLP(1, self.sizes(2 * settings.clusters * settings.argument_dim))

    def sizes(self, outputs: int) -> list[int]:
        """Sizes of a prior's layers."""
        return [self.observation_dim, *[self.settings.prior_width] * self.settings.prior_layers, outputs]

    @property
    def horizon(self) -> int:
        """Steps of the longest skill."""
        return self.settings.longest

    @property
    def skill_size(self) -> int:
        """Numbers that a skill is told by."""
        return self.settings.argument_dim + 1

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Every network by name: what a checkpoint holds."""
        return {
            "normalize": self.normalize,
            "segment_encoder": self.encoder,
            "segment_decoder": self.decoder,
            "choice_prior": self.choice_prior,
            "argument_prior": self.argument_prior,
        }

    def arguments(self, output: Tensor) -> DiagonalNormal:
        """The distribution of each skill's argument, [..., K, argument_dim], from a network's output."""
        return DiagonalNormal.from_output(output.reshape(*output.shape[:-1], self.settings.clusters, -1))

    def priors(self, observations: Tensor) -> tuple[Tensor, DiagonalNormal]:
        """log p(d | s), [..., K], and p(z | s, d), [..., K, argument_dim], for observations [..., observation_dim]."""
        flat = self.normalize(observations).reshape(-1, self.observation_dim)
        shape = observations.shape[:-1]
        choice = self.choice_prior(flat)[0].float().log_softmax(-1).view(*shape, -1)
        return choice, self.arguments(self.argument_prior(flat)[0].view(*shape, -1))

    def plan(self, skill: Tensor) -> tuple[Tensor, Tensor]:
        """All actions [N, L, action_dim] of skills [N, argument_dim + 1], and how many until the progress is whole."""
        actions, progress = self.decoder(skill[:, -1].long(), skill[:, :-1])
        over = progress >= self.settings.finished_at
        over[:, -1] = True
        return actions, over.int().argmax(1) + 1

    def act(self, observations: Tensor, skill: Tensor) -> Tensor:
        """Never asked: every skill has a plan."""
        raise NotImplementedError("skills of EXTRACT are planned")


def model_from_state(settings: ExtractSettings, state: Mapping[str, Mapping[str, Tensor]]) -> ExtractModel:
    """The model of a checkpoint: ``state`` maps at least the names of ``ExtractModel.parts`` to state dicts.

    Raises CheckpointError that names the network that is missing, or the key that does not fit.
    """
    with naming_the_missing():
        normalize = normalize_in(state, LARGEST_OBSERVATION)
        action_dim = len(state["segment_decoder"]["output.bias"]) - 1
    model = ExtractModel(settings, normalize, action_dim)
    return loaded(model, {name: value for name, value in state.items() if name in model.parts})
