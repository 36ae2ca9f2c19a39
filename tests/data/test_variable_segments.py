"""Segments of variable length against plain NumPy, index by index, and their distributions."""

from __future__ import annotations

import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_oracle import below, normalized, stack, words
from scipy import stats

from goskill.data import EpisodeStore, VariableSegmentSampler
from goskill.errors import InputError, StoreError

VARIABLE_SEGMENTS = 4


def runs(store: EpisodeStore, episodes: list[int]) -> list[tuple[int, int, int, int]]:
    """(episode, first step, steps, label) of every run of one label."""
    found = []
    labels = store.labels("skills").astype(int)
    for episode in episodes:
        first, length = int(store.episode_start[episode]), int(store.episode_length[episode])
        own = labels[first : first + length]
        bounds = [0, *(np.flatnonzero(np.diff(own)) + 1).tolist(), length]
        found += [(episode, begin, end - begin, int(own[begin])) for begin, end in pairwise(bounds)]
    return found


def oracle(
    store: EpisodeStore,
    step: int,
    batch_size: int,
    most: int,
    balance: str,
    normalize: bool,
    seed: int,
    episodes: list[int] | None,
) -> dict[str, np.ndarray]:
    segments = runs(store, list(range(store.num_episodes)) if episodes is None else episodes)
    classes = sorted({label for *_, label in segments})
    rows = []
    for sample in range(batch_size):
        random = words(seed, VARIABLE_SEGMENTS, step, sample)
        pool = segments
        if balance == "skill":
            turn = (step * batch_size + sample) % 2**64
            pool = [segment for segment in segments if segment[3] == classes[turn % len(classes)]]
        episode, begin, whole, label = pool[below(random[0], len(pool))]
        length = min(whole, most)
        start = begin + below(random[1], whole - length + 1)
        data = store.episode(episode)
        observations = np.zeros((most + 1, store.observation_dim), np.float32)
        actions = np.zeros((most, store.action_dim), np.float32)
        observations[: length + 1] = normalized(
            store, data.observations[start : start + length + 1], normalize
        )
        actions[:length] = data.actions[start : start + length]
        rows.append(
            {
                "observations": observations,
                "actions": actions,
                "mask": np.arange(most) < length,
                "length": np.int64(length),
                "start": np.int64(start),
                "segment_start": np.int64(begin),
                "segment_length": np.int64(whole),
                "episode": np.int64(episode),
                "task": np.int64(store.episode_task[episode]),
                "skill": np.int64(label),
            }
        )
    return stack(rows)


def assert_same(batch: dict[str, torch.Tensor], expected: dict[str, np.ndarray]) -> None:
    assert set(batch) == set(expected)
    for name, value in expected.items():
        assert batch[name].numpy().dtype == value.dtype, name
        np.testing.assert_array_equal(batch[name].numpy(), value, err_msg=name)


@pytest.fixture(scope="module")
def labelled(declaring: EpisodeStore) -> EpisodeStore:
    """Labels that last some steps each: segments of 1 to 50 steps."""
    store = EpisodeStore.open(declaring.path)
    generator = np.random.default_rng(5)
    labels = np.repeat(generator.integers(0, 4, store.num_steps), generator.integers(1, 9, store.num_steps))
    store.write_labels("skills", np.where(labels == 2, 4, labels)[: store.num_steps], 5)
    return EpisodeStore.open(declaring.path)


@settings(max_examples=80, deadline=None)
@given(
    most=st.sampled_from([1, 2, 3, 8, 60]),
    balance=st.sampled_from(["segment", "skill"]),
    normalize=st.booleans(),
    batch_size=st.integers(1, 20),
    step=st.integers(0, 2**40),
    seed=st.integers(0, 2**63 - 1),
    episodes=st.none() | st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True),
    placement=st.sampled_from([{}, {"resident": True}, {"threads": 3}]),
)
def test_segments_equal_the_numpy_oracle(
    labelled: EpisodeStore,
    most: int,
    balance: str,
    normalize: bool,
    batch_size: int,
    step: int,
    seed: int,
    episodes: list[int] | None,
    placement: dict[str, Any],
) -> None:
    common = {"balance": balance, "normalize": normalize, "seed": seed, "episodes": episodes}
    sampler = VariableSegmentSampler(labelled, "skills", most, batch_size, **common, **placement)
    chosen = None if episodes is None else sorted(episodes)
    expected = oracle(labelled, step, batch_size, most, balance, normalize, seed, chosen)
    assert_same(sampler.batch(step), expected)
    assert sampler.num_segments == len(runs(labelled, chosen or list(range(12))))


def test_segments_classes_and_crops_are_uniform(labelled: EpisodeStore) -> None:
    segments = runs(labelled, list(range(12)))
    batch = next(VariableSegmentSampler(labelled, "skills", 2, 30_000, seed=1))
    place = {(episode, begin): i for i, (episode, begin, *_) in enumerate(segments)}
    pairs = zip(batch["episode"].tolist(), batch["segment_start"].tolist(), strict=True)
    counts = np.bincount([place[pair] for pair in pairs], minlength=len(segments))
    assert stats.chisquare(counts).pvalue > 1e-4
    longest = int(np.argmax([whole for _, _, whole, _ in segments]))
    episode, begin, whole, _ = segments[longest]
    mine = (batch["episode"] == episode) & (batch["segment_start"] == begin)
    offsets = np.bincount((batch["start"][mine] - begin).numpy(), minlength=whole - 1)
    assert stats.chisquare(offsets).pvalue > 1e-4
    skills = next(VariableSegmentSampler(labelled, "skills", 2, 4000, balance="skill"))["skill"]
    assert np.bincount(skills.numpy(), minlength=5).tolist() == [1000, 1000, 0, 1000, 1000]


def test_ranks_partition_the_stream_and_resuming_goes_on(labelled: EpisodeStore) -> None:
    whole = VariableSegmentSampler(labelled, "skills", 4, 12, balance="skill")
    ranks = [
        VariableSegmentSampler(labelled, "skills", 4, 6, balance="skill", rank=rank, world_size=2)
        for rank in (0, 1)
    ]
    for _ in range(3):
        parts = [next(rank) for rank in ranks]
        assert_same(next(whole), {name: torch.cat([p[name] for p in parts]).numpy() for name in parts[0]})
    fresh = pickle.loads(pickle.dumps(whole))
    fresh.load_state_dict(whole.state_dict())
    assert_same(next(fresh), {name: value.numpy() for name, value in whole.batch(3).items()})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 0}, "max_length"),
        ({"max_length": 2**31}, "max_length"),
        ({"balance": "task"}, "balance: expected 'segment' or 'skill', got 'task'"),
        ({"labels": None}, "labels: expected the name of a label column, got None"),
        ({"batch_size": 0}, "batch_size"),
        ({"episodes": []}, "episodes"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_settings_are_refused_by_name(labelled: EpisodeStore, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        VariableSegmentSampler(labelled, **{"labels": "skills", "max_length": 4, "batch_size": 8, **settings})


def test_missing_labels_are_named(labelled: EpisodeStore) -> None:
    with pytest.raises(StoreError, match=r"'unknown'.*'skills'"):
        VariableSegmentSampler(labelled, "unknown", 4, 8)
