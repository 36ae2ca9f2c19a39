"""One iteration of one objective: sample, forward, backward, clip, update."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from goskill.training import distributed
from goskill.training.devices import Execution
from goskill.training.graphs import GraphedIteration, PinnedCopies
from goskill.training.method import Batch, Objective
from goskill.training.metrics import MetricWindow, flat_names
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
    """Minimises an objective, one iteration per ``run``, and keeps its metrics in ``window``."""

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
        self.batch_size = 0
        self._execution = execution
        self._timer = timer
        self._batches: Iterator[Batch] = iter(objective.sampler)
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
        self._copies = PinnedCopies(execution.device) if execution.device.type == "cuda" else None
        self._graph = GraphedIteration(execution.device) if execution.graphs else None

    def run(self, left: int) -> None:
        """One iteration, the first of ``left`` in its phase, queued on the device."""
        batch = self.begin(left)
        if self._graph is not None:
            (row,) = self._graph.run([self.minimize], [batch])
        else:
            row = self.minimize(batch)
        self.end(row)

    def begin(self, left: int) -> Batch:
        """The next batch, or where its samples lie; the learning rate is where the update finds it."""
        self._timer.mark("sampling")
        batch = next(self._batches)
        self.batch_size = len(next(iter(batch.values())))
        if self._copies is not None and self.objective.gather is None:
            batch = self._copies.to_device(batch)
        self.optimizer.set_learning_rate(left)
        if self._graph is not None:
            self._timer.mark("step")
        return batch

    def end(self, row: Tensor) -> None:
        """Count the iteration and keep its metrics."""
        self.optimizer.steps += 1
        self.window.add(row)

    def move_sampler(self, state: dict[str, int]) -> None:
        """Go on with the batch that the sampler was at."""
        self.objective.sampler.load_state_dict(state)
        self._batches = iter(self.objective.sampler)

    def minimize(self, batch: Batch) -> Tensor:
        """Forward, backward, update. Returns the metrics float32 [names], named by ``window.names``."""
        if self.objective.gather is not None:
            batch = self.objective.gather(batch)
        self._timer.mark("forward")
        with self._execution.autocast():
            loss, metrics = self._loss(batch)
        self._timer.mark("backward")
        loss.backward()
        self._timer.mark("optimizer")
        norm = self.optimizer.step()
        metrics = {"loss": loss, "gradient_norm": norm, **metrics}
        self.window.name(flat_names(metrics))
        device = self._execution.device
        return torch.cat([value.detach().to(device, torch.float32).reshape(-1) for value in metrics.values()])
