"""What a method says of steps of a store, beside what the store says: the material of a diagnosis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goskill.training import Batch, Sampler

BATCH = 256  # rows per forward pass
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ActionPredictions:
    """Actions of n steps with everything before them given (teacher forcing).

    ``predicted`` and ``taken`` float32 [n, action_dim]; ``task`` int64 [n], an index into the store's tasks; ``step``
    int64 [n], how long the decision was ago from which the action follows; ``skill`` int64 [n], the true skill in
    charge, or None without a codebook.
    """

    predicted: FloatArray
    taken: FloatArray
    task: IntArray
    step: IntArray
    skill: IntArray | None

    @classmethod
    def join(cls, parts: Sequence[ActionPredictions]) -> ActionPredictions:
        """All parts, one after the other."""
        skills = [part.skill for part in parts if part.skill is not None]
        return cls(
            np.concatenate([part.predicted for part in parts]),
            np.concatenate([part.taken for part in parts]),
            np.concatenate([part.task for part in parts]),
            np.concatenate([part.step for part in parts]),
            np.concatenate(skills) if skills else None,
        )


@dataclass(frozen=True)
class SkillPredictions:
    """The most probable skill at n decision points with the true skills before them given, and the true one.

    ``predicted``, ``true`` and ``task`` (an index into the store's tasks) are int64 [n].
    """

    predicted: IntArray
    true: IntArray
    task: IntArray

    @classmethod
    def join(cls, parts: Sequence[SkillPredictions]) -> SkillPredictions:
        """All parts, one after the other."""
        return cls(
            np.concatenate([part.predicted for part in parts]),
            np.concatenate([part.true for part in parts]),
            np.concatenate([part.task for part in parts]),
        )


def batches(sampler: Sampler, device: torch.device, samples: int) -> Iterator[tuple[Batch, int]]:
    """Batches on ``device``, each with how many of its rows count, until ``samples`` rows did."""
    left = samples
    for batch in sampler:
        rows = min(left, len(batch["mask"]))
        yield {name: values.to(device) for name, values in batch.items()}, rows
        left -= rows
        if left == 0:
            return


def repeat(values: Tensor, times: int) -> IntArray:
    """int64 [B] -> [B, times]."""
    return np.repeat(values.cpu().numpy()[:, None], times, axis=1)


def as_array(values: Tensor) -> FloatArray:
    """As float32 on the CPU."""
    return np.asarray(values.float().cpu().numpy(), dtype=np.float32)
