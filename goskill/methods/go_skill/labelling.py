"""Labelling: which skill every step of an episode begins."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goskill.data import EpisodeStore
from goskill.data.label_blocks import LabelBlock, LabelBlocks
from goskill.methods.go_skill.networks import GoSkillNetworks
from goskill.methods.sequence.checking import check_dimensions
from goskill.models.goal_encoder import fold
from goskill.training import distributed
from goskill.training.devices import matmul_precision
from goskill.training.memory import kept_memory

# Steps encoded at once: as many as a CPU's caches hold, and enough to fill a GPU.
CPU_CHUNK, GPU_CHUNK = 4_096, 131_072


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

    The label of step t is the skill of s(t) -> s(t + H), with the final state standing in past the end, found
    in float32 on the networks' device. Blocks that are done survive a kill; the next call finds the others, and
    the column is the same bit for bit. Under torchrun all ranks must call this; they share the blocks.
    ``progress(done, total)`` counts this rank's steps.

    Raises InputError for a store of other observations or actions than the networks', and StoreError if the
    labels cannot be written.
    """
    check_dimensions(networks, store)
    name = label_name(networks)
    labels = store.label_blocks(name, networks.settings.codebook_size)
    own = labels.blocks[distributed.rank() :: distributed.world_size()]
    with kept_memory():
        _write_blocks(networks, store, labels, own, progress)
    distributed.barrier()
    if distributed.rank() == 0:
        # Ranks that read another copy of the store leave gaps in this one.
        _write_blocks(networks, store, labels, labels.blocks)
        labels.join()
    distributed.barrier()
    return name


def _write_blocks(
    networks: GoSkillNetworks,
    store: EpisodeStore,
    labels: LabelBlocks,
    blocks: Sequence[LabelBlock],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Find and write those of ``blocks`` that are missing."""
    if labels.joined():
        return
    missing = [block for block in blocks if labels.read(block) is None]
    total = sum(block.steps for block in blocks)
    done = total - sum(block.steps for block in missing)
    if missing:
        store.check_labels_writable()
    for block in missing:
        skills: list[npt.NDArray[np.int64]] = []
        for chunk in _skills_by_chunk(networks, store, block.episodes):
            skills.append(chunk.cpu().numpy())
            done += len(chunk)
            if progress is not None:
                progress(done, total)
        labels.write(block, np.concatenate(skills))


def embed_store(networks: GoSkillNetworks, store: EpisodeStore) -> Tensor:
    """The continuous skill of every step of ``store``: float32 [num_steps, E] on the CPU."""
    table = torch.empty(store.num_steps, networks.settings.embedding_size)
    row = 0
    for embeddings in _skills_by_chunk(networks, store, range(store.num_episodes)):
        table[row : row + len(embeddings)] = embeddings.cpu()
        row += len(embeddings)
    return table


def label_episodes(networks: GoSkillNetworks, episodes: list[EpisodeArrays]) -> Tensor:
    """Skills of all steps of ``episodes``, one after the other, on the networks' device.

    int64 [steps], or embeddings float32 [steps, E] for continuous skills. They are those of ``label_store``,
    except that either of two codes may be chosen that are equally near within float32's rounding.
    """
    return _assignment(networks)(episodes)


def _skills_by_chunk(networks: GoSkillNetworks, store: EpisodeStore, indices: range) -> Iterator[Tensor]:
    """Skills of all steps of some episodes, in order, as ``label_episodes`` gives them."""
    assign = _assignment(networks)
    chunk = CPU_CHUNK if networks.normalize.mean.device.type == "cpu" else GPU_CHUNK
    episodes: list[EpisodeArrays] = []
    steps = 0
    for index in indices:
        episode = store.episode(index)
        episodes.append(episode)
        steps += len(episode.actions)
        if steps >= chunk or index == indices[-1]:
            yield assign(episodes)
            episodes, steps = [], 0


def _assignment(networks: GoSkillNetworks) -> Callable[[list[EpisodeArrays]], Tensor]:
    """``label_episodes`` with the networks as they are now."""
    encode = fold(networks.encoder)

    def assign(episodes: list[EpisodeArrays]) -> Tensor:
        with torch.inference_mode(), matmul_precision("highest"):
            return networks.assign(encode(_windows(networks, episodes)))

    return assign


def _windows(networks: GoSkillNetworks, episodes: list[EpisodeArrays]) -> Tensor:
    """What the encoder reads for each step of ``episodes``: float32 [steps, inputs] on the networks' device."""
    device, horizon = networks.normalize.mean.device, networks.settings.horizon
    if networks.settings.skill_source == "actions":
        windows = [_action_windows(np.asarray(episode.actions), horizon) for episode in episodes]
        return torch.from_numpy(np.concatenate(windows)).to(device)
    now, later, first = [], [], 0
    for episode in episodes:
        steps = np.arange(len(episode.actions))
        now.append(first + steps)
        later.append(first + np.minimum(steps + horizon, len(steps)))
        first += len(steps) + 1
    observations = np.concatenate([np.asarray(episode.observations) for episode in episodes])
    start, end = (torch.from_numpy(np.concatenate(rows)).to(device) for rows in (now, later))
    goals = networks.goals(torch.from_numpy(observations).to(device))
    return goals.index_select(0, end) - goals.index_select(0, start)


def _action_windows(actions: npt.NDArray[np.float32], horizon: int) -> npt.NDArray[np.float32]:
    """The next ``horizon`` actions of every step, zero past the end: [T, horizon * action_dim]."""
    padded = np.concatenate([actions, np.zeros((horizon - 1, actions.shape[1]), np.float32)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, horizon, axis=0)  # [T, action_dim, horizon]
    return np.ascontiguousarray(windows.transpose(0, 2, 1)).reshape(len(actions), -1)
