"""What all launchers share."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Launches inside go to the tensor's own device; CPU tensors are for Triton's interpreter."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def power_of_two(value: int, least: int = 1) -> int:
    """The smallest power of two that is at least ``value`` and ``least``."""
    return max(least, 1 << (value - 1).bit_length())


_tickets: dict[torch.device, tuple[Tensor, list[int]]] = {}
_TICKET_SLOTS = 4096


def ticket(tensor: Tensor) -> Tensor:
    """A zero int32 [1] by which the last program of a launch knows that it is the last; it resets it to 0.

    Launches that may run at the same time get different ones, so that no launch has to clear its own. Those in CUDA
    graphs take turns apart from the others: a graph may run whenever it is replayed.
    """
    capturing = tensor.is_cuda and torch.cuda.is_current_stream_capturing()
    if tensor.device not in _tickets:
        zeros = torch.zeros(2 * _TICKET_SLOTS, dtype=torch.int32, device=tensor.device)
        if capturing:
            # These zeros are written when the graph runs: they belong to it alone.
            return zeros[:1]
        _tickets[tensor.device] = (zeros, [0, 0])
    slots, positions = _tickets[tensor.device]
    position = positions[capturing]
    positions[capturing] = (position + 1) % _TICKET_SLOTS
    slot = position + capturing * _TICKET_SLOTS
    return slots[slot : slot + 1]
