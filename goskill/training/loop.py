"""The step loop that trains any method."""

from __future__ import annotations

import contextlib
import errno
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import goskill
from goskill.errors import CheckpointError, InputError
from goskill.training.checkpoint import Checkpoint, Checkpoints
from goskill.training.devices import choose_device
from goskill.training.method import Batch, Method, Objective, Phase, TrainingSettings
from goskill.training.metrics import DivergedError, MetricLog, MetricWindow, means
from goskill.training.optimizer import ObjectiveOptimizer, learning_rate
from goskill.training.progress import TrainingProgress
from goskill.training.randomness import random_state, seed_everything, set_random_state
from goskill.training.run import RunFolder
from goskill.training.signals import StopRequest


@dataclass
class _Running:
    """One objective of the phase that runs."""

    objective: Objective
    batches: Iterator[Batch]
    optimizer: ObjectiveOptimizer
    window: MetricWindow


class Trainer:
    """Runs a method's phases, and continues a run that was interrupted anywhere.

    Interrupted at any moment and resumed, a run on the CPU in float32 ends with the same bits as one that was
    not: weights, buffers, optimisers, schedule, samplers and random states all come from the checkpoint.
    """

    def __init__(
        self, method: Method, run: RunFolder, settings: TrainingSettings, *, progress: bool = True
    ) -> None:
        """Raises InputError naming a setting that cannot be."""
        _check(settings)
        self.method = method
        self.run = run
        self.settings = settings
        self.device = choose_device(settings.device)
        self._phases = list(method.phases())
        self._checkpoints = Checkpoints(run.checkpoints)
        self._optimizers: dict[str, ObjectiveOptimizer] = {}
        self._progress = TrainingProgress(progress)
        self._phase = 0  # index of the phase to run or running
        self._iteration = 0  # iterations of it that are done; 0: it has not begun
        self._step = 0  # iterations of all phases that are done
        self._running: list[_Running] = []

    def train(self, *, resume: bool = False) -> None:
        """Train to the end of the last phase.

        Raises:
            KeyboardInterrupt: on Ctrl-C, with a checkpoint written; SystemExit(143) on SIGTERM likewise.
            DivergedError: a loss or gradient is not finite; the message names iteration and objective.
            CheckpointError: ``resume`` and the newest whole checkpoint does not fit the method.
            InputError: another process trains in the folder, or there is no space left in it.
        """
        try:
            with self.run.lock(), StopRequest() as stop, self._progress:
                self._train(resume, stop)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise InputError(
                f"no space left to write to {self.run.path} ({error.strerror}): "
                "the checkpoints there are intact, make space and resume"
            ) from error

    def _train(self, resume: bool, stop: StopRequest) -> None:
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        for module in self.method.modules.values():
            module.to(self.device)
        checkpoint = self._checkpoints.newest() if resume else None
        if checkpoint is None:
            seed_everything(self.settings.seed)
            self._log = MetricLog(self.run, {}, 0)
        else:
            self._log = MetricLog(self.run, checkpoint.state["log_sizes"], checkpoint.state["step"])
        with contextlib.closing(self._log):
            if checkpoint is None:
                self._save()
            else:
                self._restore(checkpoint)
            while self._phase < len(self._phases):
                self._train_phase(self._phases[self._phase], checkpoint, stop)
                checkpoint = None
                self._phase, self._iteration = self._phase + 1, 0
                self._save()
                if stop.signal is not None:
                    stop.raise_now()

    def _train_phase(self, phase: Phase, checkpoint: Checkpoint | None, stop: StopRequest) -> None:
        """Run a phase to its end, from its beginning or from within as ``checkpoint`` says."""
        self._progress.begin(phase.name, phase.iterations, self._iteration)
        for module in self.method.modules.values():
            module.train()
        with stop.immediate():
            objectives = phase.begin()
        self._running = [self._start(objective) for objective in objectives]
        if self._iteration > 0:
            assert checkpoint is not None
            self._restore_within(checkpoint)
        self._read_at, self._read_time = self._iteration, time.perf_counter()
        while self._iteration < phase.iterations:
            for running in self._running:
                self._minimize(running)
            self._iteration += 1
            self._step += 1
            self._progress.advance()
            last = self._iteration == phase.iterations
            stopping = stop.signal is not None
            save = stopping or self._step % self.settings.checkpoint_every == 0
            if last or save or self._iteration % self.settings.log_every == 0:
                self._read_metrics(phase)
            if save and not last:
                self._save()
                if stopping:
                    stop.raise_now()
        self._running = []

    def _start(self, objective: Objective) -> _Running:
        optimizer = self._optimizers.setdefault(objective.name, ObjectiveOptimizer(self.settings))
        optimizer.begin(self._trained_parameters(objective))
        window = MetricWindow(self.settings.log_every, self.device)
        return _Running(objective, iter(objective.sampler), optimizer, window)

    def _trained_parameters(self, objective: Objective) -> dict[str, nn.Parameter]:
        names = {
            parameter: f"{network}.{name}"
            for network, module in self.method.modules.items()
            for name, parameter in module.named_parameters()
        }
        parameters = [parameter for module in objective.modules for parameter in module.parameters()]
        unknown = sum(parameter not in names for parameter in parameters)
        if unknown:
            raise InputError(
                f"objective {objective.name!r} trains {unknown} parameters that none of the "
                "method's modules has"
            )
        trained = {names[parameter]: parameter for parameter in parameters if parameter.requires_grad}
        if not trained:
            raise InputError(f"objective {objective.name!r} has no parameter to train")
        return trained

    def _minimize(self, running: _Running) -> None:
        batch = {
            name: tensor.to(self.device, non_blocking=True) for name, tensor in next(running.batches).items()
        }
        with self._autocast():
            loss, scalars = running.objective.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = running.optimizer.step()
        values: dict[str, Tensor] = {"loss": loss, "gradient_norm": norm, **scalars}
        running.window.add(values)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _read_metrics(self, phase: Phase) -> None:
        """Wait for the device, look at every loss since the last read, and write one line."""
        iterations = self._iteration - self._read_at
        if not iterations:
            return
        line: dict[str, Any] = {"step": self._step, "phase": phase.name, "iteration": self._iteration}
        for running in self._running:
            rows = running.window.read()
            self._check_finite(phase, running, rows)
            name = running.objective.name
            line |= means(name, running.window.names, rows)
            line[f"{name}/learning_rate"] = learning_rate(self.settings, running.optimizer.steps - 1)
        now = time.perf_counter()
        rate = iterations / max(now - self._read_time, 1e-9)
        line["steps_per_second"] = rate
        self._log.write(line)
        losses = {running.objective.name: line[f"{running.objective.name}/loss"] for running in self._running}
        self._progress.update(self._iteration, losses, rate)
        self._read_at, self._read_time = self._iteration, now

    def _check_finite(self, phase: Phase, running: _Running, rows: np.ndarray[Any, Any]) -> None:
        found = running.window.first_not_finite(rows)
        if found is None:
            return
        row, what = found
        objective = running.objective.name
        iteration = self._read_at + row + 1
        value = rows[row, running.window.names.index(what)]
        message = (
            f"{what.replace('_', ' ')} of objective {objective!r} became {value} at iteration {iteration} "
            f"of phase {phase.name!r} (batch {running.optimizer.steps - len(rows) + row} of that objective)"
        )
        step = self._step - self._iteration + iteration
        self._log.event({"step": step, "phase": phase.name, "event": "diverged", "message": message})
        raise DivergedError(f"{message}; the checkpoints in {self.run.checkpoints} are from before it")

    def _save(self) -> None:
        state = {
            "phase": self._phase,
            "iteration": self._iteration,
            "phases": self._phase_list(),
            "optimizer_steps": {name: optimizer.steps for name, optimizer in self._optimizers.items()},
            "samplers": {
                entry.objective.name: entry.objective.sampler.state_dict() for entry in self._running
            },
            "random": random_state(),
            "log_sizes": self._log.sizes(),
            "versions": {
                "goskill": goskill.__version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        }
        tensors = {
            f"{name}/{key}": tensor
            for name, optimizer in self._optimizers.items()
            for key, tensor in optimizer.tensors().items()
        }
        done = self._phase == len(self._phases)
        name = "finished" if done else self._phases[self._phase].name
        keep = self.settings.keep_checkpoints
        self._checkpoints.save(self._step, name, self.method.modules, tensors, state, keep)

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Stand where the checkpoint was made; a phase that had begun still has to begin again."""
        state = checkpoint.state
        if state["phases"] != self._phase_list():
            raise CheckpointError(
                f"checkpoint {checkpoint.path} has phases {state['phases']}, "
                f"the method has {self._phase_list()}"
            )
        self._phase, self._iteration, self._step = state["phase"], state["iteration"], state["step"]
        checkpoint.load_modules(self.method.modules)
        tensors = checkpoint.optimizer_tensors()
        for name, steps in state["optimizer_steps"].items():
            self._optimizers[name] = ObjectiveOptimizer(self.settings)
            own = {
                key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}/")
            }
            self._optimizers[name].load(steps, own)
        set_random_state(state["random"])
        self._progress.say(f"resumed {self.run.path} from {checkpoint.path.name}")

    def _restore_within(self, checkpoint: Checkpoint) -> None:
        """Undo what ``begin`` did a second time to weights and random states, and move the samplers on."""
        checkpoint.load_modules(self.method.modules)
        for running in self._running:
            running.objective.sampler.load_state_dict(checkpoint.state["samplers"][running.objective.name])
            running.batches = iter(running.objective.sampler)
        set_random_state(checkpoint.state["random"])

    def _phase_list(self) -> list[list[Any]]:
        return [[phase.name, phase.iterations] for phase in self._phases]


def _check(settings: TrainingSettings) -> None:
    least: Sequence[tuple[str, float]] = (
        ("warmup_iterations", 0),
        ("weight_decay", 0),
        ("threads", 0),
        ("seed", 0),
        ("log_every", 1),
        ("checkpoint_every", 1),
        ("keep_checkpoints", 1),
    )
    for name, bound in least:
        if not getattr(settings, name) >= bound:
            raise InputError(f"training.{name} must be at least {bound}, not {getattr(settings, name)}")
    for name in ("learning_rate", "gradient_clip"):
        if not getattr(settings, name) > 0:
            raise InputError(f"training.{name} must be more than 0, not {getattr(settings, name)}")
    if settings.precision not in ("float32", "bfloat16"):
        raise InputError(f"training.precision must be float32 or bfloat16, not {settings.precision!r}")
