"""Declared columns: what is written comes back, plain NumPy reads it, and wrong or hostile columns are refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from store_builders import ACTION_DIM, OBSERVATION_DIM, random_episode

from goskill.data import EpisodeStore, StoreWriter
from goskill.data.store_files import read_manifest, write_manifest
from goskill.errors import InputError, StoreError

STEPS = {"terminated": bool, "feature": ("f2", 3), "image": ("u1", (2, 2, 3)), "subtask": "i1", "index": "u8"}
EPISODES = {"source": "U12", "level": "i8", "goal": ("f4", 2), "kept": bool}


def open_writer(path: Path, **settings: Any) -> StoreWriter:
    declared = {"columns": STEPS, "episode_columns": EPISODES}
    return StoreWriter(
        path, OBSERVATION_DIM, ACTION_DIM, ["a"], **{"shard_steps": 20, **declared, **settings}
    )


def episode(length: int, seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        "task": "a",
        **random_episode(generator, length),
        "columns": {
            "terminated": seed % 2 == 1,
            "feature": generator.standard_normal((length, 3)).astype(np.float16),
            "image": generator.integers(0, 256, (length, 2, 2, 3)),
            "subtask": generator.integers(-128, 128, length),
            "index": generator.integers(2**63, 2**64, length, dtype=np.uint64),
        },
        "episode_columns": {
            "source": f"Straße {seed}",
            "level": -seed,
            "goal": generator.standard_normal(2).astype(np.float32),
            "kept": seed % 3 == 0,
        },
    }


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes of several shards, with columns of many types."""
    path = tmp_path_factory.mktemp("columns") / "store"
    with open_writer(path) as writer:
        for seed, length in enumerate((5, 17, 9, 1, 30, 2)):
            writer.append(**episode(length, seed))
    return path


@pytest.fixture
def declaring(pristine: Path, tmp_path: Path) -> EpisodeStore:
    """A copy of that store."""
    return EpisodeStore.open(shutil.copytree(pristine, tmp_path / "store"))


@pytest.mark.parametrize("in_memory", [False, True])
def test_columns_come_back_episode_by_episode(declaring: EpisodeStore, in_memory: bool) -> None:
    declaring.verify()
    store = EpisodeStore.open(declaring.path, in_memory=in_memory)
    for copy in (store, pickle.loads(pickle.dumps(store))):
        for index, length in enumerate(store.episode_length):
            expected, found = episode(int(length), index), copy.episode(index)
            ends = np.zeros(length, bool)
            ends[-1] = expected["columns"]["terminated"]
            for name, values in {**expected["columns"], "terminated": ends}.items():
                np.testing.assert_array_equal(found.columns[name], values, err_msg=name)
                assert found.columns[name].dtype == np.dtype(STEPS[name]).base
            np.testing.assert_array_equal(
                found.episode_columns.pop("goal"), expected["episode_columns"].pop("goal")
            )
            assert found.episode_columns == expected["episode_columns"]
            assert isinstance(found.episode_columns["source"], str)


def test_columns_are_plain_npy_files_in_the_order_of_the_episodes(declaring: EpisodeStore) -> None:
    for name in STEPS:
        parts = [np.load(shard / f"{name}.npy") for shard in declaring.shard_folders]
        assert len(parts) > 1
        for part, column in zip(parts, declaring.column(name), strict=True):
            np.testing.assert_array_equal(part, column)
            assert not column.flags.writeable
    sources = [np.load(shard / "source.npy") for shard in declaring.shard_folders]
    assert np.concatenate(sources).tolist() == declaring.episode_column("source").tolist()
    assert declaring.columns["feature"] == np.dtype(("<f2", (3,)))
    assert declaring.info()["columns"]["feature"] == {"dtype": "<f2", "shape": [3]}


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    dtype=st.one_of(
        hnp.boolean_dtypes(),
        hnp.integer_dtypes(endianness="="),
        hnp.unsigned_integer_dtypes(endianness="?"),
        hnp.floating_dtypes(sizes=(16, 32, 64)),
    ),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
)
def test_any_numbers_of_any_shape_come_back(
    tmp_path_factory, data: st.DataObject, dtype: np.dtype, shape: tuple[int, ...]
) -> None:
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    elements = hnp.from_dtype(dtype, **finite)
    values = [data.draw(hnp.arrays(dtype, (length, *shape), elements=elements)) for length in lengths]
    path = tmp_path_factory.mktemp("store") / "data"
    declared = {"columns": {"x": (dtype, shape)}, "episode_columns": {"first": (dtype, shape)}}
    with open_writer(path, **declared, shard_steps=data.draw(st.integers(1, 20))) as writer:
        for rows in values:
            arrays = random_episode(np.random.default_rng(0), len(rows))
            writer.append(task="a", **arrays, columns={"x": rows}, episode_columns={"first": rows[0]})
    store = EpisodeStore.open(path)
    np.testing.assert_array_equal(np.concatenate(store.column("x")), np.concatenate(values))
    np.testing.assert_array_equal(store.episode_column("first"), np.stack([rows[0] for rows in values]))
    for index, rows in enumerate(values):
        np.testing.assert_array_equal(store.episode(index).columns["x"], rows)


def test_a_store_without_columns_is_of_the_first_version(tmp_path: Path) -> None:
    with open_writer(tmp_path / "s", columns=None, episode_columns=None) as writer:
        writer.append(task="a", **random_episode(np.random.default_rng(0), 3))
    content = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert content["version"] == 1
    assert sorted(content) == sorted(
        ["checksum", "format", "version", "observation_dim", "action_dim", "tasks", "shards", "provenance"]
    )
    store = EpisodeStore.open(tmp_path / "s")
    assert (store.columns, store.episode_columns, store.episode(0).columns) == ({}, {}, {})


def test_appending_keeps_to_what_is_declared(declaring: EpisodeStore) -> None:
    with open_writer(declaring.path, append=True, columns=None, episode_columns=None) as writer:
        writer.append(**episode(4, 6))
    with open_writer(declaring.path, append=True) as writer:
        writer.append(**episode(4, 7))
    assert EpisodeStore.open(declaring.path).episode_column("level").tolist() == [-seed for seed in range(8)]
    with pytest.raises(InputError, match=r"columns: expected those that .* declares or None"):
        open_writer(declaring.path, append=True, columns={"terminated": bool})
    with pytest.raises(InputError, match=r"episode_columns: expected those that .* declares or None"):
        open_writer(declaring.path, append=True, episode_columns={})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": {"x": "O"}}, "columns: 'x': expected bool, integers and floats"),
        ({"columns": {"x": "U5"}}, "columns: 'x': expected bool, integers and floats"),
        ({"columns": {"x": "f4,f4"}}, "columns: 'x': expected bool, integers and floats"),
        ({"columns": {"x": "M8[s]"}}, "columns: 'x': expected bool, integers and floats"),
        ({"columns": {"x": "c8"}}, "columns: 'x': expected bool, integers and floats"),
        ({"columns": {"x": np.longdouble}}, "columns: 'x': expected bool, integers and floats"),
        ({"columns": {"x": "quantity"}}, "columns: 'x': expected a NumPy dtype, got 'quantity'"),
        ({"columns": {"x": ("f4", 0)}}, "columns: 'x': expected entries"),
        ({"columns": {"x": ("f4", (1,) * 7)}}, "columns: 'x': expected entries"),
        ({"columns": {"x": ("f4", (1 << 14, 1 << 14))}}, "columns: 'x': expected entries"),
        ({"columns": {"terminated": "i1"}}, "columns: 'terminated': expected one bool per step"),
        ({"columns": {"truncated": ("?", 2)}}, "columns: 'truncated': expected one bool per step"),
        ({"columns": {"rewards": "f4"}}, "columns: expected names .* got 'rewards'"),
        ({"columns": {"../x": "f4"}}, "columns: expected names .* got '../x'"),
        ({"columns": {3: "f4"}}, "columns: expected names .* got 3"),
        ({"columns": ["terminated"]}, "columns: expected types by column name"),
        ({"columns": {f"x{i}": "f4" for i in range(101)}}, "columns: expected at most 100"),
        ({"episode_columns": {"x": str}}, "episode_columns: 'x': .* or text with a length such as 'U64'"),
        ({"episode_columns": {"x": "U1001"}}, "episode_columns: 'x': expected text of at most 1000 letters"),
        ({"episode_columns": {"subtask": "i1"}}, "episode_columns: expected other names .* 'subtask'"),
    ],
)
def test_what_cannot_be_declared_is_refused_by_name(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_writer(tmp_path / "s", **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature": None}, "columns: expected 'feature', which the store declares, got none"),
        ({"other": np.zeros(5)}, "columns: expected declared columns, got 'other'"),
        ({"feature": np.zeros((5, 4))}, r"feature: expected shape \[5, 3\], got \[5, 4\]"),
        ({"feature": np.zeros((4, 3))}, "feature: expected one entry for each of 5 steps"),
        (
            {"feature": np.full((5, 3), 1e6)},
            r"feature: expected finite values that fit float16, got 1000000.0",
        ),
        ({"feature": np.full((5, 3), np.nan)}, "feature: expected finite values"),
        (
            {"subtask": np.full(5, 128)},
            r"subtask: expected finite values that fit int8, got 128 at index \[0\]",
        ),
        ({"subtask": np.full(5, 0.5)}, "subtask: expected finite values that fit int8, got 0.5"),
        ({"subtask": np.full(5, np.nan)}, "subtask: expected finite values that fit int8, got nan"),
        ({"subtask": ["a"] * 5}, "subtask: expected numbers"),
        ({"index": np.full(5, -1)}, "index: expected finite values that fit uint64, got -1"),
        ({"index": np.full(5, 2.0**64)}, "index: expected finite values that fit uint64"),
        (
            {"terminated": [0, 1, 0, 0, 0]},
            "terminated: expected the episode to end there, got it at step 1 of 5",
        ),
        ({"terminated": [0, 0, 2, 0, 0]}, "terminated: expected one truth value or 5 of them"),
        ({"terminated": [0, 0, 0, 1]}, "terminated: expected one truth value or 5 of them"),
        ({"source": "x" * 13}, "source: expected at most 12 printable letters"),
        ({"source": "\x1b[31m"}, "source: expected at most 12 printable letters"),
        ({"source": 3}, "source: expected text"),
        ({"source": None}, "episode_columns: expected 'source', which the store declares, got none"),
        ({"level": "1"}, "level: expected numbers"),
        ({"goal": [1.0]}, r"goal: expected shape \[1, 2\], got \[1, 1\]"),
    ],
)
def test_wrong_values_are_refused_and_nothing_is_written(tmp_path: Path, change: dict, message: str) -> None:
    with open_writer(tmp_path / "s") as writer:
        writer.append(**episode(5))
        wrong = episode(5)
        for name, value in change.items():
            part = wrong["episode_columns" if name in EPISODES else "columns"]
            part.pop(name, None)
            if value is not None:
                part[name] = value
        with pytest.raises(InputError, match=message):
            writer.append(**wrong)
    store = EpisodeStore.open(tmp_path / "s")
    assert store.num_episodes == 1
    store.verify()


def test_columns_that_are_not_declared_are_named(declaring: EpisodeStore) -> None:
    for read in (declaring.column, declaring.episode_column):
        with pytest.raises(InputError, match="'truncated'"):
            read("truncated")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("columns", None),
        ("columns", [1]),
        ("columns", {"x": {"dtype": "<f4"}}),
        ("columns", {"x": {"dtype": "<f4", "shape": 3}}),
        ("columns", {"x": {"dtype": "<f4", "shape": [0]}}),
        ("columns", {"x": {"dtype": "<f4", "shape": [-1]}}),
        ("columns", {"x": {"dtype": "<f4", "shape": [True]}}),
        ("columns", {"x": {"dtype": "<f4", "shape": [2**62]}}),
        ("columns", {"x": {"dtype": "<f4", "shape": [2**20, 2**20]}}),
        ("columns", {"x": {"dtype": "<f4", "shape": [1] * 7}}),
        ("columns", {"x": {"dtype": "<f3", "shape": []}}),
        ("columns", {"x": {"dtype": "|O", "shape": []}}),
        ("columns", {"x": {"dtype": ">f4", "shape": []}}),
        ("columns", {"x": {"dtype": "(9,)" * 99 + "f4", "shape": []}}),
        ("columns", {"x": {"dtype": ["<f4"], "shape": []}}),
        ("columns", {"x": {"dtype": "<U4", "shape": []}}),
        ("columns", {"../x": {"dtype": "<f4", "shape": []}}),
        ("columns", {"observations": {"dtype": "<f4", "shape": []}}),
        ("columns", {"terminated": {"dtype": "|i1", "shape": []}}),
        ("columns", {f"x{i}": {"dtype": "|i1", "shape": []} for i in range(101)}),
        ("columns", {"level": {"dtype": "<i8", "shape": []}}),
        ("columns", {"feature": {"dtype": "<f2", "shape": [4]}}),
        ("episode_columns", {"source": {"dtype": "<U9999", "shape": []}}),
        ("version", True),
        ("version", 3),
    ],
)
def test_hostile_declarations_are_refused_at_open(declaring: EpisodeStore, field: str, value: object) -> None:
    path = declaring.path / "manifest.json"
    content = {name: part for name, part in read_manifest(path).items() if name != "checksum"}
    write_manifest(path, {**content, field: value})
    with pytest.raises(StoreError):
        EpisodeStore.open(declaring.path)


@pytest.mark.parametrize("name", ["feature", "terminated", "source"])
@pytest.mark.parametrize("damage", ["missing", "pipe", "short", "other type"])
def test_a_damaged_column_is_named_at_open(declaring: EpisodeStore, name: str, damage: str) -> None:
    file = declaring.shard_folders[1] / f"{name}.npy"
    raw = file.read_bytes()
    file.unlink()
    if damage == "pipe":
        os.mkfifo(file)
    elif damage == "short":
        file.write_bytes(raw[:-1])
    elif damage == "other type":
        np.save(file, np.zeros(len(declaring.column("terminated")[1]), np.int16))
    for in_memory in (False, True):
        with pytest.raises(StoreError, match=f"{name}.npy"):
            EpisodeStore.open(declaring.path, in_memory=in_memory)


@pytest.mark.parametrize("letter", [0x110000, 0xD800, 0x1B, 0xFFFFFFFF])
def test_letters_that_no_writer_lets_in_are_refused_when_read(declaring: EpisodeStore, letter: int) -> None:
    file = declaring.shard_folders[0] / "source.npy"
    raw = bytearray(file.read_bytes())
    raw[128:132] = letter.to_bytes(4, "little")
    file.write_bytes(raw)
    store = EpisodeStore.open(declaring.path)
    with pytest.raises(StoreError, match="source: expected printable text"):
        store.episode_column("source")
    with pytest.raises(StoreError, match=r"source\.npy: the checksum"):
        store.verify()
