"""Labelling: which skill every step of an episode begins."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goskill.data import EpisodeStore
from goskill.data.label_blocks import LabelBlock, LabelBlocks
from goskill.methods.go_skill.networks import GoSkillNetworks
from goskill.methods.sequence.checking import check_dimensions
from goskill.ops.encoding import NativeEncoder, encodes_natively
from goskill.training import distributed
from goskill.training.memory import kept_memory

# Steps per pass. Torch's operations on a CPU want what its caches hold; the native pass looks after that itself, and a
# GPU wants enough to fill it.
SMALL_CHUNK, LARGE_CHUNK = 4_096, 131_072


class EpisodeArrays(Protocol):
    """An episode of a store or a demonstration: T + 1 observations and T actions, in the store's units."""

    @property
    def observations(self) -> npt.NDArray[np.float32]: ...

    @property
    def actions(self) -> npt.NDArray[np.float32]: ...


def label_name(networks: GoSkillNetworks) -> str:
    """Name of the label column that these networks write: a hash of everything that decides a label.

    It covers horizon, goal, normalisation, encoder and codebook, so that a run that is resumed finds its
    labels and no other skill model's labels are taken for its own.
    """
    settings = networks.settings
    digest = hashlib.sha256()
    digest.update(repr((settings.horizon, settings.goal_dimensions, settings.skill_source)).encode())
    for name, part in networks.parts.items():
        if name not in ("decoder", "policy"):
            for key, value in part.state_dict().items():
                digest.update(f"{name}.{key}".encode())
                digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return f"skills-{digest.hexdigest()[:16]}"


def label_store(
    networks: GoSkillNetworks, store: EpisodeStore, *, progress: Callable[[int, int], None] | None = None
) -> str:
    """Write a label for every step of ``store`` unless they are there and whole; returns the column's name.

    The label of step t is the skill of s(t) -> s(t + H), with the final state standing in past the end. It is
    found on the networks' device. What was found is kept when the process is killed, and the next call goes on
    there; the column is the same bit for bit. Under torchrun all ranks have to call this and share the work.
    ``progress(done, total)`` hears of this rank's steps.

    Raises InputError for a store of other observations or actions than the networks', and StoreError if the
    labels cannot be written.
    """
    check_dimensions(networks, store)
    name = label_name(networks)
    labels = store.label_blocks(name, networks.settings.codebook_size)
    with kept_memory():
        _find_labels(
            networks, store, labels, labels.blocks[distributed.rank() :: distributed.world_size()], progress
        )
    distributed.barrier()
    if distributed.rank() == 0:
        # Ranks whose copy of the store is another one leave gaps in this one.
        _find_labels(networks, store, labels, labels.blocks)
        labels.join()
    distributed.barrier()
    return name


def _find_labels(
    networks: GoSkillNetworks,
    store: EpisodeStore,
    labels: LabelBlocks,
    blocks: Sequence[LabelBlock],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write those of ``blocks`` that are missing."""
    if labels.joined():
        return
    done, total = 0, sum(block.steps for block in blocks)

    def advance(steps: int) -> None:
        nonlocal done
        done += steps
        if progress is not None:
            progress(done, total)

    missing: list[LabelBlock] = []
    for block in blocks:
        if labels.read(block) is None:
            missing.append(block)
        else:
            advance(block.steps)
    if missing:
        store.check_labels_writable()
    chunks = _skills_by_chunk(networks, store, [block.episodes for block in missing])
    for block in missing:
        skills: list[npt.NDArray[np.int64]] = []
        while sum(map(len, skills)) < block.steps:
            skills.append(next(chunks).cpu().numpy())
            advance(len(skills[-1]))
        labels.write(block, np.concatenate(skills))


def embed_store(networks: GoSkillNetworks, store: EpisodeStore) -> Tensor:
    """The continuous skill of every step of ``store``: float32 [num_steps, E] on the CPU."""
    table = torch.empty(store.num_steps, networks.settings.embedding_size)
    row = 0
    for embeddings in _skills_by_chunk(networks, store, [range(store.num_episodes)]):
        table[row : row + len(embeddings)] = embeddings.cpu()
        row += len(embeddings)
    return table


@torch.inference_mode()
def label_episodes(networks: GoSkillNetworks, episodes: list[EpisodeArrays]) -> Tensor:
    """Skills of all steps of ``episodes``, one after the other, on the networks' device.

    int64 [steps], or embeddings float32 [steps, E] for continuous skills. On one machine these are the skills that
    ``label_store`` writes, however the episodes are grouped, unless codes are found in integers and an error is beyond
    what :meth:`goskill.ops.encoding.NativeEncoder.codes` estimates.
    """
    return _assignment(networks)(_windows_of(networks, episodes))


@dataclass(frozen=True)
class _Windows:
    """Where the encoder's inputs come from, one per step: see ``NativeEncoder.codes``."""

    rows: Tensor
    changes: dict[str, Tensor]


@torch.inference_mode()
def _windows_of(networks: GoSkillNetworks, episodes: list[EpisodeArrays]) -> _Windows:
    device = networks.normalize.mean.device
    horizon = networks.settings.horizon
    if networks.settings.skill_source == "actions":
        windows = [_action_windows(np.asarray(episode.actions), horizon) for episode in episodes]
        return _Windows(torch.from_numpy(np.concatenate(windows)).to(device), {})
    now, later, first = [], [], 0
    for episode in episodes:
        steps = len(episode.actions)
        at = np.arange(steps)
        now.append(first + at)
        later.append(first + np.minimum(at + horizon, steps))
        first += steps + 1
    parts = [np.asarray(episode.observations) for episode in episodes]
    observations = torch.from_numpy(np.concatenate(parts)).to(device)
    start, end = (torch.from_numpy(np.concatenate(rows)).to(device) for rows in (now, later))
    changes = {"from_row": start, "to_row": end}
    if _labels_natively(networks, observations) and networks.goals_are_observations:
        normalization = {"mean": networks.normalize.mean, "std": networks.normalize.std}
        return _Windows(observations, changes | normalization)
    return _Windows(networks.goals(observations), changes)


def _labels_natively(networks: GoSkillNetworks, rows: Tensor) -> bool:
    return networks.codebook is not None and encodes_natively(rows)


def _assignment(networks: GoSkillNetworks) -> Callable[[_Windows], Tensor]:
    """What finds the skill of each window, with the networks as they are now."""
    codebook = networks.codebook
    if codebook is not None and _labels_natively(networks, networks.normalize.mean):
        encoder = networks.encoder
        native = NativeEncoder(encoder.linears, encoder.norm, codebook.codebook.contiguous())
        return lambda windows: native.codes(windows.rows.contiguous(), **windows.changes)[0]

    def assign(windows: _Windows) -> Tensor:
        rows, changes = windows.rows, windows.changes
        with torch.inference_mode():
            if changes:
                rows = rows.index_select(0, changes["to_row"]) - rows.index_select(0, changes["from_row"])
            return networks.assign(networks.encoder(rows))

    return assign


def _skills_by_chunk(
    networks: GoSkillNetworks, store: EpisodeStore, ranges: Sequence[range]
) -> Iterator[Tensor]:
    """Skills of the steps of some ranges of episodes, in chunks that each lie in one range."""
    assign = _assignment(networks)
    for windows in _one_ahead(_windows_by_chunk(networks, store, ranges)):
        yield assign(windows)


def _windows_by_chunk(
    networks: GoSkillNetworks, store: EpisodeStore, ranges: Sequence[range]
) -> Iterator[_Windows]:
    like = networks.normalize.mean
    chunk = LARGE_CHUNK if _labels_natively(networks, like) or like.device.type != "cpu" else SMALL_CHUNK
    for indices in ranges:
        episodes: list[EpisodeArrays] = []
        steps = 0
        for index in indices:
            episode = store.episode(index)
            episodes.append(episode)
            steps += len(episode.actions)
            if steps >= chunk or index == indices[-1]:
                yield _windows_of(networks, episodes)
                episodes, steps = [], 0


def _one_ahead(items: Iterator[_Windows]) -> Iterator[_Windows]:
    """The same items, each made in a thread beside while the one before is in use."""
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = thread.submit(next, items, None)
            yield item


def _action_windows(actions: npt.NDArray[np.float32], horizon: int) -> npt.NDArray[np.float32]:
    """The next ``horizon`` actions of every step, zero past the end: [T, horizon * action_dim]."""
    padded = np.concatenate([actions, np.zeros((horizon - 1, actions.shape[1]), np.float32)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, horizon, axis=0)  # [T, action_dim, horizon]
    return np.ascontiguousarray(windows.transpose(0, 2, 1)).reshape(len(actions), -1)
