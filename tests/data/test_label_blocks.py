"""Labels found block by block are the labels found at once, whoever dies on the way."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from store_builders import ACTION_DIM, OBSERVATION_DIM, random_episode

from goskill.data import EpisodeStore, StoreWriter, label_blocks
from goskill.errors import StoreError

LENGTHS = [3, 1, 30, 2, 2, 9, 1, 40, 5, 4]
TASKS = [0, 1, 0, 2, 1, 0, 0, 1, 2, 0]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_blocks, "BLOCK_STEPS", 8)


def wanted(store: EpisodeStore) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 300, store.num_steps)


def write(blocks: label_blocks.LabelBlocks, block: label_blocks.LabelBlock, labels: np.ndarray) -> None:
    blocks.write(block, labels[block.first_step : block.first_step + block.steps])


@pytest.mark.parametrize("size", [1, 8, 31, 1000])
def test_blocks_are_whole_episodes_that_follow_one_another(size, make_store, monkeypatch) -> None:
    monkeypatch.setattr(label_blocks, "BLOCK_STEPS", size)
    store = make_store(LENGTHS, TASKS)
    blocks = store.label_blocks("skills", 300).blocks
    assert [episode for block in blocks for episode in block.episodes] == list(range(len(LENGTHS)))
    step = 0
    for block in blocks:
        assert (block.first_step, block.steps) == (step, sum(LENGTHS[i] for i in block.episodes))
        assert block.steps < size + max(LENGTHS)
        step += block.steps
    assert step == store.num_steps


def test_what_a_killed_process_found_is_kept_and_the_column_is_as_if_written_at_once(make_store) -> None:
    store = make_store(LENGTHS, TASKS)
    labels = wanted(store)
    store.write_labels("at-once", labels, 300)
    process = os.fork()
    if process == 0:
        try:
            blocks = store.label_blocks("skills", 300)
            for block in blocks.blocks[:3]:
                write(blocks, block, labels)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.waitpid(process, 0)
    store.write_labels("others", np.zeros(store.num_steps, int), 1)  # writers of other labels leave it alone
    blocks = store.label_blocks("skills", 300)
    missing = [block for block in blocks.blocks if blocks.read(block) is None]
    assert missing == blocks.blocks[3:]
    with pytest.raises(StoreError, match="missing"):
        blocks.join()
    assert "skills" not in store.label_names
    for block in missing:
        write(blocks, block, labels)
    blocks.join()
    folder = store.path / "labels"
    for file in ("labels.npy", "order.npy", "offsets.npy", "manifest.json"):
        assert (folder / "skills" / file).read_bytes() == (folder / "at-once" / file).read_bytes()
    assert not list(folder.glob(".unfinished-*"))


def test_a_damaged_block_counts_as_missing(make_store) -> None:
    store = make_store(LENGTHS, TASKS)
    blocks, labels = store.label_blocks("skills", 300), wanted(store)
    write(blocks, blocks.blocks[0], labels)
    (file,) = store.path.glob("labels/.unfinished-*/*.npy")
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-40] ^= 1  # a label: it is followed by 32 bytes of checksum
    for damaged in (whole[:-1], whole[:20], b"", whole + b"0", bytes(flipped)):
        file.write_bytes(damaged)
        assert blocks.read(blocks.blocks[0]) is None
    file.unlink()
    os.mkfifo(file)
    assert blocks.read(blocks.blocks[0]) is None
    file.unlink()
    file.write_bytes(whole)
    assert blocks.read(blocks.blocks[0]) is not None


def test_a_store_that_cannot_be_written_says_so_before_labels_are_found(make_store) -> None:
    store = make_store(LENGTHS, TASKS)
    (store.path / "labels").write_text("in the way")
    with pytest.raises(StoreError, match="labels"):
        store.check_labels_writable()
    (store.path / "labels").unlink()
    store.check_labels_writable()


def test_what_is_joined_already_is_not_written_to(make_store, monkeypatch) -> None:
    store = make_store(LENGTHS, TASKS)
    blocks, labels = store.label_blocks("skills", 300), wanted(store)
    for block in blocks.blocks:
        write(blocks, block, labels)
    blocks.join()
    monkeypatch.setattr(label_blocks, "label_lock", None)  # as a folder to read only would refuse it
    blocks.join()
    np.testing.assert_array_equal(store.labels("skills"), labels)


def test_labels_that_another_process_joined_first_stay(make_store) -> None:
    store = make_store(LENGTHS, TASKS)
    labels = wanted(store)
    first, second = (EpisodeStore.open(store.path).label_blocks("skills", 300) for _ in range(2))
    for block in first.blocks:
        write(first, block, labels)
    first.join()
    write(second, second.blocks[-1], labels)
    assert second.joined()
    second.join()
    np.testing.assert_array_equal(store.labels("skills"), labels)
    assert not list(store.path.glob("labels/.unfinished-*"))


def test_blocks_of_a_store_that_has_grown_are_neither_used_nor_kept(make_store) -> None:
    store = make_store(LENGTHS, TASKS)
    old = store.label_blocks("skills", 300)
    write(old, old.blocks[0], wanted(store))
    with StoreWriter(store.path, OBSERVATION_DIM, ACTION_DIM, [], append=True) as writer:
        writer.append(task="task-0", **random_episode(np.random.default_rng(0), 6))
    grown = EpisodeStore.open(store.path)
    blocks, labels = grown.label_blocks("skills", 300), wanted(grown)
    assert all(blocks.read(block) is None for block in blocks.blocks)
    for block in blocks.blocks:
        write(blocks, block, labels)
    blocks.join()
    np.testing.assert_array_equal(grown.labels("skills"), labels)
    assert not list(store.path.glob("labels/.unfinished-*"))
