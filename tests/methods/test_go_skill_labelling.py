"""Labelling a store: the nearest code of every step, once, whole, shared by ranks, going on after a kill."""

from __future__ import annotations

import shutil
from pathlib import Path
from threading import get_ident
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from small_store import ACTION, begin, small_settings, small_store

from goskill.data import EpisodeStore, StoreWriter
from goskill.data.label_blocks import LabelBlock, LabelBlocks
from goskill.methods.go_skill import ABLATIONS, GoSkill, GoSkillNetworks, label_name, label_store, labelling
from goskill.methods.go_skill.labelling import label_episodes
from goskill.training import TrainingSettings, distributed


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("data") / "store")


def test_labels_are_the_nearest_codes_of_every_step(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goskill.methods.go_skill.labelling.LARGE_CHUNK", 40)  # several chunks
    for changes in ({}, {"goal_dimensions": (0, 4)}, ABLATIONS["action-encoder"]):
        method = GoSkill(small_settings(**changes), store, TrainingSettings(seed=7))
        begin(method, "extraction")
        begin(method, "labelling")
        labels = store.labels(label_name(method.networks))
        networks, row = method.networks, 0
        assert networks.codebook is not None
        for index in range(store.num_episodes):
            episode = store.episode(index)
            normalized = networks.normalize(torch.from_numpy(episode.observations.copy()))
            for step in range(len(episode.actions)):
                if networks.settings.skill_source == "actions":
                    window = np.zeros((4, ACTION), np.float32)
                    ahead = episode.actions[step : step + 4]
                    window[: len(ahead)] = ahead
                    seen = torch.from_numpy(window.reshape(-1))
                else:
                    seen = normalized[min(step + 4, len(episode.actions))] - normalized[step]
                    dimensions = networks.settings.goal_dimensions
                    seen = seen if dimensions is None else seen[list(dimensions)]
                distance = (networks.encoder(seen) - networks.codebook.codebook).norm(dim=-1)
                assert distance[int(labels[row])] <= distance.min() + 1e-5
                row += 1
        assert row == len(labels)


def test_prompts_get_the_labels_of_the_column_however_it_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where most of the column is found in integers, and a prompt, which is short, in float32."""
    random = np.random.default_rng(2)
    with StoreWriter(tmp_path / "store", observation_dim=6, action_dim=ACTION, tasks=["one"]) as writer:
        for steps in random.integers(1, 161, 120):
            walk = random.normal(size=(steps + 1, 6)).cumsum(0).astype(np.float32)
            actions = np.tanh(random.normal(size=(steps, ACTION))).astype(np.float32)
            writer.append(task="one", observations=walk, actions=actions, rewards=np.zeros(steps, np.float32))
    store = EpisodeStore.open(tmp_path / "store")
    for changes in ({}, {"goal_dimensions": (0, 4)}, ABLATIONS["action-encoder"]):
        method = GoSkill(small_settings(**changes), store, TrainingSettings())
        begin(method, "extraction")
        networks = method.networks
        columns = []
        for chunk in (100, 5000, 100_000):
            monkeypatch.setattr("goskill.methods.go_skill.labelling.LARGE_CHUNK", chunk)
            shutil.rmtree(store.path / "labels", ignore_errors=True)
            store = EpisodeStore.open(store.path)
            columns.append(store.labels(label_store(networks, store)).copy())
        alone = [label_episodes(networks, [store.episode(index)]) for index in range(store.num_episodes)]
        for column in columns:
            np.testing.assert_array_equal(column, torch.cat(alone).numpy())
        assert len(np.unique(columns[0])) > 1


def test_label_columns_are_named_by_what_decides_them(store: EpisodeStore) -> None:
    def name(**changes: Any) -> str:
        seed = changes.pop("seed", 0)
        method = GoSkill(small_settings(**changes), store, TrainingSettings(seed=seed))
        torch.manual_seed(0)
        begin(method, "extraction")
        return label_name(method.networks)

    assert name() == name() == name(decoder_width=32, dropout=0.5)
    assert len({name(), name(seed=1), name(horizon=3), name(goal_dimensions=(0, 1, 2, 3, 4, 5))}) == 4


def test_labels_are_written_once(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    method = GoSkill(small_settings(), store, TrainingSettings(seed=11))
    begin(method, "extraction")
    begin(method, "labelling")
    monkeypatch.setattr(store, "write_labels", None)
    begin(method, "labelling")
    begin(method, "policy")


class Killed(BaseException):
    """Stands for a process that ends between two instructions."""


class InBlocks(NamedTuple):
    """A store that is labelled in several blocks and chunks, and the labels that it gets."""

    store: EpisodeStore
    networks: GoSkillNetworks
    name: str
    column: np.ndarray
    blocks: int


@pytest.fixture
def in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InBlocks:
    monkeypatch.setattr("goskill.data.label_blocks.BLOCK_STEPS", 32)
    monkeypatch.setattr("goskill.methods.go_skill.labelling.LARGE_CHUNK", 16)
    store = small_store(tmp_path / "store")
    method = GoSkill(small_settings(), store, TrainingSettings())
    begin(method, "extraction")
    name = label_store(method.networks, store)
    column, blocks = store.labels(name).copy(), len(store.label_blocks(name, 5).blocks)
    assert blocks > 3
    shutil.rmtree(store.path / "labels")
    return InBlocks(EpisodeStore.open(store.path), method.networks, name, column, blocks)


@pytest.mark.parametrize("dies_after", [0, 1, 3])
def test_labelling_goes_on_where_it_was_killed_and_ends_with_the_same_bits(
    dies_after: int, in_blocks: InBlocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, networks, name, column, blocks = in_blocks
    write, written = LabelBlocks.write, 0

    def write_then_die(labels: LabelBlocks, block: LabelBlock, values: np.ndarray) -> None:
        nonlocal written
        if written == dies_after:
            raise Killed
        write(labels, block, values)
        written += 1

    monkeypatch.setattr(LabelBlocks, "write", write_then_die)
    with pytest.raises(Killed):
        label_store(networks, store)
    assert store.label_names == []
    dies_after = blocks
    assert label_store(networks, store) == name
    assert written == blocks  # none twice
    np.testing.assert_array_equal(store.labels(name), column)


@pytest.mark.parametrize("fails_after", [0, 1, 5])
def test_what_fails_beside_reaches_the_caller_and_the_next_call_goes_on(
    fails_after: int, in_blocks: InBlocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows are prepared in a thread of their own."""
    store, networks, _, column, _ = in_blocks
    prepare, caller, prepared = labelling._windows_of, get_ident(), 0

    def prepare_then_fail(*arguments: Any) -> Any:
        nonlocal prepared
        assert get_ident() != caller
        if prepared == fails_after:
            raise MemoryError("no room for windows")
        prepared += 1
        return prepare(*arguments)

    with monkeypatch.context() as patches:
        patches.setattr(labelling, "_windows_of", prepare_then_fail)
        with pytest.raises(MemoryError, match="no room for windows"):
            label_store(networks, store)
    assert prepared == fails_after
    assert store.label_names == []
    np.testing.assert_array_equal(store.labels(label_store(networks, store)), column)


def test_ranks_share_the_labelling_and_write_what_one_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goskill.data.label_blocks.BLOCK_STEPS", 32)
    store = small_store(tmp_path / "store")
    method = GoSkill(small_settings(), store, TrainingSettings())
    begin(method, "extraction")
    networks = method.networks
    name = label_store(networks, store)
    column = store.labels(name).copy()
    shutil.rmtree(store.path / "labels")

    shares: dict[int, set[int]] = {0: set(), 1: set()}
    write = LabelBlocks.write

    def noted(labels: LabelBlocks, block: LabelBlock, values: np.ndarray) -> None:
        shares[distributed.rank()].add(block.first_step)
        write(labels, block, values)

    monkeypatch.setattr(LabelBlocks, "write", noted)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "barrier", lambda: None)
    for rank in (1, 0):  # one after the other: rank 0 finds what rank 1 wrote
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        label_store(networks, EpisodeStore.open(store.path))
    blocks = [block.first_step for block in store.label_blocks(name, 5).blocks]
    assert shares == {0: set(blocks[0::2]), 1: set(blocks[1::2])}
    np.testing.assert_array_equal(EpisodeStore.open(store.path).labels(name), column)
