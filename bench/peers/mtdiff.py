"""MTDIFF-P's acting the plain way of its release: the prompt embedded and read anew in each of two passes a step.

All tokens pass all layers, and attention is written out, with a causal mask and one of the tokens.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from goskill.methods.mtdiff import MTDiffNetworks
from goskill.methods.mtdiff.networks import Denoiser
from goskill.models import CausalTransformer


@torch.inference_mode()
def plan(
    networks: MTDiffNetworks,
    prompt_observations: Tensor,
    prompt_actions: Tensor,
    observations: Tensor,
    mean_reward: Tensor,
    noise: Tensor,
) -> Tensor:
    """Plans [B, plan, action_dim].

    ``prompt_...`` [B, prompt_length, ...], ``observations`` [B, 2, observation_dim], all raw, ``mean_reward`` [B, 1]
    scaled, ``noise`` [B, 1 + diffusion steps, plan, action_dim].
    """
    settings, denoiser, diffusion = networks.settings, networks.denoiser, networks.diffusion
    visited = diffusion.sampling_steps(settings.sampling_steps)
    x = noise[:, 0]
    for index, (step, to) in enumerate(zip(visited, [*visited[1:], -1], strict=True)):
        predicted = []
        for told in (torch.ones_like(mean_reward), torch.zeros_like(mean_reward)):
            prompt = networks.embed_prompt(prompt_observations, prompt_actions, None)
            states = networks.embed_states(observations)
            wanted = denoiser.embed_return(mean_reward, told)
            at = torch.full((len(x),), step)
            predicted.append(_noise(denoiser, x, at, wanted, prompt, states))
        guided = predicted[1] + settings.guidance * (predicted[0] - predicted[1])
        extra = None if settings.sampling_steps or to < 0 else settings.noise_scale * noise[:, index + 1]
        x = diffusion.back(x, guided, step, to, extra)
    return x


def _noise(
    denoiser: Denoiser, plans: Tensor, step: Tensor, wanted: Tensor, prompt: Tensor, states: Tensor
) -> Tensor:
    time = denoiser.embed_step(step)[:, None]
    wanted = wanted[:, None]
    tokens = torch.cat([time, wanted, prompt, states, denoiser.action(plans)], dim=1)
    tokens = denoiser.embedding_norm(time * tokens + wanted + denoiser.position)
    mask = torch.ones(tokens.shape[:2], dtype=torch.long)
    noise: Tensor = denoiser.noise(_transform(denoiser.transformer, tokens, mask)[:, -plans.shape[1] :])
    return noise


def _transform(transformer: CausalTransformer, tokens: Tensor, mask: Tensor) -> Tensor:
    B, L, W = tokens.shape
    hidden_tokens = (1.0 - mask[:, None, None].float()) * -10_000.0
    causal = torch.ones(L, L, dtype=torch.bool).tril()
    lowest = torch.tensor(-10_000.0)
    for block in transformer.blocks:
        projected = block.query_key_value(block.attention_norm(tokens)).split(W, dim=-1)
        query, key, value = (part.view(B, L, block.heads, -1).transpose(1, 2) for part in projected)
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
        weights = torch.softmax(torch.where(causal, scores, lowest) + hidden_tokens, dim=-1)
        attended = (weights @ value).transpose(1, 2).contiguous().view(B, L, W)
        tokens = tokens + block.attention_output(attended)
        tokens = tokens + block.feedforward_output(
            F.relu(block.feedforward_input(block.feedforward_norm(tokens)))
        )
    result: Tensor = transformer.final_norm(tokens)
    return result
