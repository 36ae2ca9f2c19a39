"""Segments of variable length: consecutive steps of one label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from goskill import _core
from goskill.data.arguments import MOST_STEPS, checked_integer
from goskill.data.buffers import ArraySpec
from goskill.data.resident import ResidentColumns
from goskill.data.sampler import Batch, SamplingOptions, StoreSampler
from goskill.data.store import EpisodeStore
from goskill.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Unpack

_PLACES = ("length", "start", "segment_start", "segment_length", "episode", "task", "skill")


class VariableSegmentSampler(StoreSampler):
    """Segments of an episode: as many consecutive steps as have one label, padded on the right.

    A segment longer than L = ``max_length`` is cropped to L steps that begin uniformly at random within it. Segments
    that are too short to be of use have to be given another label before (`EpisodeStore.write_labels`).

    An endless iterable of batches; each is a dict of tensors, n the sample's ``length``:

    - ``observations`` float32 [B, L + 1, observation_dim]: rows 0 … n-1 are the states, row n the one after the last
      step, the rest zero;
    - ``actions`` float32 [B, L, action_dim]: n rows, the rest zero;
    - ``mask`` bool [B, L]: True in the first n;
    - ``length`` int64 [B]: n; ``start``: the sample's first step in the episode;
    - ``segment_start``, ``segment_length`` int64 [B]: the same of the whole segment;
    - ``episode``, ``task``, ``skill`` int64 [B]: where it came from, and its label.

    A batch may be kept and changed freely; its memory is used again only when no tensor looks at it any more.

    Parameters
    ----------
    store: the open store.
    labels: name of a label column.
    max_length: L >= 1.
    batch_size: B, per rank.
    balance: "segment" (uniform over the segments) or "skill" (sample g of the stream belongs to class g mod the number
        of classes that occur, uniform over its segments).
    normalize, seed, threads, episodes, rank, world_size, device, pin_memory, resident: as for
        :class:`SegmentSampler`.

    Raises InputError for wrong arguments and StoreError for labels that are missing or damaged.
    """

    _native: _core.VariableSegmentSampler

    def __init__(
        self,
        store: EpisodeStore,
        labels: str,
        max_length: int,
        batch_size: int,
        *,
        balance: str = "segment",
        **options: Unpack[SamplingOptions],
    ) -> None:
        if balance not in ("segment", "skill"):
            raise InputError(f"balance: expected 'segment' or 'skill', got {balance!r:.80}")
        if not isinstance(labels, str):
            raise InputError(f"labels: expected the name of a label column, got {labels!r:.80}")
        self._max_length = checked_integer("max_length", max_length, 1, MOST_STEPS)
        self._by_class = balance == "skill"
        super().__init__(store, batch_size, labels, **options)

    @property
    def num_segments(self) -> int:
        """Segments in the sampled episodes."""
        return self._native.num_segments

    def _build(self) -> _core.VariableSegmentSampler:
        shared = self._shared()
        del shared["task_weights"]
        return _core.VariableSegmentSampler(max_length=self._max_length, by_class=self._by_class, **shared)

    def _place_specs(self) -> list[ArraySpec]:
        return [ArraySpec(name, np.int64, (self._batch_size,)) for name in _PLACES]

    def _gathered_specs(self) -> list[ArraySpec]:
        batch, most = self._batch_size, self._max_length
        return [
            ArraySpec("observations", np.float32, (batch, most + 1, self._store.observation_dim)),
            ArraySpec("actions", np.float32, (batch, most, self._store.action_dim)),
            ArraySpec("mask", np.bool_, (batch, most)),
        ]

    def _column_names(self) -> list[str]:
        return ["actions"]

    def _gather(self, columns: ResidentColumns, places: Batch) -> Batch:
        return columns.variable_segments(places, self._max_length)
