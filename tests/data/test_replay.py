"""The replay buffer against a list of all that was added."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goskill.data.replay import ReplayBuffer, ReplayStream
from goskill.errors import InputError

COLUMNS = {"number": (torch.int64, ()), "state": (torch.float32, (2,))}


def rows(first: int, count: int, agents: int) -> dict[str, np.ndarray]:
    number = np.arange(first, first + count) + 10_000 * np.arange(agents)[:, None]
    return {"number": number, "state": np.stack([number, -number], -1).astype(np.float32)}


@given(
    capacity=st.integers(1, 40),
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    agents=st.integers(1, 3),
)
def test_the_newest_rows_of_each_agent_are_there(capacity: int, counts: list[int], agents: int) -> None:
    buffer, added = ReplayBuffer(capacity, COLUMNS, agents), 0
    for count in counts:
        if count > capacity:
            with pytest.raises(InputError, match=f"1 to {capacity} rows"):
                buffer.add(rows(added, count, agents))
            continue
        buffer.add(rows(added, count, agents))
        added += count
    if not added:
        with pytest.raises(InputError, match="at least one row"):
            buffer.sample(3, 0, 0)
        return
    assert len(buffer) == min(added, capacity)
    batch = buffer.sample(64, seed=3, step=5)
    newest = np.arange(max(0, added - capacity), added)
    for agent in range(agents):
        number = batch["number"][agent].numpy()
        assert np.isin(number - 10_000 * agent, newest).all()
        np.testing.assert_array_equal(batch["state"][agent].numpy(), np.stack([number, -number], -1))
    again = ReplayBuffer(capacity, COLUMNS, agents)
    again.load_state_dict(buffer.state_dict())
    for one in (buffer, again):
        one.add(rows(added, 1, agents))
    for step in range(3):
        first, second = buffer.sample(9, 1, step), again.sample(9, 1, step)
        assert all(torch.equal(first[name], second[name]) for name in COLUMNS)


def test_draws_are_uniform_and_a_function_of_seed_and_step() -> None:
    buffer = ReplayBuffer(10, COLUMNS)
    buffer.add(rows(0, 10, 1))
    numbers = torch.cat([buffer.sample(1000, 0, step)["number"][0] for step in range(10)])
    counts = np.bincount(numbers.numpy(), minlength=10)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(900)
    assert torch.equal(buffer.sample(50, 7, 2)["number"], buffer.sample(50, 7, 2)["number"])
    assert not torch.equal(buffer.sample(50, 7, 2)["number"], buffer.sample(50, 7, 3)["number"])
    stream = ReplayStream(buffer, 4, 0)
    taken = iter(stream)
    for _ in range(3):
        next(taken)
    other = ReplayStream(buffer, 4, 0)
    other.load_state_dict(stream.state_dict())
    assert torch.equal(next(taken)["number"], next(iter(other))["number"])


def test_wrong_rows_are_named() -> None:
    buffer = ReplayBuffer(8, COLUMNS, 2)
    with pytest.raises(InputError, match="expected columns number, state, got number"):
        buffer.add({"number": np.zeros((2, 3))})
    with pytest.raises(InputError, match=r"expected state of shape \(2, 3, 2\)"):
        buffer.add({"number": np.zeros((2, 3)), "state": np.zeros((2, 3, 5))})
    with pytest.raises(InputError, match="capacity: expected at least 1"):
        ReplayBuffer(0, COLUMNS)
