"""AdamW with warm-up and gradient clipping, one per objective name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from goskill.errors import CheckpointError
from goskill.training.method import TrainingSettings

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def learning_rate(settings: TrainingSettings, steps: int, left: int) -> float:
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

    def __init__(self, settings: TrainingSettings) -> None:
        self.steps = 0
        self.rate = 0.0  # of the newest step
        self._settings = settings
        self._parameters: dict[str, nn.Parameter] = {}
        self._resting: dict[str, dict[str, Tensor]] = {}
        self._adamw: torch.optim.AdamW | None = None

    def begin(self, parameters: Mapping[str, nn.Parameter], *, capturable: bool = False) -> None:
        """Train these parameters, by name, from now on; ``capturable`` in a CUDA graph."""
        self._resting = self._states()
        self._parameters = dict(parameters)
        device = next(iter(self._parameters.values())).device
        self._adamw = torch.optim.AdamW(
            list(self._parameters.values()),
            lr=0.0,
            weight_decay=self._settings.weight_decay,
            fused=True,
            capturable=capturable,
        )
        if capturable:
            for group in self._adamw.param_groups:  # not as an argument: that looks at its value
                group["lr"] = torch.zeros((), device=device)
        for name, parameter in self._parameters.items():
            state = self._resting.pop(name, None)
            if state is not None:
                self._adamw.state[parameter] = _place(name, state, parameter)

    def set_learning_rate(self, left: int) -> None:
        """Bring the rate of the next step, the first of ``left`` in its phase, to where the update finds it."""
        assert self._adamw is not None
        self.rate = rate = learning_rate(self._settings, self.steps, left)
        for group in self._adamw.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def step(self) -> Tensor:
        """Clip the gradients, update the parameters, drop the gradients; returns the norm before clipping.

        Whoever calls it sets the learning rate before and counts ``steps`` after: both stay on the host,
        which a captured step does not pass again.
        """
        assert self._adamw is not None
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), self._settings.gradient_clip)
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        return norm

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
        if self._adamw is not None:
            for name, parameter in self._parameters.items():
                if parameter in self._adamw.state:
                    states[name] = self._adamw.state[parameter]
        return states


def _place(name: str, state: Mapping[str, Tensor], parameter: nn.Parameter) -> dict[str, Tensor]:
    for moment in ("exp_avg", "exp_avg_sq"):
        if state[moment].shape != parameter.shape:
            raise CheckpointError(
                f"optimiser state {name}/{moment} is {tuple(state[moment].shape)} in the checkpoint "
                f"and {tuple(parameter.shape)} in the network"
            )
    return {key: state[key].to(parameter.device) for key in _MOMENTS}
