"""What a method declares so that one step loop can train it: phases, objectives, networks, further state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from goskill.errors import InputError
from goskill.seeds import check_seed
from goskill.settings import NOT_NEGATIVE, POSITIVE, check, refuse

Batch = dict[str, Tensor]
ALGORITHMS = ("adamw", "adam", "radam")
PRECISIONS = ("auto", "float32", "tf32", "bfloat16")


class Sampler(Protocol):
    """An endless stream of batches that can be continued from a few integers."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, int]: ...

    def load_state_dict(self, state: Mapping[str, int]) -> None: ...


class Stateful(Protocol):
    """What a checkpoint keeps besides networks: a replay buffer, environments, counters.

    States are nested mappings of tensors, NumPy arrays, strings, numbers, booleans and None, and lists of them.
    """

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class OptimizerSettings:
    """How one objective is minimised. Raises InputError that names the setting."""

    learning_rate: float = 3e-4
    algorithm: str = "adamw"  # adamw | adam | radam
    weight_decay: float = 0.0  # decoupled in adamw, added to the gradient in the others
    warmup_iterations: int = 0  # linear warm-up to the learning rate
    decay_iterations: int = 0  # linear fall of the rate to 0 at the end of each phase; 0: none
    gradient_clip: float | None = None  # global norm; None: no clipping
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise InputError(f"algorithm: expected one of {', '.join(ALGORITHMS)}, got {self.algorithm!r}")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate: expected a positive number, got {self.learning_rate!r}")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise InputError(f"gradient_clip: expected a positive number or None, got {self.gradient_clip!r}")


@dataclass
class Objective:
    """One loss with an optimiser of its own, minimised every ``every``-th iteration of its phase.

    ``name`` names the optimiser, which goes on when a later phase has an objective of the same name, and
    prefixes the metrics. ``sampler`` gives the batches; the name of an objective of the same phase instead gives the
    batch which that one gets in the same iteration. ``loss`` maps a batch to a scalar and to metrics to log (scalars
    and vectors [n] on the device; never synchronised inside a step), of which ``usage`` is the share of each code in
    the batch. ``modules`` are what the optimiser holds: parameters with ``requires_grad`` False are left alone, and
    no gradient reaches a parameter of another module, whatever the loss passes through.

    With ``gather`` the sampler only says where samples lie, and ``gather`` makes the batch of it: on the device,
    without synchronisation, as a part of the step. ``after`` is called after each update (target networks), also as
    a part of the step. Objectives of an iteration are minimised in the order of their list; one that is ``alongside``
    may run beside those before it on CUDA, as neither reads what the other changes. ``optimizer`` defaults to what
    ``TrainingSettings`` say.
    """

    name: str
    sampler: Sampler | str
    loss: Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
    modules: Sequence[nn.Module]
    gather: Callable[[Batch], Batch] | None = None
    every: int = 1
    optimizer: OptimizerSettings | None = None
    after: Callable[[], None] | None = None
    alongside: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"objective {self.name!r}: every: expected at least 1, got {self.every}")


@dataclass
class Phase:
    """A stretch of training. ``begin`` is called on entry, also when a run is resumed inside the phase.

    On resuming, phases before it do not begin again: what they froze, opened or built has to be done by
    ``begin`` of every phase that needs it. All networks are in training mode when it is called. A phase
    without iterations does its work in ``begin`` and returns no objectives (labelling).

    ``interact(iteration)`` is called before iteration ``iteration`` (from 0) and steps environments; what it must not
    lose on an interruption is in ``Method.state``. It returns numbers to log, of which the means are kept.
    """

    name: str
    iterations: int
    begin: Callable[[], Sequence[Objective]]
    description: str = ""
    interact: Callable[[int], Mapping[str, float]] | None = None


class Trainable(Protocol):
    """What the step loop needs of a method: networks, further state, phases."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Every network by name: what a checkpoint holds."""

    @property
    def state(self) -> Mapping[str, Stateful]:
        """What a checkpoint holds besides, by name; read after each ``Phase.begin`` and before it."""

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
        check(self, NOT_NEGATIVE, "warmup_iterations", "decay_iterations", "weight_decay", "threads")
        check(self, POSITIVE, "learning_rate", "gradient_clip")
        check_seed("seed", self.seed)
        for name in ("log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                refuse(self, name, "at least 1")
        if self.precision not in PRECISIONS:
            refuse(self, "precision", f"one of {', '.join(PRECISIONS)}")
        if self.data not in ("auto", "device", "host"):
            refuse(self, "data", "one of auto, device, host")
        if self.kernels not in ("auto", "off"):
            refuse(self, "kernels", "one of auto, off")
        if self.cuda_graphs not in ("auto", "on", "off"):
            refuse(self, "cuda_graphs", "one of auto, on, off")

    def optimizer(self) -> OptimizerSettings:
        """How an objective without settings of its own is minimised."""
        return OptimizerSettings(
            self.learning_rate,
            "adamw",
            self.weight_decay,
            self.warmup_iterations,
            self.decay_iterations,
            self.gradient_clip,
        )
