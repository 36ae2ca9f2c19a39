"""Which skill each step of an episode shows: clusters of features, smoothed, and merged into segments."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.cluster import vq
from scipy.signal import medfilt

from goskill.data import EpisodeStore
from goskill.errors import InputError, StoreError
from goskill.methods.extract.settings import ExtractSettings

FITTED = 100_000
"""Steps at most that clusters are found from; the others are assigned."""
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def features_of(store: EpisodeStore, features: str) -> Float32Array:
    """Differences from the first step of each episode, float32 [num_steps, F].

    ``features`` is "state" or "action", whose dimensions are divided by their standard deviation, or the name of a
    declared column, which is taken as it is. Raises InputError for a column that is missing, and for values that are
    not numbers or not finite.
    """
    parts = [_of_episode(store, index, features) for index in range(store.num_episodes)]
    if not parts:
        raise InputError(f"{store.path}: expected episodes, it has none")
    found = np.concatenate([part - part[:1] for part in parts])
    if features not in ("state", "action"):
        return np.asarray(found, np.float32)
    spread = found.std(axis=0)
    return np.asarray(found / np.where(spread > 0, spread, 1.0), np.float32)


def _of_episode(store: EpisodeStore, index: int, features: str) -> Float32Array:
    episode = store.episode(index)
    if features == "state":
        values: Any = episode.observations[: len(episode.actions)]
    elif features == "action":
        values = episode.actions
    elif features in episode.columns:
        values = episode.columns[features]
    else:
        known = ", ".join(("state", "action", *store.columns))
        raise InputError(f"features: {store.path} has no column {features!r}: expected one of {known}")
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise InputError(f"features: column {features!r}: expected numbers, got dtype {values.dtype}")
    flat = values.reshape(len(values), -1).astype(np.float32)
    if not np.isfinite(flat).all():
        raise InputError(f"features: {features!r}: expected finite values, episode {index} has others")
    return np.asarray(flat, np.float32)


def clustered(features: Float32Array, clusters: int, seed: int) -> IntArray:
    """K-means: a cluster of each row. Raises InputError for fewer different rows than clusters."""
    random = np.random.default_rng(seed)
    fitted = features
    if len(features) > FITTED:
        fitted = features[np.sort(random.choice(len(features), FITTED, replace=False))]
    if len(np.unique(fitted, axis=0)) < clusters:
        raise InputError(
            f"clusters: expected at most as many as there are different features, got {clusters}"
        )
    centres, _ = vq.kmeans2(fitted.astype(np.float64), clusters, iter=50, minit="++", seed=random)
    return np.asarray(vq.vq(features.astype(np.float64), centres)[0], np.int64)


def merged(labels: IntArray, shortest: int) -> IntArray:
    """The labels of an episode with segments of fewer than ``shortest`` steps as parts of the next one.

    A short one at the end becomes a part of the one before.
    """
    ends = [*(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    found = labels.copy()
    start, last = 0, None
    for end in ends:
        if end - start < shortest and end < len(labels):
            continue  # goes on into the next segment
        if end - start < shortest and last is not None:
            found[start:end] = last
        else:
            last = labels[end - 1]
            found[start:end] = last
        start = end
    return np.asarray(found, np.int64)


def label_segments(store: EpisodeStore, settings: ExtractSettings, seed: int) -> str:
    """Write the label column of the segments of ``store``, unless it is there; returns its name.

    Raises InputError for features or labels that are missing or not finite.
    """
    name = segments_name(settings, seed)
    try:
        store.labels(name)
    except StoreError:
        store.write_labels(name, _segments(store, settings, seed), class_count(store, settings))
    return name


def segments_name(settings: ExtractSettings, seed: int) -> str:
    """Name of the label column: what it was found from, and a digest of everything that decides it."""
    wanted = ("features", "labels", "clusters", "median_steps", "shortest")
    decided = json.dumps([*(getattr(settings, one) for one in wanted), seed])
    return (
        f"segments-{settings.labels or settings.features}-{hashlib.sha256(decided.encode()).hexdigest()[:12]}"
    )


def class_count(store: EpisodeStore, settings: ExtractSettings) -> int:
    """How many discrete skills there are. Raises InputError for labels that are missing."""
    if not settings.labels:
        return settings.clusters
    try:
        return store.num_classes(settings.labels)
    except StoreError as error:
        raise InputError(f"labels: {error}") from None


def _segments(store: EpisodeStore, settings: ExtractSettings, seed: int) -> IntArray:
    ends = np.cumsum(store.episode_length)[:-1]
    if settings.labels:
        found = [
            np.asarray(part, np.int64) for part in np.split(np.asarray(store.labels(settings.labels)), ends)
        ]
    else:
        clusters = clustered(features_of(store, settings.features), settings.clusters, seed)
        found = [_smoothed(part, settings.median_steps) for part in np.split(clusters, ends)]
    return np.concatenate([merged(part, settings.shortest) for part in found])


def _smoothed(labels: IntArray, steps: int) -> IntArray:
    """Each step's median over a window, which stays within the episode: its ends are repeated."""
    half = steps // 2
    padded = np.pad(labels, half, mode="edge")
    return np.asarray(medfilt(padded.astype(np.float64), steps)[half : len(padded) - half], np.int64)
