"""Whole training steps as CUDA graphs: one launch instead of hundreds."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from goskill.training.method import Batch

EAGER_ITERATIONS = 3  # lets libraries choose algorithms and modules initialise before the capture
COPIES_IN_FLIGHT = 3


class PinnedCopies:
    """Copies batches to the GPU through a ring of pinned memory, without waiting for the GPU.

    A slot of the ring is written again only when the copy from it is through, so the host runs at most
    ``COPIES_IN_FLIGHT`` iterations ahead of the copies, and a sampler may reuse its own buffers at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._slots: deque[tuple[Batch, torch.cuda.Event]] = deque()

    def to_device(self, batch: Batch) -> Batch:
        """``batch`` in new device tensors, there before what is queued next on this stream."""
        if len(self._slots) < COPIES_IN_FLIGHT:
            pinned = {name: torch.empty_like(tensor, pin_memory=True) for name, tensor in batch.items()}
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        else:
            pinned, copied = self._slots.popleft()
            copied.synchronize()
        for name, tensor in batch.items():
            pinned[name].copy_(tensor)
        on_device = {name: tensor.to(self._device, non_blocking=True) for name, tensor in pinned.items()}
        copied.record()
        self._slots.append((pinned, copied))
        return on_device


class GraphedStep:
    """Runs ``step(batch)`` eagerly for the first iterations, then captures it once and replays it.

    The graph reads the batch from fixed tensors and leaves its result in one. What else changes from step to
    step (the learning rate) has to lie in fixed tensors too. A step that cannot be captured raises: it never
    falls back to eager execution.
    """

    def __init__(self, step: Callable[[Batch], Tensor]) -> None:
        self._step = step
        self._eager_left = EAGER_ITERATIONS
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: Batch = {}
        self._result: Tensor
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, batch: Batch) -> Tensor:
        if self._eager_left:
            self._eager_left -= 1
            return self._run_eagerly(batch)
        if self._graph is None:
            self._capture(batch)
        assert self._graph is not None
        for name, tensor in self._batch.items():
            tensor.copy_(batch[name])
        self._graph.replay()
        return self._result

    def _run_eagerly(self, batch: Batch) -> Tensor:
        # On a side stream, as the capture will be: what is set up per stream is then there already.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            # AdamW wonders why it is capturable and not captured.
            warnings.filterwarnings("ignore", message=".*capturable=True.*")
            result = self._step(batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def _capture(self, batch: Batch) -> None:
        """Record a step without running it; gradients are allocated in the graph's own memory."""
        self._batch = {name: tensor.clone() for name, tensor in batch.items()}
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._result = self._step(self._batch)
        except RuntimeError as error:
            raise RuntimeError(
                "a step could not be captured in a CUDA graph; training.cuda_graphs=off trains without"
            ) from error
        self._graph = graph
