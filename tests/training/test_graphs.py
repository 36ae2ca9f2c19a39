"""Iterations as CUDA graphs, against a recorder in the place of ``torch.cuda``: what is captured, where, and when.

What a capture computes is tested on a device (``-m gpu``).
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from goskill.training import graphs
from goskill.training.devices import Execution
from goskill.training.graphs import COPIES_IN_FLIGHT, EAGER_ITERATIONS, GraphedIteration, PinnedCopies
from goskill.training.objectives import Objective
from goskill.training.timing import StepTimer

SECOND = torch.device("cuda", 1)


class Stream:
    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self.waited_for: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited_for.append(other)


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self.recorded_on: Stream | None = None

    def record(self, stream: Stream | None = None) -> None:
        self.recorded_on = stream

    def synchronize(self) -> None: ...


class RecordedCuda:
    """Streams, events and captures of a machine with two devices, of which the first is the current one."""

    def __init__(self) -> None:
        self.default = {None: Stream(torch.device("cuda", 0)), SECOND: Stream(SECOND)}
        self.on: list[Stream] = []
        self.captured_on: list[Stream] = []
        self.capturing = False
        self.replays = 0
        self.synchronized: list[Any] = []

    def current_stream(self, device: torch.device | None = None) -> Stream:
        return self.on[-1] if self.on else self.default[SECOND if device == SECOND else None]

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self.on.append(stream)
        yield
        self.on.pop()

    @contextlib.contextmanager
    def graph(self, graph: Any, stream: Stream | None = None) -> Iterator[None]:
        assert stream is not None, "the capture has a stream of its own"
        self.captured_on.append(stream)
        self.capturing = True
        with self.stream(stream):
            yield
        self.capturing = False

    def install(self, patch: pytest.MonkeyPatch) -> None:
        recorder = self

        class Graph:
            def replay(self) -> None:
                recorder.replays += 1

        for name in ("current_stream", "stream", "graph"):
            patch.setattr(torch.cuda, name, getattr(self, name))
        patch.setattr(torch.cuda, "Stream", Stream)
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch.cuda, "CUDAGraph", Graph)
        patch.setattr(torch.cuda, "synchronize", self.synchronized.append)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> RecordedCuda:
    recorder = RecordedCuda()
    recorder.install(monkeypatch)
    return recorder


def iterate(cuda: RecordedCuda, count: int) -> tuple[list[Stream], GraphedIteration]:
    """The streams on which a step ran or was captured."""
    seen: list[Stream] = []

    def step(batch: dict[str, Tensor]) -> Tensor:
        seen.append(cuda.on[-1])
        return batch["x"].sum()

    iteration = GraphedIteration(SECOND)
    for _ in range(count):
        iteration.run([step], [{"x": torch.ones(3)}])
    return seen, iteration


def test_a_step_warms_up_on_the_stream_and_the_device_of_its_capture(cuda: RecordedCuda) -> None:
    seen, _ = iterate(cuda, EAGER_ITERATIONS + 3)
    assert len(seen) == EAGER_ITERATIONS + 1
    assert set(map(id, seen)) == {id(cuda.captured_on[0])}
    assert cuda.captured_on[0].device == SECOND
    assert cuda.synchronized == [SECOND]
    assert cuda.replays == 3
    # The work of the device that was queued before comes first, and what follows waits.
    assert cuda.default[SECOND] in seen[0].waited_for
    assert seen[0] in cuda.default[SECOND].waited_for


def test_steps_side_by_side_have_streams_of_their_own_that_join(cuda: RecordedCuda) -> None:
    seen: list[list[Stream]] = [[], []]
    steps = [lambda batch, own=own: own.append(cuda.on[-1]) or batch["x"].sum() for own in seen]
    iteration = GraphedIteration(SECOND, steps=2)
    for number in range(EAGER_ITERATIONS + 2):
        results = iteration.run(steps, [{"x": torch.full((2,), number)}, {"x": torch.full((3,), number)}])
        assert len(results) == 2
    one, other = seen[0][0], seen[1][0]
    assert seen == [[one] * (EAGER_ITERATIONS + 1), [other] * (EAGER_ITERATIONS + 1)]
    assert one is not other
    assert one in other.waited_for
    assert other in one.waited_for
    assert cuda.captured_on == [one]


def test_the_graph_reads_the_newest_batch_from_the_tensors_it_was_captured_with(cuda: RecordedCuda) -> None:
    read: list[Tensor] = []
    iteration = GraphedIteration(SECOND)
    for number in range(EAGER_ITERATIONS + 3):
        iteration.run(
            [lambda batch: read.append(batch["x"]) or batch["x"].sum()], [{"x": torch.tensor([number])}]
        )
    assert read[-1].item() == EAGER_ITERATIONS + 2


def test_nothing_is_collected_during_a_capture(cuda: RecordedCuda) -> None:
    """The collector runs before it, and is as it was afterwards."""
    found: list[tuple[bool, bool]] = []

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    def step(batch: dict[str, Tensor]) -> Tensor:
        if cuda.capturing:
            found.append((gc.isenabled(), garbage() is None))
        return batch["x"].sum()

    gc.disable()  # so that only the capture itself collects
    try:
        garbage = weakref.ref(Cycle())
        iteration = GraphedIteration(SECOND)
        for _ in range(EAGER_ITERATIONS + 1):
            iteration.run([step], [{"x": torch.ones(1)}])
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert found == [(False, True)]
    with graphs._no_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_graphs_are_freed_with_their_objective(cuda: RecordedCuda) -> None:
    """Without a collection: no cycle holds them."""
    from toy_method import TRAINING, make

    from goskill.training.optimizer import ObjectiveOptimizer
    from goskill.training.step import IterationStep, ObjectiveStep

    objective = make().phases()[0].begin()[0]
    execution = Execution(torch.device("cpu"), "float32", compile=False, graphs=True)
    optimizer = ObjectiveOptimizer(TRAINING.optimizer())
    optimizer.begin(
        {str(index): one for index, one in enumerate(objective.modules[0].parameters())}, capturable=False
    )
    timer = StepTimer(execution.device)
    step = IterationStep([ObjectiveStep(objective, optimizer, execution, timer, 10)], execution, timer)
    for iteration in range(EAGER_ITERATIONS + 1):
        step.run(iteration, 100)
    (graphed,) = step._graphs.values()
    graph = graphed._graph
    del graphed
    assert graph is not None
    freed = weakref.ref(graph)
    del graph
    gc.collect()
    gc.disable()
    try:
        del step
        assert freed() is None
    finally:
        gc.enable()


def test_events_are_recorded_on_the_device_that_trains(
    cuda: RecordedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = StepTimer(SECOND)
    timer.mark("forward")
    assert timer._events[0][1].recorded_on is cuda.default[SECOND]
    copies = PinnedCopies(SECOND)
    monkeypatch.setattr(torch, "empty_like", lambda tensor, pin_memory: tensor.clone())
    monkeypatch.setattr(Tensor, "to", lambda tensor, device, non_blocking: tensor)
    copies.to_device({"x": torch.ones(2)})
    assert copies._slots[0][1].recorded_on is cuda.default[SECOND]


def test_batches_of_several_samplers_may_differ_in_shape(
    cuda: RecordedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    from goskill.training.step import IterationStep, ObjectiveStep

    monkeypatch.setattr(torch, "empty_like", lambda tensor, pin_memory: tensor.clone())
    monkeypatch.setattr(Tensor, "to", lambda tensor, device, non_blocking: tensor.clone())
    sizes = {"one": 3, "other": 5}
    steps = []
    for name, size in sizes.items():
        batches = [{"x": torch.full((size,), number)} for number in range(2 * COPIES_IN_FLIGHT)]
        step = ObjectiveStep.__new__(ObjectiveStep)
        step.objective = Objective(name, batches, lambda batch: (batch["x"], {}), [])
        steps.append(step)
    iteration = IterationStep(
        steps, Execution(SECOND, "float32", compile=False, graphs=False), StepTimer(SECOND)
    )
    for number in range(2 * COPIES_IN_FLIGHT):
        for name, batch in iteration._sample(list(sizes)).items():
            assert batch["x"].tolist() == [number] * sizes[name]


def test_the_device_that_trains_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device", _note(chosen))
    with Execution(SECOND, "float32", compile=False, graphs=False).current_device():
        pass
    with Execution(torch.device("cpu"), "float32", compile=False, graphs=False).current_device():
        pass
    assert chosen == [SECOND]


def _note(chosen: list[torch.device]) -> Callable[[torch.device], Any]:
    def device(wanted: torch.device) -> Any:
        chosen.append(wanted)
        return contextlib.nullcontext()

    return device


@pytest.mark.parametrize("alongside", [False, True])
def test_objectives_of_an_iteration_are_one_graph(alongside: bool, cuda: RecordedCuda) -> None:
    from toy_method import TRAINING, make

    from goskill.training.optimizer import ObjectiveOptimizer
    from goskill.training.step import IterationStep, ObjectiveStep

    execution = Execution(torch.device("cpu"), "float32", compile=False, graphs=True)
    running = []
    for index, objective in enumerate(make().phases()[2].begin()):
        objective.alongside = alongside and index > 0
        optimizer = ObjectiveOptimizer(TRAINING.optimizer())
        trained = [one for module in objective.modules for one in module.parameters() if one.requires_grad]
        optimizer.begin({str(index): one for index, one in enumerate(trained)})
        running.append(ObjectiveStep(objective, optimizer, execution, StepTimer(execution.device), 10))
    step = IterationStep(running, execution, StepTimer(execution.device))
    assert len(step._lanes(running)) == (2 if alongside else 1)
    for iteration in range(EAGER_ITERATIONS + 1):
        step.run(iteration, EAGER_ITERATIONS + 1 - iteration)
    assert len(cuda.captured_on) == 1
    assert [one.optimizer.steps for one in running] == [EAGER_ITERATIONS + 1] * 2
    assert [one.window.read().shape[0] for one in running] == [EAGER_ITERATIONS + 1] * 2
