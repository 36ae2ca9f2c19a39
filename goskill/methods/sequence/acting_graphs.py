"""Steps of a policy as CUDA graphs: one launch instead of hundreds."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Hashable
from typing import Protocol

import torch


class StepRunner(Protocol):
    """Runs the steps of a policy."""

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """Run ``step``, which reads and writes tensors that stay where they are.

        What it does with them, and their shapes, depend on ``key`` alone; what it leaves elsewhere is not used.
        """


class EagerSteps:
    """Runs every step as it is."""

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        step()


class GraphedSteps:
    """Runs a step eagerly when its key comes first, captures it when it comes again, and replays it from then on.

    With ``required`` a step that cannot be captured raises; otherwise steps go on eagerly, with one warning that
    says why. All graphs share their memory for intermediate results, so at most one may run at a time.
    """

    def __init__(self, device: torch.device, required: bool = False) -> None:
        self._device = device
        self._required = required
        self._replays: dict[Hashable, Callable[[], None] | None] = {}  # None: ran once, not captured yet
        self._eager = False
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        if self._eager:
            step()
        elif key not in self._replays:
            self._warm_up(step)
            self._replays[key] = None
        else:
            replay = self._replays[key] or self._captured(key, step)
            replay()

    def _captured(self, key: Hashable, step: Callable[[], None]) -> Callable[[], None]:
        try:
            replay = self._capture(step)
        except RuntimeError as error:
            if self._required:
                raise RuntimeError(
                    "a step of the policy could not be captured in a CUDA graph; cuda_graphs='off' acts without"
                ) from error
            warnings.warn(
                f"acting goes on without CUDA graphs: {_reason(error)}", RuntimeWarning, stacklevel=2
            )
            self._eager = True
            self._replays.clear()
            return step
        self._replays[key] = replay
        return replay

    def _warm_up(self, step: Callable[[], None]) -> None:
        """Run a step on the stream of the capture: libraries set themselves up per stream and at first use."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            step()
        current.wait_stream(self._stream)

    def _capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """Record a step without running it."""
        graph, device = torch.cuda.CUDAGraph(), self._device
        # Makes the device the current one. torch does not restore the stream after a capture that failed, this does.
        with torch.cuda.stream(torch.cuda.current_stream(device)):
            try:
                # Other threads of the process may do with CUDA what they like meanwhile.
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ):
                    step()
            except BaseException:
                self._end_failed_capture()
                raise

        def replay() -> None:
            with torch.cuda.device(device):
                graph.replay()

        return replay

    def _end_failed_capture(self) -> None:
        """Undo what torch may leave of a capture that failed: allocator and random numbers wait for its end."""
        with contextlib.suppress(RuntimeError, AttributeError):
            torch._C._cuda_endAllocateToPool(self._stream.device_index, self._pool)
            torch._C._cuda_releasePool(self._stream.device_index, self._pool)
        # The end of a capture that succeeds, of whatever it is, also ends the random generator's waiting.
        with contextlib.suppress(RuntimeError), torch.cuda.stream(self._stream):
            value, graph = torch.zeros((), device=self._device), torch.cuda.CUDAGraph()
            graph.capture_begin(capture_error_mode="thread_local")
            value.add_(1)
            graph.capture_end()


def _reason(error: BaseException) -> str:
    """Why a capture failed, in a line. Its end raises once more, and says only that something did before."""
    first = error.__context__ if "previous error during capture" in str(error) else None
    return str(first or error).partition("\n")[0]
