"""MTDIFF-P's acting the plain way of its release: the prompt embedded and read anew in each of two passes a step."""

from __future__ import annotations

import torch
from torch import Tensor

from goskill.methods.mtdiff import MTDiffNetworks


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
            predicted.append(denoiser(x, at, wanted, prompt, states))
        guided = predicted[1] + settings.guidance * (predicted[0] - predicted[1])
        extra = None if settings.sampling_steps or to < 0 else settings.noise_scale * noise[:, index + 1]
        x = diffusion.back(x, guided, step, to, extra)
    return x
