"""The goal encoder: what a stretch of time changed, as a point in the skill space."""

from __future__ import annotations

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
            stack += [nn.Linear(width, width), nn.ReLU()]
        self.stack = nn.Sequential(*stack, nn.Linear(width, embedding_size), nn.Tanh())

    @property
    def linears(self) -> list[nn.Linear]:
        """The linear layers in their order."""
        return [module for module in self.stack if isinstance(module, nn.Linear)]

    @property
    def norm(self) -> nn.LayerNorm:
        """What follows the first of them."""
        norm = self.stack[1]
        assert isinstance(norm, nn.LayerNorm)
        return norm

    def forward(self, change: Tensor) -> Tensor:
        embedding: Tensor = self.stack(change)
        return embedding
