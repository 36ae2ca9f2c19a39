"""The episode store, its writer, and the samplers over it."""

from goskill.data.context_sampler import ContextSampler
from goskill.data.episode import Episode
from goskill.data.segment_sampler import SegmentSampler
from goskill.data.statistics import Normalization, Statistics
from goskill.data.store import EpisodeStore
from goskill.data.writer import StoreWriter

__all__ = [
    "ContextSampler",
    "Episode",
    "EpisodeStore",
    "Normalization",
    "SegmentSampler",
    "Statistics",
    "StoreWriter",
]
