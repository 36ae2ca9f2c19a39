"""The replay buffer against a list of transitions, its streams, and its states."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sampler_oracle import below, words
from scipy import stats

from goskill.data import EpisodeStore, Normalization, ReplayBuffer, ReplaySampler, TransitionSampler
from goskill.data.mixed_sampler import MixedSampler
from goskill.errors import InputError

COLUMNS = {"skill": ("f4", 3), "option": "i8", "image": ("u1", (2, 2))}
REPLAY = 5


def transitions(generator: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    return {
        "observations": generator.standard_normal((count, 4)).astype(np.float32),
        "actions": generator.standard_normal((count, 2)).astype(np.float32),
        "rewards": generator.standard_normal(count).astype(np.float32),
        "next_observations": generator.standard_normal((count, 4)).astype(np.float32),
        "terminated": generator.integers(0, 2, count).astype(bool),
        "discount": generator.random(count).astype(np.float32),
        "skill": generator.standard_normal((count, 3)).astype(np.float32),
        "option": generator.integers(-(2**60), 2**60, count),
        "image": generator.integers(0, 256, (count, 2, 2)).astype(np.uint8),
    }


def buffer(capacity: int, tasks: int | None = None, **settings: Any) -> ReplayBuffer:
    return ReplayBuffer(capacity, 4, 2, tasks=tasks, columns=COLUMNS, **settings)


def held(replay: ReplayBuffer) -> list[list[dict[str, Any]]]:
    """The rows of each ring, as the state says."""
    state = {name: value.numpy() for name, value in replay.state_dict().items() if name != "added"}
    rings, first = [], 0
    for size in replay.sizes.tolist():
        rings.append([{name: value[i] for name, value in state.items()} for i in range(first, first + size)])
        first += size
    return rings


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 9),
    tasks=st.none() | st.integers(1, 4),
    counts=st.lists(st.integers(0, 12), max_size=8),
    seed=st.integers(0, 1000),
)
def test_rings_hold_the_last_transitions(
    capacity: int, tasks: int | None, counts: list[int], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    replay = buffer(capacity, tasks)
    expected = [deque(maxlen=capacity) for _ in range(tasks or 1)]
    for count in counts:
        rows = transitions(generator, count)
        task = None if tasks is None else generator.integers(0, tasks, count)
        replay.add(**rows, task=task)
        for i in range(count):
            expected[0 if task is None else task[i]].append({name: value[i] for name, value in rows.items()})
    assert len(replay) == sum(map(len, expected))
    for ring, wanted in zip(held(replay), expected, strict=True):
        order = [row["option"].item() for row in ring]
        assert sorted(order) == sorted(row["option"].item() for row in wanted)
        by_option = {row["option"].item(): row for row in wanted}
        for row in ring:
            for name, value in row.items():
                np.testing.assert_array_equal(value, by_option[row["option"].item()][name])


@pytest.mark.parametrize("tasks", [None, 3])
def test_batches_equal_the_oracle(tasks: int | None) -> None:
    generator = np.random.default_rng(0)
    replay = buffer(10, tasks)
    for count in (7, 9, 30):
        task = None if tasks is None else np.concatenate([np.arange(3), generator.integers(0, 3, count - 3)])
        replay.add(**transitions(generator, count), task=task)
    rings = held(replay)
    for chosen in (None,) if tasks is None else (None, [2, 0]):
        sampler = ReplaySampler(replay, 6, tasks=chosen, seed=3)
        for step in range(3):
            batch = next(sampler)
            for place, ring in enumerate(chosen or range(tasks or 1)):
                for i in range(6):
                    number = below(words(3, REPLAY, step, place * 6 + i)[0], len(rings[ring]))
                    for name, value in rings[ring][number].items():
                        found = batch[name][i] if tasks is None else batch[name][place, i]
                        np.testing.assert_array_equal(found.numpy(), value, err_msg=name)


def test_draws_are_uniform_over_what_is_held() -> None:
    replay = buffer(50)
    replay.add(**{**transitions(np.random.default_rng(0), 40), "option": np.arange(40)})
    counts = np.bincount(next(ReplaySampler(replay, 20_000))["option"].numpy(), minlength=40)
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("tasks", [None, 2])
def test_a_saved_buffer_goes_on_bit_for_bit(tasks: int | None, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    replay = buffer(8, tasks)
    task = None if tasks is None else [0, 1, 1]
    for _ in range(5):
        replay.add(**transitions(generator, 3), task=task)
    sampler = ReplaySampler(replay, 4)
    next(sampler)
    save_file(replay.state_dict(), tmp_path / "replay.safetensors")
    other = buffer(8, tasks)
    other.add(**transitions(generator, 3), task=task)
    other.load_state_dict(load_file(tmp_path / "replay.safetensors"))
    resumed = ReplaySampler(other, 4)
    resumed.load_state_dict(sampler.state_dict())
    for _ in range(4):
        for name, value in next(sampler).items():
            assert torch.equal(next_of(resumed, name, sampler), value) or name
        rows = transitions(generator, 3)
        replay.add(**rows, task=task)
        other.add(**rows, task=task)
    for name, value in replay.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def next_of(sampler: ReplaySampler, name: str, other: ReplaySampler) -> torch.Tensor:
    """The same step's column of another sampler."""
    return sampler.batch(other.state_dict()["step"] - 1)[name]


def test_places_are_gathered_to_the_same_batches_and_normalised() -> None:
    replay = buffer(20)
    replay.add(**transitions(np.random.default_rng(2), 15))
    plain, normalised = (
        ReplaySampler(replay, 5, seed=4, normalize=normalization)
        for normalization in (None, Normalization(np.full(4, 2, np.float32), np.full(4, 3, np.float32)))
    )
    for step in range(3):
        batch = next(plain)
        other = normalised.gather(normalised.places(step))
        for name, value in batch.items():
            expected = (value - 2) / 3 if "observations" in name else value
            assert torch.equal(other[name], expected), name


def test_ranks_draw_different_numbers_of_one_stream() -> None:
    replay = buffer(1000)
    replay.add(**{**transitions(np.random.default_rng(0), 1000), "option": np.arange(1000)})
    parts = [next(ReplaySampler(replay, 8, rank=rank))["option"] for rank in range(3)]
    assert torch.equal(torch.cat(parts), next(ReplaySampler(replay, 24))["option"])


def test_what_stands_for_all_may_be_given_once() -> None:
    replay = buffer(10)
    rows = transitions(np.random.default_rng(0), 4)
    replay.add(**{**rows, "discount": 0.9, "option": 7, "skill": torch.ones(3)})
    ring = held(replay)[0]
    assert {row["option"].item() for row in ring} == {7}
    assert all((row["skill"] == 1).all() and row["discount"] == np.float32(0.9) for row in ring)


def test_clearing_a_task_forgets_it_alone() -> None:
    replay = buffer(10, 2)
    replay.add(**transitions(np.random.default_rng(0), 6), task=[0, 0, 0, 1, 1, 1])
    replay.clear(1)
    assert replay.sizes.tolist() == [3, 0]
    assert len(next(ReplaySampler(replay, 4, tasks=[0]))["rewards"][0]) == 4
    with pytest.raises(InputError, match="buffer: there is nothing to draw from in ring 1"):
        next(ReplaySampler(replay, 4))
    replay.clear()
    assert len(replay) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observations": np.zeros((3, 5))}, r"observations: expected shape \[3, 4\], got \[3, 5\]"),
        ({"actions": np.zeros((2, 2))}, r"actions: expected shape \[3, 2\]"),
        ({"rewards": 1.0}, "rewards: expected one for each transition"),
        ({"rewards": np.full(3, np.nan)}, "rewards: expected finite values"),
        ({"terminated": ["yes"] * 3}, "terminated: expected numbers"),
        ({"terminated": True}, r"terminated: expected shape \[3\], got \[\]"),
        ({"rewards": torch.tensor([0.0, torch.inf, 0.0])}, r"rewards: .* got inf at index \[1\]"),
        ({"rewards": [0.0, 0.0, 1e300]}, "rewards: expected finite values that fit float32, got 1e\\+300"),
        ({"terminated": [0.0, 0.5, 1.0]}, "terminated: .* that fit bool, got 0.5"),
        ({"terminated": [0, 2, 1]}, "terminated: .* that fit bool, got 2"),
        ({"option": 1.7}, "option: .* that fit int64, got 1.7"),
        ({"option": torch.tensor(1.7)}, "option: .* that fit int64, got 1.7"),
        (
            {"option": torch.ones((), device="meta")},
            "option: expected values that fit torch.int64, got torch.float32",
        ),
        ({"option": np.uint64(2**63)}, "option: .* that fit int64"),
        (
            {"rewards": torch.zeros(3, dtype=torch.complex64)},
            "rewards: expected numbers, got dtype complex64",
        ),
        ({"option": None}, "columns: expected .* got others in option"),
        ({"other": np.zeros(3)}, "columns: expected .* got others in other"),
        ({"task": 0}, "task: expected none"),
    ],
)
def test_wrong_transitions_are_refused_and_nothing_is_added(change: dict, message: str) -> None:
    replay = buffer(10)
    rows = {**transitions(np.random.default_rng(0), 3), **change}
    with pytest.raises(InputError, match=message):
        replay.add(**{name: value for name, value in rows.items() if value is not None})
    assert len(replay) == 0


@pytest.mark.parametrize("task", [None, 2, -1, [0, 1], [0.0, 1.0, 1.0]])
def test_wrong_tasks_are_refused(task) -> None:
    with pytest.raises(InputError, match="task"):
        buffer(10, 2).add(**transitions(np.random.default_rng(0), 3), task=task)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"capacity": 0}, "capacity"),
        ({"observation_dim": 0}, "observation_dim"),
        ({"tasks": 0}, "tasks"),
        ({"columns": {"rewards": "f4"}}, "columns"),
        ({"columns": {"discount": "f4"}}, "columns: .* got 'discount'"),
        ({"columns": {"added": "f4"}}, "columns: .* got 'added'"),
        ({"columns": {"x": "u4"}}, "columns: 'x': expected integers with a sign"),
        ({"columns": {"x": "U5"}}, "columns: 'x'"),
        ({"device": "gpu"}, "device"),
    ],
)
def test_wrong_buffers_are_refused_by_name(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ReplayBuffer(**{"capacity": 5, "observation_dim": 4, "action_dim": 2, **settings})


@pytest.mark.parametrize(
    "change",
    [
        {"added": torch.tensor([-1])},
        {"added": torch.tensor([3.0])},
        {"added": torch.tensor([3, 3])},
        {"added": torch.tensor([4])},
        {"rewards": torch.zeros(2)},
        {"rewards": torch.zeros(3, dtype=torch.float64)},
        {"rewards": [0.0, 0.0, 0.0]},
        {"rewards": None},
        {"other": torch.zeros(3)},
    ],
)
def test_states_that_do_not_fit_are_refused_and_nothing_changes(change: dict) -> None:
    replay = buffer(5)
    replay.add(**transitions(np.random.default_rng(0), 3))
    before = {name: value.clone() for name, value in replay.state_dict().items()}
    state = {name: value for name, value in {**before, **change}.items() if value is not None}
    with pytest.raises(InputError, match="state: expected"):
        replay.load_state_dict(state)
    for name, value in replay.state_dict().items():
        assert torch.equal(value, before[name])


def test_stored_and_replayed_transitions_mix_by_batch_size(declaring: EpisodeStore) -> None:
    replay = ReplayBuffer(10, declaring.observation_dim, declaring.action_dim)
    rows = transitions(np.random.default_rng(0), 6)
    shapes = {"observations": (6, 5), "next_observations": (6, 5), "actions": (6, 2)}
    replay.add(
        **{name: np.zeros(shape) for name, shape in shapes.items()},
        **{name: rows[name] for name in ("rewards", "terminated")},
    )
    stored, replayed = TransitionSampler(declaring, 6, resident=True), ReplaySampler(replay, 2)
    mixed = MixedSampler([stored, replayed])
    batch = next(mixed)
    assert batch["source"].tolist() == [0] * 6 + [1] * 2
    assert set(batch) == {
        *("observations", "actions", "rewards", "next_observations", "terminated", "discount", "source")
    }
    for name in ("observations", "rewards"):
        expected = torch.cat([stored.batch(0)[name], replayed.batch(0)[name]])
        assert torch.equal(batch[name], expected)
    state = mixed.state_dict()
    expected = next(mixed)
    other = MixedSampler([TransitionSampler(declaring, 6, resident=True), ReplaySampler(replay, 2)])
    other.load_state_dict(state)
    gathered = other.gather(other.next_places())
    for name, value in expected.items():
        assert torch.equal(gathered[name], value), name
    with pytest.raises(InputError, match="samplers"):
        MixedSampler([])
    with pytest.raises(InputError, match="samplers: expected all of them resident"):
        MixedSampler([TransitionSampler(declaring, 6), replayed])
