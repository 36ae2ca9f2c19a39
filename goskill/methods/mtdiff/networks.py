"""The network of MTDIFF-P: which noise is in a plan, behind a demonstration and the latest observations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from goskill.methods.mtdiff.diffusion import Diffusion
from goskill.methods.mtdiff.settings import OBSERVATIONS, MTDiffSettings
from goskill.methods.sequence.checking import loaded, naming_the_missing, normalize_in
from goskill.models import CausalTransformer, KeyValueCache, Normalize

CONDITIONS = 2  # tokens before the prompt: the diffusion step and the return


class Denoiser(nn.Module):
    """Noise in plans, read by a causal transformer at their tokens.

    Tokens are the diffusion step, the return, the prompt's steps, the latest observations, and the noisy actions. Each
    is multiplied by the embedding of the diffusion step, and that of the return is added to it, as released.
    """

    rates: Tensor  # of the sines that embed a diffusion step

    def __init__(self, settings: MTDiffSettings, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        width, self.plan = settings.width, settings.plan
        self.prefix = CONDITIONS + settings.prompt_length  # tokens that do not change from plan to plan
        self.tokens = self.prefix + OBSERVATIONS + settings.plan
        self.time = nn.Sequential(nn.Linear(width, 2 * width), nn.Mish(), nn.Linear(2 * width, width))
        self.wanted = _perceptron(1, width, 2 * width, width)
        size = observation_dim + action_dim
        self.prompt = nn.Sequential(nn.LayerNorm(size), _perceptron(size, 2 * width, 4 * width, width))
        self.state = nn.Sequential(
            nn.LayerNorm(observation_dim), _perceptron(observation_dim, 2 * width, 4 * width, width)
        )
        self.action = nn.Linear(action_dim, width)
        self.position = nn.Parameter(torch.zeros(self.tokens, width))
        self.embedding_norm = nn.LayerNorm(width)
        self.transformer = CausalTransformer(width, settings.layers, settings.heads, settings.dropout)
        self.noise = nn.Linear(width, action_dim)
        half = width // 2
        rates = torch.exp(-math.log(10_000) / (half - 1 or 1) * torch.arange(half))
        self.register_buffer("rates", rates, persistent=False)
        self.diffusion = Diffusion(settings.diffusion_steps, settings.beta_min, settings.beta_max)

    def forward(self, plans: Tensor, step: Tensor, wanted: Tensor, prompt: Tensor, states: Tensor) -> Tensor:
        """Noise [B, plan, action_dim].

        Args:
            plans: noisy actions [B, plan, action_dim].
            step: of the diffusion, int64 [B].
            wanted: [B, width], the embedded return (:meth:`embed_return`).
            prompt: [B, prompt_length, width], an embedded demonstration.
            states: [B, 2, width], the embedded latest observations.
        """
        time = self.embed_step(step)
        tokens = torch.cat([time[:, None], wanted[:, None], prompt, states, self.action(plans)], dim=1)
        hidden = self.transformer(self._conditioned(tokens, time, wanted, 0), slice(-self.plan, None))
        noise: Tensor = self.noise(hidden)
        return noise

    def read_prefix(self, time: Tensor, wanted: Tensor, prompt: Tensor) -> KeyValueCache:
        """Keys and values of all tokens up to the prompt's end, at a diffusion step embedded as ``time`` [1, width]."""
        time = time.expand(len(prompt), -1)
        tokens = torch.cat([time[:, None], wanted[:, None], prompt], dim=1)
        cache = self.transformer.new_cache(len(tokens), self.prefix)
        self.transformer.extend(self._conditioned(tokens, time, wanted, 0), cache)
        return cache

    def after_prefix(
        self, plans: Tensor, time: Tensor, wanted: Tensor, states: Tensor, cache: KeyValueCache
    ) -> Tensor:
        """As ``forward``, where ``cache`` holds what :meth:`read_prefix` read at ``time``.

        ``plans`` may be the first actions only: what follows does not change their noise.
        """
        tokens = torch.cat([states, self.action(plans)], dim=1)
        conditioned = self._conditioned(tokens, time, wanted, self.prefix)
        hidden = self.transformer.extend(conditioned, cache)[:, OBSERVATIONS:]
        noise: Tensor = self.noise(hidden)
        return noise

    def embed_step(self, step: Tensor) -> Tensor:
        """int64 [B] -> [B, width]."""
        angles = step[:, None] * self.rates
        time: Tensor = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        return time

    def embed_return(self, value: Tensor, told: Tensor) -> Tensor:
        """Mean rewards [B, 1] where ``told`` [B, 1] is 1, nothing where it is 0 -> [B, width]."""
        wanted: Tensor = self.wanted(value)
        return wanted * told

    def _conditioned(self, tokens: Tensor, time: Tensor, wanted: Tensor, first: int) -> Tensor:
        position = self.position[first : first + tokens.shape[1]]
        normal: Tensor = self.embedding_norm(time[:, None] * tokens + wanted[:, None] + position)
        return normal


class MTDiffNetworks(nn.Module):
    """Normalisation, the diffusion and its network. Observations go in raw, in the store's units."""

    def __init__(self, settings: MTDiffSettings, normalize: Normalize, action_dim: int) -> None:
        super().__init__()
        self.settings = settings
        self.observation_dim = normalize.mean.numel()
        self.action_dim = action_dim
        self.normalize = normalize
        self.denoiser = Denoiser(settings, self.observation_dim, action_dim)

    @property
    def diffusion(self) -> Diffusion:
        """A part of the denoiser, so that it follows it to a device."""
        return self.denoiser.diffusion

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Every network by name: what a checkpoint holds."""
        return {"normalize": self.normalize, "denoiser": self.denoiser}

    def embed_prompt(self, observations: Tensor, actions: Tensor, mask: Tensor | None) -> Tensor:
        """Raw observations and actions [B, prompt_length, ...] -> [B, prompt_length, width]; padding is zero."""
        rows = torch.cat([self.normalize(observations), actions], dim=-1)
        if mask is not None:
            rows = rows * mask[..., None]
        prompt: Tensor = self.denoiser.prompt(rows)
        return prompt

    def embed_states(self, observations: Tensor, mask: Tensor | None = None) -> Tensor:
        """Raw observations [B, 2, observation_dim], the latest last -> [B, 2, width]; padding is zero."""
        rows = self.normalize(observations)
        if mask is not None:
            rows = rows * mask[..., None]
        states: Tensor = self.denoiser.state(rows)
        return states


def networks_from_state(
    settings: MTDiffSettings, state: Mapping[str, Mapping[str, Tensor]]
) -> MTDiffNetworks:
    """The networks of a checkpoint. Raises CheckpointError that names what is missing, unexpected or misshapen."""
    with naming_the_missing():
        action_dim = state["denoiser"]["action.weight"].shape[1]
        normalize = normalize_in(state)
    return loaded(MTDiffNetworks(settings, normalize, action_dim), state)


def _perceptron(*sizes: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for here, there in pairwise(sizes):
        parts += [nn.Linear(here, there), nn.Mish()]
    return nn.Sequential(*parts[:-1])
