"""Target networks: copies that follow slowly."""

from __future__ import annotations

import copy

import torch
from torch import nn


class TargetNetwork:
    """A frozen copy of ``online`` as ``module``, which moves a share ``rate`` towards it at each :meth:`update`.

    The copy belongs among the modules of a method, so that checkpoints hold it. One call is a few fused operations
    and can be captured in a CUDA graph, which makes it fit for ``Objective.after``.
    """

    def __init__(self, online: nn.Module, rate: float) -> None:
        self.module = copy.deepcopy(online).requires_grad_(False)
        self.rate = rate
        self._online = online

    @torch.no_grad()
    def update(self) -> None:
        """target += rate (online - target), for every parameter."""
        pairs = zip(self.module.parameters(), self._online.parameters(), strict=True)
        slow, fast = zip(*((target, online) for target, online in pairs), strict=True)
        torch._foreach_lerp_(list(slow), list(fast), self.rate)
