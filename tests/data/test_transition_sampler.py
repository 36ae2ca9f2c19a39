"""Transitions against plain NumPy, index by index, and their distributions."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_oracle import transition_batch
from scipy import stats

from goskill.data import EpisodeStore, TransitionSampler
from goskill.errors import InputError, StoreError

COLUMNS = ["feature", "sub_task", "kept"]


def assert_same(batch: dict[str, torch.Tensor], expected: dict[str, np.ndarray]) -> None:
    assert set(batch) == set(expected)
    for name, value in expected.items():
        found = batch[name].numpy()
        assert found.dtype == value.dtype, name
        np.testing.assert_array_equal(found, value, err_msg=name)


def arrays(batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in batch.items()}


@settings(max_examples=150, deadline=None)
@given(
    balance=st.sampled_from(["transition", "task", "episode", "skill"]),
    interval=st.sampled_from([1, 2, 3, 10, 49, 50, 2**31 - 1]),
    gamma=st.sampled_from([0.0, 0.9, 0.99, 1.0]),
    discounted=st.booleans(),
    never=st.booleans(),
    normalize=st.booleans(),
    columns=st.lists(st.sampled_from(COLUMNS), unique=True),
    batch_size=st.integers(1, 20),
    step=st.integers(0, 2**40),
    seed=st.integers(0, 2**63 - 1),
    episodes=st.none() | st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True),
    weighted=st.booleans(),
    window=st.none() | st.tuples(st.integers(0, 60), st.integers(1, 60)) | st.just((3, 0)),
    placement=st.sampled_from([{}, {"resident": True}, {"threads": 3}]),
)
def test_transitions_equal_the_numpy_oracle(
    declaring: EpisodeStore,
    balance: str,
    interval: int,
    gamma: float,
    discounted: bool,
    never: bool,
    normalize: bool,
    columns: list[str],
    batch_size: int,
    step: int,
    seed: int,
    episodes: list[int] | None,
    weighted: bool,
    window: tuple[int, int] | None,
    placement: dict[str, Any],
) -> None:
    weights = None
    if balance == "episode" and weighted:
        weights = np.random.default_rng(seed).integers(0, 3, declaring.num_episodes) + 0.25
    sampler = TransitionSampler(
        declaring,
        batch_size,
        interval=interval,
        gamma=gamma,
        discounted_rewards=discounted,
        terminated="never" if never else "column",
        balance=balance,
        labels="skills",
        columns=columns,
        normalize=normalize,
        window=window,
        seed=seed,
        episodes=episodes,
        episode_weights=weights,
        **placement,
    )
    expected = transition_batch(
        declaring,
        step,
        batch_size,
        min(interval, 50),
        gamma,
        discounted,
        never,
        columns,
        normalize,
        seed,
        balance,
        window,
        episodes=None if episodes is None else sorted(episodes),
        episode_weights=weights,
    )
    assert_same(sampler.batch(step), expected)


@pytest.mark.parametrize("in_memory", [False, True])
def test_samples_of_a_task_follow_one_another(declaring: EpisodeStore, in_memory: bool) -> None:
    store = EpisodeStore.open(declaring.path, in_memory=in_memory)
    sampler = TransitionSampler(store, samples_per_task=7, balance="task", labels="skills", seed=3)
    assert sampler.batch_size == 21
    for step in range(3):
        batch = next(sampler)
        assert batch["task"].view(3, 7).eq(torch.arange(3)[:, None]).all()
        expected = transition_batch(
            declaring, step, 21, 1, 0.99, False, False, [], False, 3, "task", samples_per_task=7
        )
        assert_same(batch, expected)


def test_ranks_with_samples_per_task_partition_the_stream(declaring: EpisodeStore) -> None:
    common = {"balance": "task", "seed": 1, "episodes": [0, 1, 3, 5]}
    ranks = [
        TransitionSampler(declaring, samples_per_task=4, rank=rank, world_size=2, **common)
        for rank in range(2)
    ]
    for _ in range(3):
        parts = [next(rank) for rank in ranks]
        for part in parts:
            assert part["task"].tolist() == [0] * 4 + [1] * 4
        joined = torch.cat([part["observations"] for part in parts])
        assert len(joined.unique(dim=0)) > 8


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_partition_the_stream_of_one(declaring: EpisodeStore, world_size: int) -> None:
    whole = TransitionSampler(declaring, 6 * world_size, columns=COLUMNS)
    ranks = [
        TransitionSampler(declaring, 6, columns=COLUMNS, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for _ in range(3):
        parts = [next(rank) for rank in ranks]
        assert_same(next(whole), {name: torch.cat([p[name] for p in parts]).numpy() for name in parts[0]})


def test_resuming_continues_the_stream_exactly(declaring: EpisodeStore) -> None:
    sampler = TransitionSampler(declaring, 16, interval=3, columns=COLUMNS, seed=9)
    for _ in range(3):
        next(sampler)
    state = sampler.state_dict()
    expected = arrays(next(sampler))
    fresh = TransitionSampler(declaring, 16, interval=3, columns=COLUMNS)
    fresh.load_state_dict(state)
    assert_same(next(fresh), expected)
    assert_same(next(pickle.loads(pickle.dumps(sampler))), arrays(sampler.batch(4)))


def test_a_kept_batch_never_changes(declaring: EpisodeStore) -> None:
    sampler = TransitionSampler(declaring, 16, columns=COLUMNS)
    kept = [next(sampler) for _ in range(12)]
    for step, batch in enumerate(kept):
        assert_same(batch, arrays(sampler.batch(step)))


def test_steps_are_uniform_and_episodes_follow_their_weights(declaring: EpisodeStore) -> None:
    batch = next(TransitionSampler(declaring, 20_000, seed=2))
    steps = declaring.episode_start[batch["episode"].numpy()] + batch["start"].numpy()
    assert stats.chisquare(np.bincount(steps, minlength=declaring.num_steps)).pvalue > 1e-4
    weights = np.arange(12.0)
    for chosen, shares in ((None, np.ones(12)), (weights, weights)):
        sampler = TransitionSampler(declaring, 20_000, balance="episode", episode_weights=chosen, seed=4)
        batch = next(sampler)
        counts = np.bincount(batch["episode"].numpy(), minlength=12)
        assert counts[shares == 0].sum() == 0
        expected = 20_000 * shares / shares.sum()
        assert stats.chisquare(counts[shares > 0], expected[shares > 0]).pvalue > 1e-4
        starts = batch["start"].numpy()[batch["episode"].numpy() == 8]
        assert stats.chisquare(np.bincount(starts, minlength=50)).pvalue > 1e-4


def test_where_nothing_says_how_episodes_end_one_has_to(uneven: EpisodeStore) -> None:
    with pytest.raises(
        InputError, match=r"terminated: .* declares no column 'terminated'.*terminated='never'"
    ):
        TransitionSampler(uneven, 8)
    batch = next(TransitionSampler(uneven, 64, terminated="never"))
    assert not batch["terminated"].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": 0}, "interval"),
        ({"interval": 1.5}, "interval"),
        ({"gamma": 1.1}, r"gamma: expected a number in \[0, 1\], got 1.1"),
        ({"gamma": float("nan")}, "gamma"),
        ({"gamma": "high"}, "gamma"),
        ({"discounted_rewards": 1}, "discounted_rewards"),
        ({"terminated": "success"}, "terminated: expected 'column' or 'never', got 'success'"),
        ({"terminated": True}, "terminated: expected 'column' or 'never', got True"),
        ({"balance": "class"}, "balance: expected one of transition, task, episode, skill, got 'class'"),
        ({"balance": "skill"}, "labels"),
        ({"columns": ["image"]}, "column: .* got 'image'"),
        ({"window": (0, 0)}, "window: expected 1 to .* steps, got 0 and 0"),
        ({"window": (-1, 2)}, "window"),
        ({"window": 3}, r"window: expected \(before, after\) or None, got 3"),
        ({"columns": "feature"}, "columns: expected a sequence of names"),
        ({"columns": [3]}, "columns: expected a sequence of names"),
        ({"columns": ["terminated"]}, "columns: .* got 'terminated'"),
        ({"columns": ["kept", "kept"]}, "columns: expected distinct names"),
        ({"task_weights": {"task-0": 1.0}}, "task_weights: expected balance 'task'"),
        ({"episode_weights": np.ones(12)}, "episode_weights: expected balance 'episode'"),
        ({"balance": "episode", "episode_weights": np.ones(11)}, "episode_weights: .* 12 episodes"),
        ({"balance": "episode", "episode_weights": np.full(12, -1.0)}, "episode_weights: .* got -1.0"),
        ({"balance": "episode", "episode_weights": np.full(12, np.inf)}, "episode_weights: .* got inf"),
        ({"balance": "episode", "episode_weights": np.zeros(12)}, "episode_weights: no episode has a weight"),
        ({"balance": "episode", "episode_weights": np.full(12, 1e308)}, "episode_weights: .* finite sum"),
        ({"balance": "episode", "episode_weights": ["a"] * 12}, "episode_weights: .* dtype"),
        ({"batch_size": None}, "batch_size: expected it, or samples_per_task"),
        ({"samples_per_task": 4}, "samples_per_task: expected balance 'task'"),
        ({"samples_per_task": 4, "balance": "task"}, "samples_per_task: expected no batch_size"),
        ({"samples_per_task": 0, "balance": "task", "batch_size": None}, "samples_per_task"),
        ({"batch_size": 0}, "batch_size"),
        ({"episodes": []}, "episodes"),
        ({"store": "folder"}, "store: expected an EpisodeStore"),
    ],
)
def test_wrong_settings_are_refused_by_name(declaring: EpisodeStore, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TransitionSampler(**{"store": declaring, "batch_size": 8, **settings})


def test_missing_labels_are_named(declaring: EpisodeStore) -> None:
    with pytest.raises(StoreError, match=r"'unknown'.*'skills'"):
        TransitionSampler(declaring, 8, labels="unknown")
