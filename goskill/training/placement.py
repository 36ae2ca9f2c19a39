"""Where training data lies: on the device, where batches are gathered inside the step, or on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from goskill.data import EpisodeStore, ReplaySampler
from goskill.data.sampler import PlaceStream, StoreSampler
from goskill.training import Batch, Objective, TrainingSettings, choose_device

# Of the memory that is free on a GPU: the rest is for networks, activations and what else runs there.
SHARE_FOR_DATA = 0.5


def placement(training: TrainingSettings, store: EpisodeStore) -> dict[str, Any]:
    """What the samplers of ``store`` are told by ``training.data``: ``device`` and ``resident``, or nothing.

    "auto" keeps the columns on a GPU if they take at most half of what is free there.
    """
    device = choose_device(training.device)
    on_device = training.data == "device" or (
        training.data == "auto" and device.type == "cuda" and _fits(store, device)
    )
    return {"device": device, "resident": True} if on_device else {}


def replay_device(training: TrainingSettings, transitions: int, width: int) -> torch.device:
    """Where a replay buffer of so many ``transitions`` lives, by ``training.data``.

    ``width`` is the number of floats in each. "auto" keeps it on a GPU if it takes at most half of what is free there.
    """
    device = choose_device(training.device)
    if training.data == "device":
        return device
    fits = training.data == "auto" and device.type == "cuda" and _has_room(4 * transitions * width, device)
    return device if fits else torch.device("cpu")


def column_bytes(store: EpisodeStore) -> int:
    """Bytes of all columns that samplers may keep on a device: float32 rows and labels of 4 bytes at most."""
    states = store.num_steps + store.num_episodes
    return 4 * (states * store.observation_dim + store.num_steps * (store.action_dim + 2))


def _fits(store: EpisodeStore, device: torch.device) -> bool:
    if any(name == str(device) for name, _ in store.resident_columns):
        return True  # an earlier phase brought them there
    return _has_room(column_bytes(store), device)


def _has_room(size: int, device: torch.device) -> bool:
    free, _ = torch.cuda.mem_get_info(device)
    return size <= SHARE_FOR_DATA * free


def sampled_objective(
    name: str,
    sampler: StoreSampler | ReplaySampler,
    loss: Callable[[Batch], tuple[Tensor, dict[str, Tensor]]],
    modules: Sequence[nn.Module],
    **options: Any,
) -> Objective:
    """An objective on a sampler's batches, gathered inside the step where the data lies on the device.

    ``options`` are further ones of :class:`Objective`.
    """
    inside = sampler.resident
    if isinstance(sampler, ReplaySampler):
        inside = sampler.device.type != "cpu"
    if inside:
        return Objective(name, PlaceStream(sampler), loss, modules, sampler.gather, **options)
    return Objective(name, sampler, loss, modules, **options)
