"""The diffusion of actions: its schedule, noising, and the steps back by DDPM or DDIM."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn


class Diffusion(nn.Module):
    """A variance-preserving schedule (Song et al. 2021) in ``steps`` steps, noise rate ``beta_min`` to ``beta_max``.

    ``signal`` float32 [steps]: the share of variance that is still signal at each step (alpha-bar);
    ``noise``: the rest.
    """

    signal: Tensor
    noise: Tensor

    def __init__(self, steps: int, beta_min: float, beta_max: float) -> None:
        super().__init__()
        self.steps = steps
        t = np.arange(1, steps + 1, dtype=np.float64)
        log_alpha = -beta_min / steps - 0.5 * (beta_max - beta_min) * (2 * t - 1) / steps**2
        signal = np.exp(np.cumsum(log_alpha))
        self._signal: list[float] = [*signal.tolist(), 1.0]  # of step -1 as well: no noise
        self.register_buffer("signal", torch.tensor(signal, dtype=torch.float32), persistent=False)
        # Not 1 - signal in float32, which cancels at the first steps.
        self.register_buffer("noise", torch.tensor(1 - signal, dtype=torch.float32), persistent=False)

    def noised(self, actions: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        """Actions [B, n, A] at diffusion steps int64 [B], with standard normal noise of their shape."""
        signal, rest = (share.index_select(0, step)[:, None, None] for share in (self.signal, self.noise))
        return signal.sqrt() * actions + rest.sqrt() * noise

    def sampling_steps(self, count: int) -> list[int]:
        """Diffusion steps that sampling visits, from the noisiest: all for 0, otherwise ``count``, evenly spaced."""
        if not count:
            return list(range(self.steps))[::-1]
        return [round(step) for step in np.linspace(self.steps - 1, 0, count).tolist()]

    def back(self, x: Tensor, predicted: Tensor, step: int, to: int, noise: Tensor | None) -> Tensor:
        """From step ``step`` to ``to`` (-1: the end), where the network predicted noise; actions stay in [-1, 1].

        With ``noise`` (already scaled) it is DDPM's posterior of neighbouring steps, without it DDIM's.
        """
        signal, target = self._signal[step], self._signal[to]
        actions = ((x - math.sqrt(1 - signal) * predicted) / math.sqrt(signal)).clamp(-1, 1)
        if to < 0:
            return actions
        if noise is None:
            direction = (x - math.sqrt(signal) * actions) / math.sqrt(1 - signal)
            return math.sqrt(target) * actions + math.sqrt(1 - target) * direction
        alpha = signal / target
        beta = 1 - alpha
        mean = (math.sqrt(target) * beta * actions + math.sqrt(alpha) * (1 - target) * x) / (1 - signal)
        return mean + math.sqrt(beta * (1 - target) / (1 - signal)) * noise
