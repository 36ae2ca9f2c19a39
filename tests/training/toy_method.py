"""A method small enough to train in a second, with everything that resuming has to bring back.

Run as a program it trains: ``python toy_method.py RUN [--resume] [--dropout P]``. Ranks whose group leaves
threads behind end with status 3.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from goskill.training import (
    Batch,
    Objective,
    Phase,
    RunFolder,
    Stateful,
    Trainer,
    TrainingSettings,
    distributed,
    seed_everything,
)

TRAINING = TrainingSettings(
    learning_rate=1e-2,
    warmup_iterations=20,
    decay_iterations=9,
    log_every=7,
    checkpoint_every=10,
    seed=3,
    threads=1,
    device="cpu",
    precision="float32",
)


class ToySampler:
    """Batches that are a pure function of (seed, step)."""

    def __init__(self, seed: int) -> None:
        self.seed, self.step = seed, 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            random = np.random.default_rng([self.seed, self.step])
            self.step += 1
            rows = torch.from_numpy(random.standard_normal((8, 5)).astype(np.float32))
            yield {"x": rows.chunk(distributed.world_size())[distributed.rank()]}

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step, "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.step, self.seed = state["step"], state["seed"]


class Encoder(nn.Module):
    """Has dropout and a buffer that moves with every batch."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.dropout = nn.Dropout(dropout)
        self.average: Tensor
        self.register_buffer("average", torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.average.mul_(0.9).add_(0.1 * distributed.average(x.mean(0)))
        return self.dropout(torch.tanh(self.linear(x - self.average)))


@dataclass
class ToySettings:
    iterations: tuple[int, int] = (23, 31)
    dropout: float = 0.3
    poison_at: int = -1  # batch of the first objective whose loss is not a number
    spike_at: int = -1  # batch of the first objective whose loss is a hundredfold
    codes: int = (
        0  # codes whose usage is a metric: by the size of a normal number, so that later ones are rare
    )


@dataclass
class ToyMethod:
    """Phases: encode (two networks), count (work without iterations), decode ∥ other (encoder frozen)."""

    settings: ToySettings = field(default_factory=ToySettings)
    name: str = "toy"
    begun: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.encoder, self.decoder, self.other = (
            Encoder(self.settings.dropout),
            nn.Linear(4, 5),
            nn.Linear(5, 1),
        )
        self.counter = nn.Module()
        self.counter.register_buffer("count", torch.zeros(()))

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "other": self.other,
            "counter": self.counter,
        }

    @property
    def state(self) -> Mapping[str, Stateful]:
        return {}

    def phases(self) -> Sequence[Phase]:
        first, second = self.settings.iterations
        return [
            Phase("encode", first, self._begin_encode),
            Phase("count", 0, self._begin_count),
            Phase("decode", second, self._begin_decode),
        ]

    def _begin_encode(self) -> Sequence[Objective]:
        self.begun.append("encode")
        sampler = ToySampler(1)
        return [Objective("skill", sampler, self._skill_loss(sampler), [self.encoder, self.decoder])]

    def _begin_count(self) -> Sequence[Objective]:
        self.begun.append("count")
        self.counter.count += 1 + torch.rand(())
        return []

    def _begin_decode(self) -> Sequence[Objective]:
        self.begun.append("decode")
        self.encoder.requires_grad_(False)
        with torch.no_grad():
            self.other.weight.normal_()
        sampler = ToySampler(2)
        return [
            Objective("skill", sampler, self._skill_loss(sampler), [self.encoder, self.decoder]),
            Objective("other", ToySampler(3), self._other_loss, [self.other]),
        ]

    def _skill_loss(self, sampler: ToySampler):
        def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            counted = batch["x"][:, 0] > 0
            error = (self.decoder(self.encoder(batch["x"])) - batch["x"]).square().mean(1)
            error = distributed.global_mean((error * counted).sum(), counted.sum())
            if sampler.step - 1 == self.settings.poison_at:
                error = error * float("nan")
            if sampler.step - 1 == self.settings.spike_at:
                error = error * 100
            metrics = {"largest": batch["x"].abs().max(), "means": batch["x"].mean(0)}
            if self.settings.codes:
                chosen = batch["x"][:, 0].abs().long().clamp(max=self.settings.codes - 1)
                metrics["usage"] = torch.bincount(chosen, minlength=self.settings.codes) / len(chosen)
            return error, metrics

        return loss

    def _other_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        target = batch["x"].sum(1, keepdim=True)
        return (
            self.other(nn.functional.dropout(batch["x"], self.settings.dropout)) - target
        ).square().mean(), {}


def make(settings: ToySettings | None = None) -> ToyMethod:
    seed_everything(TRAINING.seed)
    return ToyMethod(settings or ToySettings())


def folder(
    path, resume: bool = False, training: TrainingSettings = TRAINING, toy: ToySettings | None = None
) -> RunFolder:
    return RunFolder.create(path, {"toy": toy or ToySettings(), "training": training}, resume=resume)


def fail_if_threads_are_left() -> None:
    """End with status 3 if threads of the ranks' group stay."""
    deadline = time.monotonic() + 60  # the kernel lists a thread a little longer than it can be joined
    while any(b"gloo" in name for name in thread_names()):
        if time.monotonic() > deadline:
            os._exit(3)


def thread_names() -> list[bytes]:
    names = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm", "rb") as file:
            names.append(file.read())
    return names


if __name__ == "__main__":
    atexit.register(fail_if_threads_are_left)  # before the ranks' own, so that it comes after that
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--dropout", type=float, default=0.3)
    arguments = parser.parse_args()
    toy = ToySettings(dropout=arguments.dropout)
    run = folder(arguments.run, arguments.resume, toy=toy)
    Trainer(make(toy), run, TRAINING, progress=False).train(resume=arguments.resume)
