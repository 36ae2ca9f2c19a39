"""What a method declares so that one step loop can train it: phases, objectives, networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

Batch = dict[str, Tensor]


class Sampler(Protocol):
    """An endless stream of batches that can be continued from a few integers."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, int]: ...

    def load_state_dict(self, state: Mapping[str, int]) -> None: ...


@dataclass
class Objective:
    """One loss with an optimiser of its own, minimised once per iteration of its phase.

    ``name`` names the optimiser, which goes on when a later phase has an objective of the same name, and
    prefixes the metrics. ``loss`` maps a batch to a scalar and to further scalars to log (0-d tensors on the
    device; never synchronised inside a step). ``modules`` are what the optimiser holds: parameters with
    ``requires_grad`` False are left alone.
    """

    name: str
    sampler: Sampler
    loss: Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
    modules: Sequence[nn.Module]


@dataclass
class Phase:
    """A stretch of training. ``begin`` is called on entry, also when a run is resumed inside the phase.

    A phase without iterations does its work in ``begin`` and returns no objectives (labelling).
    """

    name: str
    iterations: int
    begin: Callable[[], Sequence[Objective]]
    description: str = ""


class Method(Protocol):
    """How networks are trained on a store and how they act."""

    name: str

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Every network by name: what a checkpoint holds."""

    @property
    def settings(self) -> Any:
        """The dataclass that rebuilds the networks."""

    def phases(self) -> Sequence[Phase]: ...


@dataclass
class TrainingSettings:
    """Settings of the step loop that all methods share."""

    learning_rate: float = 3e-4  # AdamW
    weight_decay: float = 1e-4  # AdamW, on all parameters, as released
    warmup_iterations: int = 5_000  # linear warm-up to the learning rate, constant afterwards, per optimiser
    gradient_clip: float = 1.0  # global norm per objective
    seed: int = 0  # of initial weights, dropout, samplers
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    precision: str = "float32"  # float32 | bfloat16 (autocast)
    threads: int = 0  # threads of torch and the samplers; 0: all cores
    log_every: int = 100  # iterations between reads of the metrics (the only device synchronisation)
    checkpoint_every: int = 1_000  # iterations between checkpoints
    keep_checkpoints: int = 2  # newest checkpoints kept
