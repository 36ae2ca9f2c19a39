"""Files of pickled prompts: honest ones come back, hostile ones are refused without running or reaching anything."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_builders import random_episode

from goskill.data.convert import load_prompts
from goskill.data.convert.transitions import columns_of
from goskill.errors import StoreError


def transitions(generator: np.random.Generator, length: int) -> dict[str, np.ndarray]:
    """One episode as files of prompts hold it."""
    episode = random_episode(generator, length)
    return {"observations": episode["observations"][:-1], "actions": episode["actions"]}


class Hostile:
    def __reduce__(self):
        return os.system, ("touch goskill-was-here",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "content", [Hostile(), [{"a": Hostile()}], np.array([{"a": Hostile()}], dtype=object), print]
)
def test_hostile_pickles_are_refused_without_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, content: object
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "prompt.npy"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(StoreError, match="cannot be read safely"):
        load_prompts(path)
    assert not Path("goskill-was-here").exists()


class Calls:
    """Pickled as a call, and perhaps a state for what the call gives."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


RECONSTRUCT, OBJECT = np._core.multiarray._reconstruct, np.dtype(object)
BYTES = b"\x41" * 16  # an address, were it taken for an object
WITH_FIELDS = (3, "|", None, ("a",), {"a": (OBJECT, 0)}, 8, 1, 0)
SELF = [1]
SELF.append(SELF)


def array_with(*state: object) -> Calls:
    return Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, *state))


@pytest.mark.parametrize(
    "content",
    [
        Calls(np.ndarray, (2,), "O", BYTES),
        Calls(np.ndarray, (4,), "f8", BYTES * 2, -64),
        Calls(np.ndarray, (300_000_000,), "O"),
        Calls(RECONSTRUCT, np.memmap, (0,), b"b"),
        Calls(np._core.numeric._frombuffer, BYTES, OBJECT, (2,), "C"),
        Calls(np._core.multiarray.scalar, OBJECT, BYTES),
        array_with((2,), OBJECT, False, BYTES),
        array_with((10**9,), OBJECT, False, [1]),
        array_with((10**6,), np.dtype("f8"), False, BYTES),
        array_with((2,), Calls(np.dtype, "V8", False, True, state=WITH_FIELDS), False, BYTES),
        array_with(
            (2,), Calls(np.dtype, "O8", False, True, state=(3, "|", *[None] * 3, -1, -1, 0)), 0, BYTES
        ),
        Calls(RECONSTRUCT, np.ndarray, (0,), b"b"),
        [[[[[[1]]]]]],
        SELF,
        b"\x80\x04]r\xff\xff\xff\x7f.",  # remembers a list by the number 2**31 - 1
        b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00a.",  # an array of 2**40 bytes
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_pickles_that_reach_for_other_memory_are_refused(
    tmp_path: Path, content: object, inside: bool
) -> None:
    path = tmp_path / "prompt.npy"
    if not isinstance(content, bytes):
        content = pickle.dumps([{"observations": content}] if inside else content, protocol=4)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="prompt"):
        load_prompts(path)


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_arrays_of_any_plain_type_come_back(tmp_path: Path, protocol: int) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        f"{name}{order}": generator.integers(0, 2, (3, 4)).astype(np.dtype(name).newbyteorder(order))
        for name in ("f2", "f4", "f8", "i1", "i2", "i8", "u2", "?")
        for order in "<>"
    }
    arrays |= {"text": np.array(["reach", "push"]), "fortran": np.asfortranarray(arrays["f8<"])}
    arrays |= {
        "none": np.zeros((0, 39), np.float32),
        "single": np.array(3.5),
        "slice": arrays["f4<"][::2, 1:],
    }
    episodes = np.empty((1, 1), dtype=object)
    episodes[0, 0] = {**arrays, "scalar": np.float32(2), "list": [1, (2, 3)], "word": np.str_("a")}
    np.save(tmp_path / "prompt.npy", episodes, allow_pickle=True)
    (tmp_path / "prompt.pkl").write_bytes(pickle.dumps(episodes, protocol=protocol))
    for name in ("prompt.npy", "prompt.pkl"):
        (read,) = load_prompts(tmp_path / name)
        for key, array in arrays.items():
            assert read[key].dtype == array.dtype
            np.testing.assert_array_equal(read[key], array)
        assert (read["scalar"], read["list"], read["word"]) == (np.float32(2), [1, [2, 3]], "a")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_pickles_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    episode = transitions(np.random.default_rng(0), 2)
    raw = bytearray(pickle.dumps([episode], protocol=data.draw(st.sampled_from([0, 2, 4, 5]))))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "prompt.pkl"
    path.write_bytes(raw)
    with contextlib.suppress(StoreError):
        for read in load_prompts(path):
            repr(read)  # looks at every object


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_honest_pickles_are_read(tmp_path: Path, protocol: int) -> None:
    episode = {
        **transitions(np.random.default_rng(0), 5),
        "task": "reach",
        "length": np.int64(5),
        "nothing": None,
    }
    path = tmp_path / "prompt.pkl"
    path.write_bytes(pickle.dumps([episode], protocol=protocol))
    (read,) = load_prompts(path)
    assert read.keys() == episode.keys()
    np.testing.assert_array_equal(read["observations"], episode["observations"])


def test_prompts_that_are_no_episodes_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "numbers.npy", np.zeros(3))
    (tmp_path / "list.npy").write_bytes(pickle.dumps([1, 2]))
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("numbers", "list", "empty", "missing"):
        with pytest.raises(StoreError, match=name):
            load_prompts(tmp_path / f"{name}.npy")


@pytest.mark.parametrize(
    "change",
    [
        {"observations": [[1.0], [1.0, 2.0]]},
        {"rewards": [10**400] * 5},
        {"rewards": [{}] * 5},
        {"terminals": ["yes"] * 5},
        {"actions": None},
        {1: 2, (1, 2): 3, "observations": 7},
    ],
)
def test_prompts_without_columns_of_numbers_are_refused(tmp_path: Path, change: dict) -> None:
    episode = {**transitions(np.random.default_rng(0), 5), "rewards": np.zeros(5)} | change
    (tmp_path / "prompt.pkl").write_bytes(pickle.dumps([episode, {1: 2, (1, 2): 3}]))
    first, second = load_prompts(tmp_path / "prompt.pkl")
    with pytest.raises(StoreError, match="episode 0"):
        columns_of("episode 0", first)
    with pytest.raises(StoreError, match="episode 1: expected the column 'observations'"):
        columns_of("episode 1", second)


def test_what_a_hostile_pickle_asks_for_is_quoted_in_short(tmp_path: Path) -> None:
    (tmp_path / "prompt.pkl").write_bytes(b"cos\x1b[31m" + b"A" * 10_000 + b"\nsystem\n.")
    with pytest.raises(StoreError, match=r"asks for 'os\\x1b\[31mAAA") as raised:
        load_prompts(tmp_path / "prompt.pkl")
    assert len(str(raised.value)) < len(str(tmp_path)) + 200
