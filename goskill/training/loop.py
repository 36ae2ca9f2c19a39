"""The step loop that trains any method."""

from __future__ import annotations

import contextlib
import errno
import gc
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import goskill
import goskill.training.distributed as distributed
from goskill.errors import InputError
from goskill.training.checkpoint import Checkpoint, Checkpoints
from goskill.training.devices import choose_device, choose_execution
from goskill.training.logs import Logs, SilentLogs
from goskill.training.memory import kept_memory
from goskill.training.metrics import DivergedError, MeanMetrics, Watch, first_not_finite, means
from goskill.training.objectives import Objective, Phase, Trainable, TrainingSettings
from goskill.training.optimizer import ObjectiveOptimizer
from goskill.training.profiling import PhaseProfile
from goskill.training.progress import TrainingProgress
from goskill.training.randomness import random_state, seed_everything, set_random_state
from goskill.training.resumption import position_in
from goskill.training.run import RunFolder
from goskill.training.signals import StopRequest
from goskill.training.state import load_states, read_states
from goskill.training.step import IterationStep, ObjectiveStep
from goskill.training.timing import Clock, StepTimer


@dataclass(frozen=True)
class Milestones:
    """What is done before the first iteration, after every ``every``-th one of the whole run, and after the last.

    ``reached(iterations)`` returns a line for the screen, or "" for none. It may use the networks but not change
    them; their modes and the random states are put back. A checkpoint is written first, so that a run that is
    ended meanwhile loses nothing: when it is resumed there, ``reached`` is called again and has to know itself
    what is done already. Under torchrun it is called on every rank.
    """

    every: int
    reached: Callable[[int], str]

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"every: expected at least 1, got {self.every}")


class Trainer:
    """Runs a method's phases, and continues a run that was interrupted anywhere.

    Interrupted at any moment and resumed, a run on the CPU, in either precision, ends with the same bits as one that
    was not: weights, buffers, optimisers, schedule, samplers and random states all come from the checkpoint.
    Under torchrun each rank has a trainer; rank 0 writes.
    """

    def __init__(
        self,
        method: Trainable,
        run: RunFolder,
        settings: TrainingSettings,
        *,
        progress: bool = True,
        milestones: Milestones | None = None,
    ) -> None:
        """Raises InputError for a device or precision that is not there."""
        self.method = method
        self.run = run
        self.settings = settings
        distributed.start(choose_device(settings.device))
        self._writes = distributed.rank() == 0
        self._execution = choose_execution(settings)
        self._phases = list(method.phases())
        self._milestones = milestones
        self._checkpoints = Checkpoints(run.checkpoints)
        self._optimizers: dict[str, ObjectiveOptimizer] = {}
        self._progress = TrainingProgress(progress and self._writes)
        self._timer = StepTimer(self._execution.device)
        self._watch = Watch()
        self._phase = 0  # index of the phase to run or running
        self._iteration = 0  # iterations of it that are done; 0: it has not begun
        self._step = 0  # iterations of all phases that are done
        self._running: IterationStep | None = None
        self._ended: dict[str, dict[str, int]] = {}  # where the samplers of the newest phase ended
        self._interaction = MeanMetrics()
        self._clock = Clock()

    def train(self, *, resume: bool = False) -> None:
        """Train to the end of the last phase.

        Raises:
            KeyboardInterrupt: on Ctrl-C, with a checkpoint written; SystemExit(143) on SIGTERM likewise.
            DivergedError: a loss or gradient is not finite; the message names iteration and objective.
            CheckpointError: ``resume`` and the newest whole checkpoint does not fit the method.
            InputError: another process trains in the folder, or there is no space left in it.
        """
        lock = self.run.lock() if self._writes else contextlib.nullcontext()
        try:
            device, precision = self._execution.current_device(), self._execution.matmul_precision()
            with lock, StopRequest() as stop, self._progress, device, precision, kept_memory():
                self._train(resume, stop)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            newest = self._checkpoints.newest_path()
            there = (
                f"the checkpoints up to {newest.name} are whole" if newest else "there is no checkpoint yet"
            )
            raise InputError(
                f"no space left to write to {self.run.path} ({error.strerror}): "
                f"{there}, make space and resume"
            ) from error

    def _train(self, resume: bool, stop: StopRequest) -> None:
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        self._clock = Clock()
        self._progress.say(f"training on {self._execution}")
        for module in self.method.modules.values():
            module.to(self._execution.device)
        checkpoint = self._checkpoints.newest() if resume else None
        distributed.barrier()
        with contextlib.closing(self._open_logs(checkpoint)) as self._logs:
            if checkpoint is None:
                seed_everything(self.settings.seed + distributed.rank())
                self._save()
            else:
                self._restore(checkpoint)
            self._pause(stop)
            while self._phase < len(self._phases):
                self._train_phase(self._phases[self._phase], checkpoint, stop)
                if distributed.world_size() > 1:
                    gc.collect()  # DistributedDataParallel listens to its parameters until it is collected
                checkpoint = None
                self._phase, self._iteration = self._phase + 1, 0
                self._save()
                if distributed.any_rank(stop.signal is not None, self._execution.device):
                    stop.raise_now()
                self._pause(stop)
        distributed.barrier()

    def _train_phase(self, phase: Phase, checkpoint: Checkpoint | None, stop: StopRequest) -> None:
        """Run a phase to its end, from its beginning or from within as ``checkpoint`` says."""
        self._progress.begin(phase.name, phase.iterations, self._iteration)
        for module in self.method.modules.values():
            module.train()
        with stop.immediate():
            objectives = phase.begin()
        if self._execution.device.type == "cuda" and objectives:
            own = [objective for objective in objectives if not isinstance(objective.sampler, str)]
            gathered = all(objective.gather is not None for objective in own)
            self._progress.say(f"data lies {f'on {self._execution.device}' if gathered else 'on the host'}")
        self._running = IterationStep(
            [self._start(objective) for objective in objectives], self._execution, self._timer
        )
        if self._iteration > 0:
            assert checkpoint is not None
            self._restore_within(checkpoint)
        self._read_at, self._read_time = self._iteration, time.perf_counter()
        with contextlib.ExitStack() as stack:
            profile = None
            if self.settings.profile and self._writes and phase.iterations:
                file = self.run.profile / f"{phase.name}.json"
                left = phase.iterations - self._iteration
                profile = stack.enter_context(
                    contextlib.closing(PhaseProfile(file, self._execution.device, left))
                )
            while self._iteration < phase.iterations:
                if phase.interact is not None:
                    self._timer.mark("interaction")
                    self._interaction.add(phase.interact(self._iteration))
                self._running.run(self._iteration, phase.iterations - self._iteration)
                self._timer.end_iteration()
                self._iteration += 1
                self._step += 1
                self._progress.advance()
                if profile is not None:
                    profile.iteration()
                self._after_iteration(phase, stop)
        self._ended = self._running.samplers()
        self._running = None

    def _after_iteration(self, phase: Phase, stop: StopRequest) -> None:
        last = self._iteration == phase.iterations
        read = last or self._iteration % self.settings.log_every == 0
        stopping = stop.signal is not None
        if distributed.world_size() > 1:
            # The ranks stop together, where they read together anyway.
            stopping = read and distributed.any_rank(stopping, self._execution.device)
        pause = self._is_milestone()
        save = pause or self._step % self.settings.checkpoint_every == 0
        if read or save or stopping:
            self._read_metrics(phase, cut_short=not (read or save))
        if (save or stopping) and not last:
            self._save()
            if stopping:
                stop.raise_now()
            self._pause(stop)

    def _is_milestone(self) -> bool:
        if self._milestones is None:
            return False
        return self._step % self._milestones.every == 0 or self._phase == len(self._phases)

    def _pause(self, stop: StopRequest) -> None:
        """Tell whoever waits for it that a milestone is reached, if one is. The checkpoint has been written."""
        if self._milestones is None or not self._is_milestone():
            return
        networks = [part for module in self.method.modules.values() for part in module.modules()]
        modes, random = [part.training for part in networks], random_state()
        with stop.immediate():
            said = self._milestones.reached(self._step)
        set_random_state(random)
        for part, mode in zip(networks, modes, strict=True):
            part.training = mode
        if said:
            self._progress.say(said)
        self._read_time = time.perf_counter()
        self._clock.read()  # what was done meanwhile is not training

    def _start(self, objective: Objective) -> ObjectiveStep:
        wanted = objective.optimizer or self.settings.optimizer()
        optimizer = self._optimizers.setdefault(objective.name, ObjectiveOptimizer(wanted))
        optimizer.settings = wanted
        optimizer.begin(self._trained_parameters(objective), capturable=self._execution.graphs)
        return ObjectiveStep(objective, optimizer, self._execution, self._timer, self.settings.log_every)

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
                f"objective {objective.name!r} trains {unknown} parameters that are in none of the modules"
            )
        trained = {names[parameter]: parameter for parameter in parameters if parameter.requires_grad}
        if not trained:
            raise InputError(f"objective {objective.name!r} has no parameter to train")
        return trained

    def _read_metrics(self, phase: Phase, *, cut_short: bool) -> None:
        """Wait for the device, look at every loss since the last read, and write one line.

        ``cut_short`` says that a run which is not stopped here would read later.
        """
        iterations = self._iteration - self._read_at
        if not iterations:
            return
        line: dict[str, Any] = {"step": self._step, "phase": phase.name, "iteration": self._iteration}
        assert self._running is not None
        for running in self._running.steps:
            rows = running.window.read()
            if not len(rows):
                continue  # it was not due since the last read
            name, names, every = running.objective.name, running.window.names, running.objective.every
            self._check_finite(phase, running, rows)
            for event in self._watch.look(name, names, rows, cut_short=cut_short):
                step = self._step - self._iteration % every - every * event.pop("ago")
                self._logs.event({"step": step, "phase": phase.name, **event})
            line |= means(name, names, rows)
            line[f"{name}/learning_rate"] = running.optimizer.rate
        line |= self._interaction.read()
        now = time.perf_counter()
        rate = iterations / max(now - self._read_time, 1e-9)
        samples = self._running.batch_size * distributed.world_size()
        line |= {"steps_per_second": rate, "samples_per_second": rate * samples}
        line |= {f"time/{part}": share for part, share in self._timer.read().items()}
        line |= self._clock.read()
        line["device"] = self._execution.device.type
        self._logs.metrics(line)
        losses = {name.removesuffix("/loss"): value for name, value in line.items() if name.endswith("/loss")}
        self._progress.update(self._iteration, losses, rate)
        self._read_at, self._read_time = self._iteration, time.perf_counter()

    def _check_finite(self, phase: Phase, running: ObjectiveStep, rows: np.ndarray[Any, Any]) -> None:
        found = first_not_finite(running.window.names, rows)
        if found is None:
            return
        row, what = found
        value = "NaN" if math.isnan(rows[row, running.window.names.index(what)]) else "infinite"
        every = running.objective.every
        iteration = (self._read_at // every + row + 1) * every
        step = self._step - self._iteration + iteration
        message = (
            f"{what.replace('_', ' ')} of objective {running.objective.name!r} became {value} at step {step}: "
            f"iteration {iteration} of phase {phase.name!r}, batch {iteration - 1} of its sampler"
        )
        self._logs.event({"step": step, "phase": phase.name, "event": "diverged", "message": message})
        raise DivergedError(f"{message}; the checkpoints in {self.run.checkpoints} are from before it")

    def _open_logs(self, checkpoint: Checkpoint | None) -> Logs | SilentLogs:
        if not self._writes:
            return SilentLogs()
        if checkpoint is None:
            return Logs(self.run, {}, 0, self.settings.wandb)
        return Logs(self.run, checkpoint.state["log_sizes"], checkpoint.state["step"], self.settings.wandb)

    def _save(self) -> None:
        if not self._writes:
            return
        state = {
            "phase": self._phase,
            "iteration": self._iteration,
            "phases": self._phase_list(),
            "optimizer_steps": {name: optimizer.steps for name, optimizer in self._optimizers.items()},
            "samplers": self._ended if self._running is None else self._running.samplers(),
            "random": random_state(),
            "watch": self._watch.state_dict(),
            "log_sizes": self._logs.sizes(),
            "versions": {
                "goskill": goskill.__version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        }
        state["state"], arrays = read_states(self.method.state)
        tensors = {
            f"{name}/{key}": tensor
            for name, optimizer in self._optimizers.items()
            for key, tensor in optimizer.tensors().items()
        }
        done = self._phase == len(self._phases)
        name = "finished" if done else self._phases[self._phase].name
        keep = self.settings.keep_checkpoints
        self._checkpoints.save(self._step, name, self.method.modules, tensors, state, keep, arrays)

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Stand where the checkpoint was made; a phase that had begun still has to begin again."""
        state = checkpoint.state
        self._phase, self._iteration = position_in(checkpoint, self._phase_list())
        self._step = state["step"]
        checkpoint.load_modules(self.method.modules)
        tensors = checkpoint.optimizer_tensors()
        for name, steps in state["optimizer_steps"].items():
            self._optimizers[name] = ObjectiveOptimizer(self.settings.optimizer())
            own = {
                key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}/")
            }
            self._optimizers[name].load(steps, own)
        self._load_states(checkpoint)
        self._watch.load_state_dict(state.get("watch", {}))
        self._set_random_state(checkpoint)
        self._progress.say(f"resumed from {checkpoint.path}")

    def _restore_within(self, checkpoint: Checkpoint) -> None:
        """Undo what ``begin`` did a second time to weights and random states, and move the samplers on."""
        checkpoint.load_modules(self.method.modules)
        self._load_states(checkpoint)
        assert self._running is not None
        self._running.move_samplers(checkpoint.state["samplers"])
        self._set_random_state(checkpoint)

    def _load_states(self, checkpoint: Checkpoint) -> None:
        states = self.method.state
        load_states(states, checkpoint.state.get("state", {}), checkpoint.arrays(states))

    def _set_random_state(self, checkpoint: Checkpoint) -> None:
        # Only rank 0's states are in the checkpoint; the others get states of their own.
        if self._writes:
            set_random_state(checkpoint.state["random"])
        else:
            seed_everything(self.settings.seed + distributed.rank() + self._step)

    def _phase_list(self) -> list[list[Any]]:
        return [[phase.name, phase.iterations] for phase in self._phases]
