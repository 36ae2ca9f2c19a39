"""Numbers that torch.compile sees change from call to call: as tensors they stay inputs of its graph."""

from __future__ import annotations

import torch
from torch import Tensor


def changes(number: float) -> bool:
    """Whether the graph that is being compiled takes ``number`` as an input."""
    from torch.fx.experimental import symbolic_shapes

    # The oldest torch that goskill takes does not know, and compiles once for each value.
    is_static = getattr(symbolic_shapes, "has_static_value", None)
    return is_static is not None and not is_static(number)


def as_tensor(number: float) -> Tensor:
    """``number`` as a float64 scalar on the CPU; an operator that takes it as a number is compiled for its value."""
    # Of what makes a tensor of a number, torch.compile keeps products symbolic.
    return torch.ones((), dtype=torch.float64) * number
