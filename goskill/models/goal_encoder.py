"""The goal encoder: what a stretch of time changed, as a point in the skill space."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.errors import InputError


class GoalEncoder(nn.Module):
    """Change [..., input_size] -> embedding [..., embedding_size] in (-1, 1), with ``layers`` hidden layers.

    Linear and LayerNorm, then ``layers - 1`` times Linear and ReLU, then Linear and Tanh, as released.
    Raises InputError if ``layers`` is not positive.
    """

    def __init__(self, input_size: int, embedding_size: int, width: int, layers: int) -> None:
        super().__init__()
        if layers < 1:
            raise InputError(f"encoder layers: expected at least 1, got {layers}")
        stack: list[nn.Module] = [nn.Linear(input_size, width), nn.LayerNorm(width)]
        for _ in range(layers - 1):
            # Not in place: what Linear returns is a view, whose gradient would be copied five times.
            stack += [nn.Linear(width, width), nn.ReLU()]
        self.stack = nn.Sequential(*stack, nn.Linear(width, embedding_size), nn.Tanh())

    def forward(self, change: Tensor) -> Tensor:
        embedding: Tensor = self.stack(change)
        return embedding


@torch.no_grad()
def fold(encoder: GoalEncoder) -> Callable[[Tensor], Tensor]:
    """``encoder`` as it is now, for inference, in 0.6 times the products at the paper's sizes.

    With K inputs, changes [N, K] -> embeddings [N, embedding_size], equal within rounding. Between the first two
    Linear layers lies only LayerNorm. Let A = [W1 b1] less its column means and y = A [x 1]: LayerNorm is
    g y / sqrt(|y|^2 / width + eps) + c, so W2 g A is one matrix of all three layers, and as |y| = |R [x 1]| for
    A = QR, K + 1 further outputs give the divisor.
    """
    first, norm, second, *rest = encoder.stack
    assert isinstance(first, nn.Linear)
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(second, nn.Linear)
    if first.in_features >= first.out_features:
        return encoder  # one matrix would be larger than the two
    # In float64 on the CPU: small matrices, for which a GPU would have to load libraries first.
    W1, b1, g, c, W2, b2 = (
        parameter.detach().cpu().double()
        for layer in (first, norm, second)
        for parameter in layer.parameters()
    )
    joined = torch.cat([W1, b1[:, None]], 1)
    centred = joined - joined.mean(0)
    scatter = torch.linalg.qr(centred, mode="r").R / first.out_features**0.5
    folded = torch.cat([scatter, W2 @ (g[:, None] * centred)]).to(first.weight)
    weight, bias = folded[:, :-1].contiguous(), folded[:, -1].contiguous()
    shift = (W2 @ c + b2).to(first.weight)
    tail = nn.Sequential(*(nn.ReLU(inplace=True) if isinstance(layer, nn.ReLU) else layer for layer in rest))

    def encode(change: Tensor) -> Tensor:
        outputs = F.linear(change, weight, bias)
        variance = outputs[:, : len(scatter)].square().sum(1, keepdim=True)
        embedding: Tensor = tail(
            torch.addcmul(shift, outputs[:, len(scatter) :], (variance + norm.eps).rsqrt())
        )
        return embedding

    return encode
