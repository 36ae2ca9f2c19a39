"""Damaged and hostile stores: always a StoreError that names the file, never a crash."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import write_store

from goskill.data import ContextSampler, EpisodeStore, SegmentSampler, StoreWriter
from goskill.data.store_files import read_manifest, write_manifest
from goskill.errors import StoreError


def rewrite(path: Path, change: Callable[[dict], None]) -> None:
    """Change a manifest and give it a checksum that holds, as a hostile author would."""
    content = json.loads(path.read_text())
    change(content)
    blank = json.dumps({**content, "checksum": "0" * 64}, indent=2)
    path.write_text(blank.replace("0" * 64, hashlib.sha256(blank.encode()).hexdigest(), 1))


def read_everything(path: Path) -> None:
    """Open, verify and sample: what a reader does with a store."""
    store = EpisodeStore.open(path)
    store.verify()
    next(SegmentSampler(store, 4, 16, "skill", "skills"))
    next(ContextSampler(store, 4, 3, 2, 16, "skills"))


def open_everything(path: Path) -> None:
    store = EpisodeStore.open(path)
    store.labels("skills")
    assert store.prompts is not None


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """With labels and prompts."""
    store = write_store(tmp_path_factory.mktemp("pristine") / "store", [5, 40, 3], [0, 1, 0])
    store.write_labels("skills", np.arange(store.num_steps) % 3, 3)
    write_store(store.path / "prompts", [4, 6], [0, 1])
    return store.path


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_flipped_bit_is_found(pristine: Path, data: st.DataObject) -> None:
    files = sorted(file for file in pristine.rglob("*") if file.is_file() and file.name != ".lock")
    file = data.draw(st.sampled_from(files))
    original = file.read_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    damaged = bytearray(original)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        file.write_bytes(damaged)
        with pytest.raises(StoreError):
            read_everything(pristine)
    finally:
        file.write_bytes(original)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_truncated_or_longer_file_is_found_at_open(pristine: Path, data: st.DataObject) -> None:
    files = sorted(file for file in pristine.rglob("*.npy"))
    file = data.draw(st.sampled_from(files))
    original = file.read_bytes()
    size = data.draw(st.integers(0, len(original) + 300).filter(lambda size: size != len(original)))
    try:
        file.write_bytes((original + bytes(300))[:size])
        with pytest.raises(StoreError, match=file.name):
            open_everything(pristine)
    finally:
        file.write_bytes(original)


def test_faults_of_prompts_are_named_beside_those_of_the_episodes(store: EpisodeStore) -> None:
    prompts = write_store(store.path / "prompts", [4, 6], [0, 1])
    assert (
        store.verify()["files"] == 9 * (2 + 1) + 3
    )  # columns of two shards, of one of prompts, and of labels
    (prompts.path / "manifest.json").unlink()
    rewards = store.path / "shard-000000" / "rewards.npy"
    rewards.write_bytes(rewards.read_bytes()[:-1] + b"!")
    with pytest.raises(StoreError, match=r"prompts: .*no manifest.*; .*rewards\.npy: the checksum"):
        store.verify()


def test_info_says_whether_there_are_prompts_and_whether_they_can_be_opened(store: EpisodeStore) -> None:
    assert store.info()["prompts"] is None
    prompts = write_store(store.path / "prompts", [4, 6], [0, 1])
    column = prompts.path / "shard-000000" / "actions.npy"
    facts = store.info()["prompts"]
    assert (facts["episodes"], facts["steps"], facts["unfinished"]) == (2, 10, False)
    assert facts["bytes"] == sum(file.stat().st_size for file in prompts.path.rglob("*.npy"))
    column.write_bytes(column.read_bytes()[:-1])
    assert str(column) in store.info()["prompts"]["fault"]


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)


def test_verify_names_every_damaged_file_also_behind_one_that_cannot_be_read(store: EpisodeStore) -> None:
    first, second = (store.path / f"shard-{i:06}" for i in range(2))
    (first / "actions.npy").unlink()
    (first / "actions.npy").mkdir()
    flip(first / "rewards.npy")
    (second / "rewards.npy").unlink()
    (second / "rewards.npy").symlink_to("nowhere")
    flip(second / "success.npy")
    with pytest.raises(StoreError) as raised:
        store.verify()
    for name in ("0/actions", "0/rewards", "1/rewards", "1/success"):
        assert f"shard-00000{name}.npy: " in str(raised.value)
    for name in ("0/success", "1/actions"):
        assert f"shard-00000{name}.npy: " not in str(raised.value)


def test_verify_names_every_damaged_file_also_beside_labels_without_a_manifest(store: EpisodeStore) -> None:
    store.write_labels("a", np.zeros(store.num_steps, int), 1)
    store.write_labels("b", np.zeros(store.num_steps, int), 1)
    flip(store.path / "labels" / "a" / "manifest.json")
    flip(store.path / "labels" / "b" / "labels.npy")
    flip(store.path / "shard-000000" / "rewards.npy")
    with pytest.raises(StoreError) as raised:
        store.verify()
    for name in ("a/manifest.json", "b/labels.npy", "rewards.npy"):
        assert f"{name}: " in str(raised.value)
    assert str(raised.value).count("a/manifest.json: ") == 1
    assert "not listed" not in str(raised.value)


@pytest.mark.parametrize("name", ["shard-000000/rewards.npy", "labels/skills/labels.npy"])
def test_links_to_nowhere_are_named(store: EpisodeStore, name: str) -> None:
    (store.path / name).unlink()
    (store.path / name).symlink_to("nowhere")
    for look in (store.verify, store.info):
        with pytest.raises(StoreError, match=rf"{name}: No such file"):
            look()


def test_a_foreign_link_to_nowhere_is_named(store: EpisodeStore) -> None:
    (store.path / "shard-000000" / "extra.npy").symlink_to("nowhere")
    with pytest.raises(StoreError, match=r"extra\.npy: No such file"):
        store.info()
    with pytest.raises(StoreError, match=r"extra\.npy: is not listed"):
        store.verify()


def empty_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("replace", [empty_folder, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_prompts_that_were_lost_are_a_fault(store: EpisodeStore, replace: Callable[[Path], None]) -> None:
    store.verify()
    replace(store.path / "prompts")
    with pytest.raises(StoreError, match="prompts: there is no episode store"):
        store.verify()
    assert "prompts: there is no episode store" in store.info()["prompts"]["fault"]


def test_a_column_of_prompts_that_leads_nowhere_is_a_fault_of_the_prompts(store: EpisodeStore) -> None:
    prompts = write_store(store.path / "prompts", [4, 6], [0, 1])
    (prompts.path / "shard-000000" / "extra.npy").symlink_to("nowhere")
    assert "extra.npy: No such file" in store.info()["prompts"]["fault"]


@pytest.mark.parametrize(
    "column", ["observations", "actions", "rewards", "returns_to_go", "success", "episode_task"]
)
def test_missing_columns_are_named_at_open(store: EpisodeStore, column: str) -> None:
    (store.path / "shard-000001" / f"{column}.npy").unlink()
    with pytest.raises(StoreError, match=f"shard-000001/{column}"):
        EpisodeStore.open(store.path)


@pytest.mark.parametrize("shard", ["shard-000000", "shard-000001"])
def test_missing_shards_are_named_at_open(store: EpisodeStore, shard: str) -> None:
    shutil.rmtree(store.path / shard)
    with pytest.raises(StoreError, match=f"{shard} is missing"):
        EpisodeStore.open(store.path)


def test_foreign_columns_are_found_by_verify(store: EpisodeStore) -> None:
    np.save(store.path / "shard-000000" / "extra.npy", np.zeros(3))
    with pytest.raises(StoreError, match=r"extra\.npy: is not listed"):
        EpisodeStore.open(store.path).verify()


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((47, 5), np.float64),
        np.zeros((47, 5), ">f4"),
        np.zeros((5, 47), np.float32).T,
        np.zeros((47, 6), np.float32),
        np.zeros((47, 5, 1), np.float32),
        np.array([{"a": 1}] * 47, dtype=object),
    ],
    ids=["float64", "big-endian", "fortran", "wide", "rank", "pickled"],
)
def test_columns_of_another_type_or_shape_are_refused_at_open(
    store: EpisodeStore, values: np.ndarray
) -> None:
    np.save(store.path / "shard-000000" / "observations.npy", values, allow_pickle=True)
    with pytest.raises(StoreError, match=r"observations\.npy: expected the \.npy header"):
        EpisodeStore.open(store.path)


def test_columns_rewritten_by_numpy_are_read(store: EpisodeStore) -> None:
    file = store.path / "shard-000000" / "rewards.npy"
    np.save(file, np.load(file))
    EpisodeStore.open(store.path).verify()


def test_a_named_pipe_in_place_of_a_column_does_not_hang(store: EpisodeStore) -> None:
    file = store.path / "shard-000000" / "rewards.npy"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(StoreError, match="not a regular file"):
        EpisodeStore.open(store.path)


@pytest.mark.parametrize(
    "name", ["manifest.json", "shard-000001/manifest.json", "labels/skills/manifest.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "endless", "folder"])
def test_a_manifest_that_is_no_regular_file_is_refused_by_name(
    store: EpisodeStore, name: str, kind: str
) -> None:
    file = store.path / name
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "endless":
        file.symlink_to("/dev/zero")
    else:
        file.mkdir()
    with pytest.raises(StoreError, match=f"{re.escape(name)}: is not a regular file"):
        EpisodeStore.open(store.path).labels("skills")


@pytest.mark.parametrize("name", [".lock", "labels/.lock", "labels/.joining"])
def test_a_lock_that_is_a_named_pipe_is_refused_and_another_file_is_left_as_it_is(
    store: EpisodeStore, tmp_path: Path, name: str
) -> None:
    def write() -> None:
        if name == ".lock":
            StoreWriter(store.path, 5, 2, [], append=True).close()
        else:
            blocks = store.label_blocks("others", 3)
            for block in blocks.blocks:
                blocks.write(block, np.zeros(block.steps, int))
            blocks.join()

    lock = store.path / name
    lock.unlink(missing_ok=True)
    os.mkfifo(lock)
    with pytest.raises(StoreError, match=rf"{re.escape(name)}: is not a regular file"):
        write()
    lock.unlink()
    (tmp_path / "precious").write_text("kept")
    lock.symlink_to(tmp_path / "precious")
    write()
    assert (tmp_path / "precious").read_text() == "kept"


def test_verify_refuses_a_named_pipe_that_took_the_place_of_a_column(store: EpisodeStore) -> None:
    file = store.path / "shard-000000" / "rewards.npy"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(StoreError, match=r"rewards\.npy: is not a regular file"):
        store.verify()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 2),
        ("version", "1"),
        ("format", "other"),
        ("observation_dim", -5),
        ("observation_dim", 2**62),
        ("observation_dim", 6),
        ("action_dim", True),
        ("action_dim", None),
        ("tasks", []),
        ("tasks", ["a", "a"]),
        ("tasks", [1, 2]),
        ("tasks", {}),
        ("tasks", ["a", "\x1b[31m"]),
        ("tasks", ["a", "\x9b31m"]),
        ("tasks", ["a", "\u202eb"]),
        ("tasks", ["a", "\ud800"]),
        ("tasks", ["a", ""]),
        ("tasks", ["a", "b" * 201]),
        ("shards", 3),
        ("shards", -1),
        ("provenance", 3),
        ("provenance", [3]),
        ("provenance", [["source", "x"]]),
    ],
)
def test_hostile_store_manifests_are_refused_at_open(store: EpisodeStore, name: str, value: object) -> None:
    rewrite(store.path / "manifest.json", lambda content: content.update({name: value}))
    with pytest.raises(StoreError):
        EpisodeStore.open(store.path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 2**62),
        ("steps", 2**47),
        ("steps", 0),
        ("episodes", 10**30),
        ("episodes", 1),
        ("episodes", "2"),
        ("columns", []),
        ("columns", {"rewards": 3}),
        ("columns", {"rewards": {"sha256": 3}}),
        ("columns", {"../rewards": {"sha256": "0" * 64}}),
        ("statistics", {}),
        ("statistics", {"count": 45, "mean": [10**400], "squares": [], "minimum": [], "maximum": []}),
        ("version", 0),
    ],
)
def test_hostile_shard_manifests_are_refused_at_open(store: EpisodeStore, name: str, value: object) -> None:
    rewrite(store.path / "shard-000000" / "manifest.json", lambda content: content.update({name: value}))
    with pytest.raises(StoreError):
        EpisodeStore.open(store.path)


CHECKSUM = {"sha256": "0" * 64}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("columns", [CHECKSUM], "expected 'columns' to be of type dict, got"),
        ("columns", None, "expected 'columns' to be of type dict, got None"),
        ("columns", {}, "expected the column 'labels', got none"),
        ("columns", {"labels": CHECKSUM, "order": CHECKSUM}, "expected the column 'offsets', got labels, or"),
        ("labels", [1, 2], r"expected the SHA-256 of column 'labels', got \[1, 2\]"),
        ("labels", {"sha256": 5}, "expected the SHA-256 of column 'labels', got {'sha256': 5}"),
        (
            "labels",
            {"sha256": "ab\ncd"},
            r"expected the SHA-256 of column 'labels', got {'sha256': 'ab\\ncd'}",
        ),
        ("labels", {"bytes": 5}, "expected the SHA-256 of column 'labels', got {'bytes': 5}"),
        ("further", "text", "expected the SHA-256 of column 'further', got 'text'"),
        ("../../../secret", CHECKSUM, "expected columns with plain file names, got '../../../secret'"),
        ("/etc/passwd", CHECKSUM, "expected columns with plain file names, got '/etc/passwd'"),
        ("a\x00b", CHECKSUM, r"expected columns with plain file names, got 'a\\x00b'"),
        ("width", 1.0, "expected 'width' to be of type int, got 1.0"),
        ("width", True, "expected 'width' to be of type int, got True"),
        ("width", [1], r"expected 'width' to be of type int, got \[1\]"),
        ("width", 3, "expected labels of 1, 2 or 4 bytes"),
        ("classes", "3", "expected 'classes' to be of type int, got '3'"),
        ("classes", 2**40, "expected labels of 1, 2 or 4 bytes and at most"),
        ("steps", [86], r"expected 'steps' to be of type int, got \[86\]"),
    ],
)
def test_hostile_label_manifests_are_refused_when_read_and_by_verify(
    store: EpisodeStore, name: str, value: object, message: str
) -> None:
    """Names that are no field of the manifest are columns."""
    path = store.path / "labels" / "skills" / "manifest.json"
    content = read_manifest(path)
    (content if name in content else content["columns"])[name] = value
    write_manifest(path, {key: part for key, part in content.items() if key != "checksum"})
    opened = EpisodeStore.open(store.path)
    for read in (opened.labels, opened.num_classes, opened.label_checksums, lambda _: opened.verify()):
        with pytest.raises(StoreError, match=f"{re.escape(str(path))}: {message}") as caught:
            read("skills")
        assert "\n" not in str(caught.value)


def test_a_manifest_whose_checksum_is_not_its_own_is_refused(store: EpisodeStore) -> None:
    """The text that the checksum is found by may stand anywhere, and then there is none at the top."""
    for path in (store.path / "shard-000000" / "manifest.json", store.path / "manifest.json"):
        content = json.loads(path.read_text())
        del content["checksum"]
        blank = json.dumps({"within": {"checksum": "0" * 64}, **content})
        path.write_text(blank.replace("0" * 64, hashlib.sha256(blank.encode()).hexdigest(), 1))
        with pytest.raises(
            StoreError, match=f"{re.escape(str(path))}: expected one checksum at the top, got"
        ):
            EpisodeStore.open(store.path)


@pytest.mark.parametrize("column", ["episode_start", "episode_length", "episode_task"])
@pytest.mark.parametrize("value", [-1, 2, 10**12, -(2**63), 2**63 - 1])
def test_hostile_episode_tables_are_refused_at_open(store: EpisodeStore, column: str, value: int) -> None:
    file = store.path / "shard-000000" / f"{column}.npy"
    values = np.load(file)
    values[-1] = value
    np.save(file, values)
    with pytest.raises(StoreError, match="shard-000000"):
        EpisodeStore.open(store.path)


def test_a_class_index_that_points_outside_is_refused_when_sampled(store: EpisodeStore) -> None:
    file = store.path / "labels" / "skills" / "order.npy"
    np.save(file, np.full_like(np.load(file), 2**32 - 1))
    sampler = SegmentSampler(EpisodeStore.open(store.path), 4, 8, "skill", "skills")
    with pytest.raises(StoreError, match="outside the store"):
        next(sampler)


def test_manifests_that_are_no_json_are_refused(store: EpisodeStore) -> None:
    for content in (b"", b"{}", b"\xff" * 100, b'{"checksum": "' + b"0" * 64 + b'"}', b"[" * 100_000):
        (store.path / "manifest.json").write_bytes(content)
        with pytest.raises(StoreError, match=r"manifest\.json"):
            EpisodeStore.open(store.path)
