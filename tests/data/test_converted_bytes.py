"""Converted values are the source's, bit for bit in float32, whatever the layout, the sizes and the types.

Sources are drawn at random in the exact layout and read again by NumPy, h5py, pyarrow and torch; stores are read by
NumPy alone. What the readers in ``plain_flat`` and ``plain_groups`` leave out is what docs/data.md says is lost.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_episodes import Plain, stored
from plain_sources import SOURCES

from goskill.data.convert import LAYOUTS

NEEDS = {"minari": ("minari", "h5py", "pyarrow"), "tdmpc2": ("tensordict",), "lerobot": ("pyarrow",)}
NEEDS |= dict.fromkeys(("hdf5", "robomimic", "vintix"), ("h5py",))


def float32_bits(values: np.ndarray) -> bytes:
    """Numbers in float32, rounded to the nearest by Python."""
    flat = values.reshape(-1).tolist()
    return struct.pack(f"<{len(flat)}f", *flat)


def assert_same(found: Iterator[Plain], expected: list[Plain]) -> None:
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours.task == theirs.task
        for name in ("observations", "actions", "rewards"):
            there, here = getattr(theirs, name), getattr(ours, name)
            assert (here.dtype, here.shape) == (np.dtype("<f4"), there.shape), (number, name)
            assert here.tobytes() == float32_bits(there), (number, name)
        assert ours.success == (None if theirs.success is None else [bool(one) for one in theirs.success])
        assert set(ours.columns) == set(theirs.columns)
        for name, there in theirs.columns.items():
            little = there.astype(there.dtype.newbyteorder("<"))
            assert (ours.columns[name].dtype, ours.columns[name].shape) == (little.dtype, there.shape), name
            assert ours.columns[name].tobytes() == little.tobytes(), (number, name)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_every_stored_value_is_the_sources(layout: str, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    for package in NEEDS.get(layout, ()):
        pytest.importorskip(package)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(root / "minari"))
        (root / "source").mkdir()
        source = SOURCES[layout](root / "source", np.random.default_rng(seed))
        expected = source.expected()
        report = source.to(root / "store")
        assert_same(stored(root / "store"), expected)
        if source.prompts is not None:
            assert_same(stored(root / "store" / "prompts"), source.prompts())
        assert report.steps == sum(len(one.rewards) for one in expected)
        assert not report.rounded  # what differs, differs by far


def test_no_layout_is_left_out() -> None:
    assert set(SOURCES) == set(LAYOUTS)
