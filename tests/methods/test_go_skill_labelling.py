"""Labelling a store: the nearest code of every step, once, whole, shared by ranks, going on after a kill."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from small_store import ACTION, begin, small_settings, small_store

from goskill.data import Episode, EpisodeStore
from goskill.data.label_blocks import LabelBlock, LabelBlocks
from goskill.methods.go_skill import ABLATIONS, GoSkill, GoSkillNetworks, label_name, label_store
from goskill.methods.go_skill.labelling import label_episodes
from goskill.training import TrainingSettings, distributed


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("data") / "store")


@torch.no_grad()
def distances(networks: GoSkillNetworks, episode: Episode) -> np.ndarray:
    """How far every code [M] is from every step's embedding, with the networks' modules alone: float32 [T, M]."""
    steps, horizon = len(episode.actions), networks.settings.horizon
    normalized = networks.normalize(torch.from_numpy(episode.observations.copy()))
    rows = []
    for step in range(steps):
        if networks.settings.skill_source == "actions":
            window = np.zeros((horizon, ACTION), np.float32)
            ahead = episode.actions[step : step + horizon]
            window[: len(ahead)] = ahead
            rows.append(torch.from_numpy(window.reshape(-1)))
        else:
            change = normalized[min(step + horizon, steps)] - normalized[step]
            dimensions = networks.settings.goal_dimensions
            rows.append(change if dimensions is None else change[list(dimensions)])
    assert networks.codebook is not None
    embeddings = networks.encoder(torch.stack(rows))
    return (embeddings[:, None] - networks.codebook.codebook).norm(dim=-1).numpy()


@pytest.mark.parametrize("chunk", [1, 40, 4096])
@pytest.mark.parametrize("changes", [{}, {"goal_dimensions": (0, 4)}, ABLATIONS["action-encoder"]])
def test_labels_are_the_nearest_codes_trajectory_by_trajectory_however_the_store_is_cut(
    changes: dict[str, Any], chunk: int, store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The column's, and those of a prompt, which is labelled alone; codes may differ where distances do not."""
    monkeypatch.setattr("goskill.methods.go_skill.labelling.CPU_CHUNK", chunk)
    method = GoSkill(small_settings(**changes), store, TrainingSettings(seed=7))
    begin(method, "extraction")
    shutil.rmtree(store.path / "labels", ignore_errors=True)
    column = EpisodeStore.open(store.path).labels(label_store(method.networks, store))
    assert len(np.unique(column)) > 1
    for index, first in enumerate(store.episode_start):
        episode = store.episode(index)
        found = distances(method.networks, episode)
        alone = label_episodes(method.networks, [episode]).numpy()
        for labels in (column[first : first + len(found)].astype(np.int64), alone):
            chosen = np.take_along_axis(found, labels[:, None], 1)[:, 0]
            assert (chosen <= found.min(1) + 1e-5).all()


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
    monkeypatch.setattr("goskill.methods.go_skill.labelling.CPU_CHUNK", 16)
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
