"""Adam and its kin with warm-up and gradient clipping, one per objective name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import goskill.training.adam as adam
from goskill.errors import CheckpointError
from goskill.training.objectives import OptimizerSettings

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def learning_rate(settings: OptimizerSettings, steps: int, left: int) -> float:
    """The rate of the step that follows ``steps`` finished ones, with ``left`` steps to the end of the phase.

    It rises linearly over ``warmup_iterations``, stays, and falls linearly over the last ``decay_iterations``.
    """
    rising = (steps + 1) / max(settings.warmup_iterations, 1)
    falling = left / max(settings.decay_iterations, 1)
    return settings.learning_rate * min(rising, falling, 1.0)


class ObjectiveOptimizer:
    """Minimises one objective. It goes on over phases: ``begin`` names what is trained from now on.

    A parameter that was trained before keeps its moments, also over a phase in which it is frozen.
    """

    def __init__(self, settings: OptimizerSettings) -> None:
        self.settings = settings
        self.steps = 0
        self.rate = 0.0  # of the newest step
        self._parameters: dict[str, nn.Parameter] = {}
        self._resting: dict[str, dict[str, Tensor]] = {}
        self._optimizer: torch.optim.Optimizer | None = None
        self._on_cpu = False  # steps are those of goskill.training.adam

    def begin(self, parameters: Mapping[str, nn.Parameter], *, capturable: bool = False) -> None:
        """Train these parameters, by name, from now on; ``capturable`` in a CUDA graph."""
        self._resting = self._states()
        self._parameters = dict(parameters)
        device = next(iter(self._parameters.values())).device
        self._optimizer = _new_optimizer(self.settings, list(self._parameters.values()), capturable)
        self._on_cpu = self.settings.algorithm != "radam" and adam.fits(self.parameters)
        if capturable:
            for group in self._optimizer.param_groups:  # not as an argument: that looks at its value
                group["lr"] = torch.zeros((), device=device)
        for name, parameter in self._parameters.items():
            state = self._resting.pop(name, None)
            if state is not None:
                self._optimizer.state[parameter] = _place(name, state, parameter)

    def set_learning_rate(self, left: int) -> None:
        """Bring the rate of the next step, the first of ``left`` in its phase, to where the update finds it."""
        assert self._optimizer is not None
        self.rate = rate = learning_rate(self.settings, self.steps, left)
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def step(self) -> Tensor:
        """Clip the gradients, update the parameters, drop the gradients; returns the norm before clipping.

        Whoever calls it sets the learning rate before and counts ``steps`` after: both stay on the host,
        which a captured step does not pass again.
        """
        assert self._optimizer is not None
        clip, trained = self.settings.gradient_clip, self.parameters
        if self._on_cpu:
            norm = adam.step(self._optimizer, clip)
        else:
            if clip is None:
                norm = nn.utils.get_total_norm([one.grad for one in trained if one.grad is not None])
            else:
                norm = nn.utils.clip_grad_norm_(trained, clip)
            self._optimizer.step()
        for parameter in trained:
            parameter.grad = None
        return norm

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained now."""
        return list(self._parameters.values())

    def tensors(self) -> dict[str, Tensor]:
        """Everything but ``steps`` that is needed to continue, by parameter name and moment."""
        return {f"{name}/{key}": state[key] for name, state in self._states().items() for key in _MOMENTS}

    def load(self, steps: int, tensors: Mapping[str, Tensor]) -> None:
        """Continue after ``steps`` steps with what ``tensors`` returned then. Called before ``begin``."""
        self.steps = steps
        states: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            name, _, moment = key.rpartition("/")
            states.setdefault(name, {})[moment] = value
        for name, state in states.items():
            if set(state) != set(_MOMENTS):
                raise CheckpointError(f"optimiser state of {name} must hold {_MOMENTS}, not {tuple(state)}")
        self._resting = states

    def _states(self) -> dict[str, dict[str, Tensor]]:
        states = dict(self._resting)
        if self._optimizer is not None:
            for name, parameter in self._parameters.items():
                if parameter in self._optimizer.state:
                    states[name] = self._optimizer.state[parameter]
        return states


def _new_optimizer(
    settings: OptimizerSettings, parameters: list[nn.Parameter], capturable: bool
) -> torch.optim.Optimizer:
    shared: dict[str, Any] = {"lr": 0.0, "betas": settings.betas, "weight_decay": settings.weight_decay}
    if settings.algorithm == "radam":
        return torch.optim.RAdam(parameters, capturable=capturable, foreach=True, **shared)
    kind = torch.optim.AdamW if settings.algorithm == "adamw" else torch.optim.Adam
    return kind(parameters, fused=True, capturable=capturable, **shared)


def _place(name: str, state: Mapping[str, Tensor], parameter: nn.Parameter) -> dict[str, Tensor]:
    for moment in ("exp_avg", "exp_avg_sq"):
        if state[moment].shape != parameter.shape:
            raise CheckpointError(
                f"optimiser state {name}/{moment} is {tuple(state[moment].shape)} in the checkpoint "
                f"and {tuple(parameter.shape)} in the network"
            )
    dtypes = {"step": torch.float32, "exp_avg": parameter.dtype, "exp_avg_sq": parameter.dtype}
    return {key: state[key].to(parameter.device, dtypes[key]).contiguous() for key in _MOMENTS}
