"""One iteration: sample, then forward, backward, clip and update for each objective in turn."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import goskill.training.distributed as distributed
from goskill.errors import InputError
from goskill.training.devices import Execution
from goskill.training.graphs import GraphedIteration, PinnedCopies
from goskill.training.metrics import MetricWindow, flat_names
from goskill.training.objectives import Batch, Objective
from goskill.training.optimizer import ObjectiveOptimizer
from goskill.training.timing import StepTimer
from goskill.training.working_weights import WorkingWeights


class _Loss(nn.Module):
    """An objective's loss as a module, so that it can be wrapped as a whole."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.networks = nn.ModuleList(objective.modules)
        # Not as a submodule: a loss that is one may hold networks that this objective does not train.
        self.loss = functools.partial(objective.loss)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = self.loss(batch)
        return loss, {name: value.detach() for name, value in metrics.items()}


class ObjectiveStep:
    """Minimises an objective on given batches, and keeps its metrics in ``window``."""

    def __init__(
        self,
        objective: Objective,
        optimizer: ObjectiveOptimizer,
        execution: Execution,
        timer: StepTimer,
        capacity: int,
    ) -> None:
        self.objective = objective
        self.optimizer = optimizer
        self.window = MetricWindow(capacity, execution.device)
        self._execution = execution
        self._timer = timer
        self._loss: Any = _Loss(objective)
        if execution.compile:
            self._loss = torch.compile(self._loss)
        elif execution.kernels and distributed.world_size() == 1:
            self._loss = WorkingWeights(self._loss)
        if distributed.world_size() > 1:
            with warnings.catch_warnings():
                # Newer releases of torch want another name, which older ones do not know.
                warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
                self._loss = DistributedDataParallel(self._loss, broadcast_buffers=False, static_graph=True)

    def is_due(self, iteration: int) -> bool:
        """Whether it is minimised in this iteration, counted from 0."""
        return (iteration + 1) % self.objective.every == 0

    def prepare(self, left: int) -> None:
        """Set the learning rate of the next update, in the first of ``left`` iterations that the phase still has."""
        self.optimizer.set_learning_rate((left - 1) // self.objective.every + 1)

    def minimize(self, batch: Batch) -> Tensor:
        """One update. Returns the metrics float32 [names], named by ``window.names``."""
        self._timer.mark("forward")
        with self._execution.autocast():
            loss, metrics = self._loss(batch)
        self._timer.mark("backward")
        # Nothing is accumulated in parameters of others that the loss passes through, such as a critic's.
        loss.backward(inputs=self.optimizer.parameters)
        self._timer.mark("optimizer")
        norm = self.optimizer.step()
        if self.objective.after is not None:
            with torch.no_grad():
                self.objective.after()
        metrics = {"loss": loss, "gradient_norm": norm, **metrics}
        self.window.name(flat_names(metrics))
        device = self._execution.device
        return torch.cat([value.detach().to(device, torch.float32).reshape(-1) for value in metrics.values()])

    def keep(self, row: Tensor) -> None:
        """Count an update with these metrics."""
        self.optimizer.steps += 1
        self.window.add(row)


class IterationStep:
    """All objectives of a phase, one iteration per ``run``; on CUDA those of an iteration are one graph."""

    def __init__(self, steps: Sequence[ObjectiveStep], execution: Execution, timer: StepTimer) -> None:
        """Raises InputError for objectives of one name, and for a batch of an objective that has no sampler."""
        self.steps = list(steps)
        self.batch_size = 0  # samples of all batches of the newest iteration
        self._timer = timer
        self._by_name = {step.objective.name: step for step in steps}
        if len(self._by_name) < len(self.steps):
            raise InputError(f"objectives: expected different names, got {[s.objective.name for s in steps]}")
        self._source = {step.objective.name: self._source_of(step.objective) for step in steps}
        self._batches: dict[str, Iterator[Batch]] = {
            name: iter(step.objective.sampler)
            for name, step in self._by_name.items()
            if not isinstance(step.objective.sampler, str)
        }
        # Of each sampler its own: batches of different samplers differ in shape.
        on_host = self._batches if execution.device.type == "cuda" else ()
        self._copies = {
            name: PinnedCopies(execution.device)
            for name in on_host
            if self._by_name[name].objective.gather is None
        }
        self._device = execution.device
        self._graphed = execution.graphs
        self._graphs: dict[tuple[str, ...], GraphedIteration] = {}  # by the objectives that are due

    def run(self, iteration: int, left: int) -> None:
        """Iteration ``iteration`` of the phase (from 0), the first of ``left``, queued on the device."""
        self._timer.mark("sampling")
        due = [step for step in self.steps if step.is_due(iteration)]
        batches = self._sample([step.objective.name for step in due])
        for step in due:
            step.prepare(left)
        if self._graphed:
            self._timer.mark("step")
            rows = self._replay(due, batches)
        else:
            rows = self._minimize(due, batches)
        for step, row in zip(due, rows, strict=True):
            step.keep(row)

    def samplers(self) -> dict[str, dict[str, int]]:
        """Where every sampler stands, by its objective."""
        return {name: self._sampler(name).state_dict() for name in self._batches}

    def move_samplers(self, states: Mapping[str, dict[str, int]]) -> None:
        """Go on with the batches that the samplers were at."""
        for name in self._batches:
            sampler = self._sampler(name)
            sampler.load_state_dict(states[name])
            self._batches[name] = iter(sampler)

    def _source_of(self, objective: Objective) -> str:
        if not isinstance(objective.sampler, str):
            return objective.name
        source = self._by_name.get(objective.sampler)
        if source is None or isinstance(source.objective.sampler, str):
            raise InputError(
                f"objective {objective.name!r}: sampler: expected a sampler or the name of an objective of this "
                f"phase that has one, got {objective.sampler!r}"
            )
        return source.objective.name

    def _sampler(self, name: str) -> Any:
        return self._by_name[name].objective.sampler

    def _sample(self, due: Sequence[str]) -> dict[str, Batch]:
        """The batch of each source that an objective needs."""
        batches: dict[str, Batch] = {}
        self.batch_size = 0
        for source in dict.fromkeys(self._source[name] for name in due):
            batch = next(self._batches[source])
            self.batch_size += len(next(iter(batch.values())))
            if source in self._copies:
                batch = self._copies[source].to_device(batch)
            batches[source] = batch
        return batches

    def _minimize(self, due: Sequence[ObjectiveStep], batches: Mapping[str, Batch]) -> list[Tensor]:
        gathered: dict[str, Batch] = {}
        for source, batch in batches.items():
            gather = self._by_name[source].objective.gather
            gathered[source] = batch if gather is None else gather(batch)
        return [step.minimize(gathered[self._source[step.objective.name]]) for step in due]

    def _replay(self, due: Sequence[ObjectiveStep], batches: Mapping[str, Batch]) -> Sequence[Tensor]:
        if not due:
            return ()
        names, lanes = tuple(step.objective.name for step in due), self._lanes(due)
        if names not in self._graphs:
            self._graphs[names] = GraphedIteration(self._device, steps=len(lanes))
        flat = [
            {
                f"{source}/{key}": value
                for source in dict.fromkeys(self._source[step.objective.name] for step in lane)
                for key, value in batches[source].items()
            }
            for lane in lanes
        ]
        results = self._graphs[names].run(
            [functools.partial(self._minimize_flat, lane) for lane in lanes], flat
        )
        return [
            row
            for lane, result in zip(lanes, results, strict=True)
            for row in torch.split(result, [len(step.window.names) for step in lane])
        ]

    @staticmethod
    def _lanes(due: Sequence[ObjectiveStep]) -> list[list[ObjectiveStep]]:
        """What runs one after the other, each lane beside the others."""
        lanes: list[list[ObjectiveStep]] = []
        for step in due:
            if step.objective.alongside or not lanes:
                lanes.append([])
            lanes[-1].append(step)
        return lanes

    def _minimize_flat(self, due: Sequence[ObjectiveStep], flat: Batch) -> Tensor:
        batches: dict[str, Batch] = {}
        for name, value in flat.items():
            source, _, key = name.rpartition("/")
            batches.setdefault(source, {})[key] = value
        return torch.cat(self._minimize(due, batches))
