"""Windows of consecutive steps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from goskill import _core
from goskill.data.arguments import MOST_STEPS, checked_integer
from goskill.data.buffers import ArraySpec
from goskill.data.normalization import Normalization
from goskill.data.resident import ResidentColumns
from goskill.data.sampler import Batch
from goskill.data.step_sampler import StepSampler
from goskill.data.store import EpisodeStore


class SegmentSampler(StepSampler):
    """Windows of H consecutive steps, the start uniform over the steps of the episodes.

    An endless iterable of batches; each is a dict of tensors:

    - ``observations`` float32 [B, H + 1, observation_dim]: rows 0 … H-1 are the window's states; row H is
      always the goal state s(min(start + H, T));
    - ``actions`` float32 [B, H, action_dim];
    - ``mask`` bool [B, H]: False in rows past the end of the episode, which are zero (also when normalised);
    - ``start``, ``episode``, ``task`` int64 [B]: where the window came from;
    - ``skill`` int64 [B]: the label at the start, if ``labels`` is given.

    A batch may be kept and changed freely; its memory is used again only when no tensor looks at it any more.

    Parameters
    ----------
    store: the open store.
    horizon: H >= 1.
    batch_size: B, per rank.
    balance: "task" (sample g of the stream belongs to task g mod the number of tasks that have episodes),
        "transition" (uniform over all steps), "episode" (uniform over the episodes, or by ``episode_weights``, then
        over the steps of the episode) or "skill" (sample g belongs to class g mod the number of
        classes that occur, uniform over its steps; needs ``labels``).
    labels: name of a label column.
    normalize: normalise observations by the store's own statistics (True), or by a given Normalization.
    seed: the random numbers are Philox4x64-10 of (seed, step, sample): any number of threads, ranks and
        workers gives the same stream.
    threads: threads that fill a batch, 0 for all cores.
    episodes: indices of the episodes to sample from; all by default.
    task_weights: with balance "task", draw tasks at random in these proportions (tasks left out: 0).
    episode_weights: with balance "episode", one for each episode of the store.
    rank, world_size: this rank gets samples rank·B … rank·B + B - 1 of a global batch of world_size·B.
    device: where batches go. For a CUDA device they are filled in pinned memory and copied in one piece,
        without waiting for the copy.
    pin_memory: with device "cpu", batches in pinned memory, for callers that copy them themselves.
    resident: keep the columns on ``device`` and gather there from the same random numbers: the same
        batches, bit for bit. The device must hold the store (100M steps of 39 + 4 floats: 17.2 GB).

    Raises InputError for wrong arguments and StoreError for labels that are missing or damaged.
    """

    def __init__(
        self,
        store: EpisodeStore,
        horizon: int,
        batch_size: int,
        balance: str = "task",
        labels: str | None = None,
        normalize: bool | Normalization = False,
        seed: int = 0,
        threads: int = 1,
        episodes: npt.ArrayLike | None = None,
        task_weights: Mapping[str, float] | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
        pin_memory: bool = False,
        resident: bool = False,
        episode_weights: npt.ArrayLike | None = None,
    ) -> None:
        self._horizon = checked_integer("horizon", horizon, 1, MOST_STEPS)
        super().__init__(
            store,
            batch_size,
            balance=balance,
            labels=labels,
            task_weights=task_weights,
            episode_weights=episode_weights,
            samples_per_task=None,
            normalize=normalize,
            seed=seed,
            threads=threads,
            episodes=episodes,
            rank=rank,
            world_size=world_size,
            device=device,
            pin_memory=pin_memory,
            resident=resident,
        )

    def _build(self) -> _core.SegmentSampler:
        return _core.SegmentSampler(horizon=self._horizon, **self._shared())

    def _gathered_specs(self) -> list[ArraySpec]:
        batch, horizon = self._batch_size, self._horizon
        specs = [
            ArraySpec("observations", np.float32, (batch, horizon + 1, self._store.observation_dim)),
            ArraySpec("actions", np.float32, (batch, horizon, self._store.action_dim)),
            ArraySpec("mask", np.bool_, (batch, horizon)),
        ]
        return specs if self._labels is None else [*specs, ArraySpec("skill", np.int64, (batch,))]

    def _column_names(self) -> list[str]:
        return ["actions"]

    def _gather(self, columns: ResidentColumns, places: Batch) -> Batch:
        return columns.segments(places, self._horizon)
