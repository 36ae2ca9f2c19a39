"""What a method declares so that one step loop can train it: phases, objectives, networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from goskill.errors import InputError
from goskill.seeds import check_seed

Batch = dict[str, Tensor]
PRECISIONS = ("auto", "float32", "tf32", "bfloat16")


class Sampler(Protocol):
    """An endless stream of batches that can be continued from a few integers."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, int]: ...

    def load_state_dict(self, state: Mapping[str, int]) -> None: ...


@dataclass
class Objective:
    """One loss with an optimiser of its own, minimised once per iteration of its phase.

    ``name`` names the optimiser, which goes on when a later phase has an objective of the same name, and
    prefixes the metrics. ``loss`` maps a batch to a scalar and to metrics to log (scalars and vectors [n] on the
    device; never synchronised inside a step), of which ``usage`` is the share of each code in the batch.
    ``modules`` are what the optimiser holds: parameters with ``requires_grad`` False are left alone. With ``gather``
    the sampler only says where samples lie, and ``gather`` makes the batch of it: on the device, without
    synchronisation, as a part of the step.
    """

    name: str
    sampler: Sampler
    loss: Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
    modules: Sequence[nn.Module]
    gather: Callable[[Batch], Batch] | None = None


@dataclass
class Phase:
    """A stretch of training. ``begin`` is called on entry, also when a run is resumed inside the phase.

    On resuming, phases before it do not begin again: what they froze, opened or built has to be done by
    ``begin`` of every phase that needs it. All networks are in training mode when it is called. A phase
    without iterations does its work in ``begin`` and returns no objectives (labelling). Objectives that are
    ``independent`` read nothing that another one of the phase trains: on a GPU they run side by side.
    """

    name: str
    iterations: int
    begin: Callable[[], Sequence[Objective]]
    description: str = ""
    independent: bool = False


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
    """Settings of the step loop that all methods share. Raises InputError that names the setting."""

    learning_rate: float = 3e-4  # AdamW
    weight_decay: float = 1e-4  # AdamW, on all parameters, as released
    warmup_iterations: int = 5_000  # linear warm-up to the learning rate, per optimiser
    decay_iterations: int = 0  # linear fall of the rate to 0 at the end of each phase; 0: none, as released
    gradient_clip: float = 1.0  # global norm per objective
    seed: int = 0  # of initial weights, dropout, samplers; below 2**60
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    precision: str = (
        "auto"  # float32 | tf32 | bfloat16 (autocast) | auto: bfloat16 where the device is fast at it
    )
    data: str = (
        "auto"  # where training data lies: device | host (memory-mapped) | auto: on a GPU that it fits well
    )
    compile: bool = False  # losses pass through torch.compile
    cuda_graphs: str = "auto"  # on | off: a whole step is one CUDA graph | auto: on one GPU
    kernels: str = "auto"  # auto: transformers run in fused kernels in bfloat16 on a GPU | off: stock PyTorch
    threads: int = 0  # of torch and each sampler; 0: all cores, one for samplers (a batch takes < 1 ms)
    log_every: int = 100  # iterations between reads of the metrics (the only device synchronisation)
    checkpoint_every: int = 1_000  # iterations between checkpoints
    keep_checkpoints: int = 2  # newest checkpoints kept
    profile: bool = False  # write a trace of a few iterations of each phase, for Perfetto
    wandb: str = ""  # project on Weights & Biases that also gets the metrics; "": none

    def __post_init__(self) -> None:
        for name in ("warmup_iterations", "decay_iterations", "weight_decay", "threads"):
            if not getattr(self, name) >= 0:
                self._refuse(name, "a number that is not negative")
        check_seed("seed", self.seed)
        for name in ("learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                self._refuse(name, "a positive number")
        for name in ("log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                self._refuse(name, "at least 1")
        if self.precision not in PRECISIONS:
            self._refuse("precision", f"one of {', '.join(PRECISIONS)}")
        if self.data not in ("auto", "device", "host"):
            self._refuse("data", "one of auto, device, host")
        if self.kernels not in ("auto", "off"):
            self._refuse("kernels", "one of auto, off")
        if self.cuda_graphs not in ("auto", "on", "off"):
            self._refuse("cuda_graphs", "one of auto, on, off")

    def _refuse(self, name: str, expected: str) -> None:
        raise InputError(f"{name}: expected {expected}, got {getattr(self, name)!r}")
