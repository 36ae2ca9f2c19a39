"""Files of pickled prompts: honest ones come back, hostile ones are refused without running or reaching anything."""

from __future__ import annotations

import _codecs
import contextlib
import os
import pickle
import re
import shutil
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_builders import ACTION_DIM, OBSERVATION_DIM, random_episode

from goskill.data import EpisodeStore
from goskill.data.convert import from_npz, load_prompts
from goskill.data.convert.transitions import columns_of
from goskill.data.store_files import read_manifest, write_manifest
from goskill.errors import StoreError


def transitions(generator: np.random.Generator, length: int) -> dict[str, np.ndarray]:
    """One episode as files of prompts hold it."""
    episode = random_episode(generator, length)
    return {"observations": episode["observations"][:-1], "actions": episode["actions"]}


def source_with_prompts(
    tmp_path: Path, prompts: list, tasks: Sequence[str] = ("reach",), action_dim: int = ACTION_DIM
) -> Path:
    """A dataset of one episode for each task, and a file of prompts."""
    for task in tasks:
        folder = tmp_path / "source" / task / "sac" / "dataset"
        folder.mkdir(parents=True)
        columns = {"observations": np.ones((3, OBSERVATION_DIM)), "actions": np.ones((3, action_dim))}
        np.savez(folder / "0.npz", **columns, rewards=np.ones(3), terminals=[0, 0, 1])
        file = tmp_path / "source" / "metaworld_prompts" / f"{task}_prompt.npy"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(pickle.dumps(prompts))
    return tmp_path / "source"


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


def test_prompts_that_are_no_regular_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "endless.npy").symlink_to("/dev/zero")
    (tmp_path / "folder.npy").mkdir()
    for name in ("pipe", "endless", "folder"):
        with pytest.raises(StoreError, match=rf"{name}\.npy: is not a regular file"):
            load_prompts(tmp_path / f"{name}.npy")


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


def test_an_episode_named_again_and_again_is_refused_beyond_what_prompts_have(
    tmp_path: Path,
) -> None:
    """20,000 times 3,000 steps in 260 kB."""
    big = {**random_episode(np.random.default_rng(0), 3000)}
    big["observations"] = big["observations"][1:]
    source = source_with_prompts(tmp_path, [big] * 20_000)
    assert (source / "metaworld_prompts" / "reach_prompt.npy").stat().st_size < 300_000
    message = r"reach_prompt\.npy: episode 83: expected at most 250,000 steps in a file of prompts, got more"
    with pytest.raises(StoreError, match=message):
        from_npz("mtdiff", source, tmp_path / "store")


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "terminals"])
def test_lists_that_repeat_one_another_are_refused_before_they_become_arrays(
    tmp_path: Path, name: str
) -> None:
    row = [0.5] * 10_000
    repeated = [row] * 1_000_000  # 74 GiB in float64
    episode = {**transitions(np.random.default_rng(0), 5), "rewards": np.zeros(5), name: repeated}
    source = source_with_prompts(tmp_path, [episode])
    with pytest.raises(StoreError, match=r"reach_prompt\.npy: episode 0: expected at most 250,000 steps"):
        from_npz("mtdiff", source, tmp_path / "store")


def test_text_among_numbers_is_refused_before_it_becomes_an_array(tmp_path: Path) -> None:
    words = ["a" * 1_000_000, *["b"] * 100_000]  # 373 GiB as an array of equally long texts
    episode = {**transitions(np.random.default_rng(0), 5), "rewards": words}
    source = source_with_prompts(tmp_path, [episode])
    with pytest.raises(StoreError, match=r"episode 0: column 'rewards': expected numbers, got str in a list"):
        from_npz("mtdiff", source, tmp_path / "store")


def test_prompts_are_written_one_at_a_time(tmp_path: Path) -> None:
    """240 episodes of 1000 steps that are held at once would take 31 MB and more."""
    episode = {
        "observations": np.zeros((1000, OBSERVATION_DIM), np.float32),
        "actions": np.zeros((1000, 32)),  # becomes float32, once for each
        "rewards": np.zeros(1000, np.float32),
    }
    source = source_with_prompts(tmp_path, [episode] * 240, action_dim=32)
    tracemalloc.start()
    try:
        from_npz("mtdiff", source, tmp_path / "store")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    prompts = EpisodeStore.open(tmp_path / "store").prompts
    assert prompts is not None
    assert prompts.episode_length.tolist() == [999] * 240
    assert peak < 8e6


def test_lists_of_numbers_are_prompts_too(tmp_path: Path) -> None:
    episode = random_episode(np.random.default_rng(0), 5)
    lists = {name: column[:5].tolist() for name, column in episode.items()}
    source = source_with_prompts(tmp_path, [lists | {"rewards": list(episode["rewards"])}])
    from_npz("mtdiff", source, tmp_path / "store")
    prompts = EpisodeStore.open(tmp_path / "store").prompts
    assert prompts is not None
    np.testing.assert_array_equal(prompts.episode(0).observations, episode["observations"][:5])
    np.testing.assert_array_equal(prompts.episode(0).rewards, episode["rewards"][:4])


def test_a_text_that_is_encoded_again_and_again_is_held_once(tmp_path: Path) -> None:
    text = "a" * 100_000
    content = [{"a": Calls(_codecs.encode, text, "latin1")} for _ in range(1000)]
    (tmp_path / "prompt.pkl").write_bytes(pickle.dumps(content, protocol=2))
    read = load_prompts(tmp_path / "prompt.pkl")
    assert len({id(episode["a"]) for episode in read}) == 1
    assert read[0]["a"] == text.encode()


def test_pickles_of_too_many_parts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these bytes would be an empty list of 56."""
    monkeypatch.setattr("goskill.data.convert.restricted_pickle._MOST_PARTS", 1000)
    (tmp_path / "prompt.pkl").write_bytes(b"\x80\x04](" + b"]" * 1000 + b"e.")
    with pytest.raises(StoreError, match="more than 1,000 parts"):
        load_prompts(tmp_path / "prompt.pkl")


def test_prompts_that_came_after_the_conversion_are_not_passed_over(tmp_path: Path) -> None:
    episode = transitions(np.random.default_rng(0), 5) | {"rewards": np.zeros(5)}
    source = source_with_prompts(tmp_path, [episode], tasks=("reach", "push"))
    (source / "metaworld_prompts" / "push_prompt.npy").rename(tmp_path / "push_prompt.npy")
    assert from_npz("mtdiff", source, tmp_path / "store").missing_prompts == ["push"]
    (tmp_path / "push_prompt.npy").rename(source / "metaworld_prompts" / "push_prompt.npy")
    with pytest.raises(StoreError, match=r"prompts: expected prompts of push, .* got those of reach: remove"):
        from_npz("mtdiff", source, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "prompts")
    assert from_npz("mtdiff", source, tmp_path / "store").missing_prompts == []


def test_a_conversion_that_was_killed_before_its_prompts_had_a_manifest_goes_on(tmp_path: Path) -> None:
    episode = transitions(np.random.default_rng(0), 5) | {"rewards": np.zeros(5)}
    source = source_with_prompts(tmp_path, [episode])
    from_npz("mtdiff", source, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "prompts")
    (tmp_path / "store" / "prompts").mkdir()
    from_npz("mtdiff", source, tmp_path / "store")
    assert len(EpisodeStore.open(tmp_path / "store" / "prompts")) == 1


def test_oddities_of_prompts_are_reported_by_every_call(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    observed = generator.standard_normal((6, OBSERVATION_DIM))
    short = transitions(generator, 5) | {"rewards": np.zeros(5)}
    cut = short | {"observations": observed[:-1], "next_observations": observed[1:].copy()}
    cut["next_observations"][2] += 1
    source = source_with_prompts(tmp_path, [short, cut])
    dataset = str(source / "reach" / "sac" / "dataset" / "0.npz")
    file = str(source / "metaworld_prompts" / "reach_prompt.npy")
    for _ in range(2):
        report = from_npz("mtdiff", source, tmp_path / "store")
        assert report.shortened == [dataset, f"{file}: episode 0"]
        assert report.split == [f"{file}: episode 1: 1 times"]


def test_changed_prompts_are_not_passed_over(tmp_path: Path) -> None:
    episode = transitions(np.random.default_rng(0), 5) | {"rewards": np.zeros(5)}
    source = source_with_prompts(tmp_path, [episode] * 4)
    from_npz("mtdiff", source, tmp_path / "store")
    from_npz("mtdiff", source, tmp_path / "store")
    file = source / "metaworld_prompts" / "reach_prompt.npy"
    file.write_bytes(pickle.dumps([episode] * 7))
    with pytest.raises(StoreError, match=r"reach_prompt\.npy: expected what the prompts in .* were made of"):
        from_npz("mtdiff", source, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "prompts")
    from_npz("mtdiff", source, tmp_path / "store")
    assert len(EpisodeStore.open(tmp_path / "store" / "prompts")) == 7


@pytest.mark.parametrize(
    ("manifest", "change", "message"),
    [
        ("manifest.json", {"provenance": [3]}, "expected 'provenance' to be JSON objects, got 3"),
        ("manifest.json", {"provenance": [["files"]]}, "expected 'provenance' to be JSON objects, got"),
        (
            "manifest.json",
            {"provenance": [{"files": 3}]},
            "expected 'files' of the provenance by their tasks",
        ),
        ("manifest.json", {"provenance": [{"files": None}]}, "expected 'files' of the provenance by their"),
        ("shard-000000/manifest.json", {"note": {"split": 3}}, "expected 'split' of the note to be a list"),
        (
            "shard-000000/manifest.json",
            {"note": {"shortened": [{}]}},
            "expected 'shortened' of the note to be",
        ),
    ],
)
def test_manifests_of_prompts_with_values_of_another_type_are_refused(
    tmp_path: Path, manifest: str, change: dict, message: str
) -> None:
    source = source_with_prompts(
        tmp_path, [transitions(np.random.default_rng(0), 5) | {"rewards": np.zeros(5)}]
    )
    from_npz("mtdiff", source, tmp_path / "store")
    path = tmp_path / "store" / "prompts" / manifest
    content = {name: value for name, value in read_manifest(path).items() if name != "checksum"}
    write_manifest(path, content | change)
    with pytest.raises(StoreError, match=f"{re.escape(str(path))}: {message}"):
        from_npz("mtdiff", source, tmp_path / "store")


@pytest.mark.parametrize("known", [3, [], "a\nb", {"bytes": "5"}])
def test_prompts_of_files_that_the_manifest_describes_otherwise_are_refused(
    tmp_path: Path, known: object
) -> None:
    source = source_with_prompts(
        tmp_path, [transitions(np.random.default_rng(0), 5) | {"rewards": np.zeros(5)}]
    )
    from_npz("mtdiff", source, tmp_path / "store")
    path = tmp_path / "store" / "prompts" / "manifest.json"
    content = {name: value for name, value in read_manifest(path).items() if name != "checksum"}
    write_manifest(path, content | {"provenance": [{"files": {"reach": known}}]})
    with pytest.raises(
        StoreError, match=r"reach_prompt\.npy: expected what the prompts in .* made of"
    ) as caught:
        from_npz("mtdiff", source, tmp_path / "store")
    assert "\n" not in str(caught.value)


def test_a_file_that_held_no_prompts_may_be_filled_later(tmp_path: Path) -> None:
    source = source_with_prompts(tmp_path, [])
    for _ in range(2):
        from_npz("mtdiff", source, tmp_path / "store")
        assert len(EpisodeStore.open(tmp_path / "store" / "prompts")) == 0
    episode = transitions(np.random.default_rng(0), 5) | {"rewards": np.zeros(5)}
    (source / "metaworld_prompts" / "reach_prompt.npy").write_bytes(pickle.dumps([episode]))
    from_npz("mtdiff", source, tmp_path / "store")
    assert len(EpisodeStore.open(tmp_path / "store" / "prompts")) == 1


def test_a_file_of_prompts_may_be_mended_after_a_conversion_that_refused_it(tmp_path: Path) -> None:
    episode = transitions(np.random.default_rng(0), 5) | {"rewards": np.zeros(5)}
    source = source_with_prompts(tmp_path, [episode, {}])
    with pytest.raises(StoreError, match="episode 1: expected the column"):
        from_npz("mtdiff", source, tmp_path / "store")
    (source / "metaworld_prompts" / "reach_prompt.npy").write_bytes(pickle.dumps([episode]))
    from_npz("mtdiff", source, tmp_path / "store")
    assert len(EpisodeStore.open(tmp_path / "store" / "prompts")) == 1
