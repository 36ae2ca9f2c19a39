"""Whole training iterations as CUDA graphs: one launch instead of hundreds."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from goskill.training.objectives import Batch

EAGER_ITERATIONS = 3  # lets libraries choose algorithms and modules initialise before the capture
COPIES_IN_FLIGHT = 3

Step = Callable[[Batch], Tensor]


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
        copied.record(torch.cuda.current_stream(self._device))
        self._slots.append((pinned, copied))
        return on_device


class GraphedIteration:
    """Runs steps eagerly for the first iterations, then captures all of them once and replays the graph.

    Several steps run side by side, each on a stream of its own: none may read what another one writes. The graph
    reads batches from fixed tensors and leaves results in fixed ones. What else changes from one iteration to the
    next (the learning rate) has to lie in fixed tensors too. A step that cannot be captured raises: it never falls
    back to eager execution.

    The steps are arguments of ``run`` and not kept: a graph that is held in a cycle would be destroyed whenever the
    garbage collector finds it, maybe during another capture, which that breaks.
    """

    def __init__(self, device: torch.device, steps: int = 1) -> None:
        self._device = device
        self._eager_left = EAGER_ITERATIONS
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batches: list[Batch] = []
        self._results: list[Tensor] = []
        # The first is that of the capture.
        self._streams = [torch.cuda.Stream(device) for _ in range(steps)]  # type: ignore[no-untyped-call]

    def run(self, steps: Sequence[Step], batches: Sequence[Batch]) -> list[Tensor]:
        """The result of each step for its batch; overwritten by the next call."""
        if self._eager_left:
            self._eager_left -= 1
            return self._run_eagerly(steps, batches)
        if self._graph is None:
            self._capture(steps, batches)
        assert self._graph is not None
        for fixed, batch in zip(self._batches, batches, strict=True):
            for name, tensor in fixed.items():
                tensor.copy_(batch[name])
        self._graph.replay()
        return self._results

    def _run_eagerly(self, steps: Sequence[Step], batches: Sequence[Batch]) -> list[Tensor]:
        # On the streams of the capture: what libraries set up per stream is there when it comes.
        current = torch.cuda.current_stream(self._device)
        self._streams[0].wait_stream(current)
        with torch.cuda.stream(self._streams[0]), warnings.catch_warnings():
            # AdamW wonders why it is capturable and not captured.
            warnings.filterwarnings("ignore", message=".*capturable=True.*")
            results = self._side_by_side(steps, batches)
        current.wait_stream(self._streams[0])
        return results

    def _capture(self, steps: Sequence[Step], batches: Sequence[Batch]) -> None:
        """Record an iteration without running it; gradients are allocated in the graph's own memory."""
        self._batches = [{name: tensor.clone() for name, tensor in batch.items()} for batch in batches]
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        try:
            with _no_collection(), torch.cuda.graph(graph, stream=self._streams[0]):
                self._results = self._side_by_side(steps, self._batches)
        except RuntimeError as error:
            raise RuntimeError(
                "a step could not be captured in a CUDA graph; training.cuda_graphs=off trains without"
            ) from error
        self._graph = graph

    def _side_by_side(self, steps: Sequence[Step], batches: Sequence[Batch]) -> list[Tensor]:
        """The steps, the first on the current stream; all have joined it in the end."""
        first, *others = self._streams
        for stream in others:
            stream.wait_stream(first)
        results = []
        for stream, step, batch in zip(self._streams, steps, batches, strict=True):
            with torch.cuda.stream(stream):
                results.append(step(batch))
        for stream in others:
            first.wait_stream(stream)
        return results


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Within, the garbage collector destroys nothing; what it would is destroyed before."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
