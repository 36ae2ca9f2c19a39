"""The episode store, its writer, and the samplers over it.

Parts load at first use, so that processes that only read or write episodes need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goskill.data.context_sampler import ContextSampler
    from goskill.data.convert.merging import merge
    from goskill.data.episode import Episode
    from goskill.data.normalization import Normalization, Statistics
    from goskill.data.replay import ReplayBuffer, ReplaySampler
    from goskill.data.segment_sampler import SegmentSampler
    from goskill.data.store import EpisodeStore
    from goskill.data.transition_sampler import TransitionSampler
    from goskill.data.variable_segment_sampler import VariableSegmentSampler
    from goskill.data.writer import StoreWriter

__all__ = [
    "ContextSampler",
    "Episode",
    "EpisodeStore",
    "Normalization",
    "ReplayBuffer",
    "ReplaySampler",
    "SegmentSampler",
    "Statistics",
    "StoreWriter",
    "TransitionSampler",
    "VariableSegmentSampler",
    "merge",
]
_LAZY = {
    "ContextSampler": "context_sampler",
    "Episode": "episode",
    "EpisodeStore": "store",
    "ReplayBuffer": "replay",
    "ReplaySampler": "replay",
    "Normalization": "normalization",
    "SegmentSampler": "segment_sampler",
    "Statistics": "normalization",
    "StoreWriter": "writer",
    "TransitionSampler": "transition_sampler",
    "VariableSegmentSampler": "variable_segment_sampler",
    "merge": "convert.merging",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"goskill.data.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'goskill.data' has no attribute {name!r}")
