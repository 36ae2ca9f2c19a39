"""Where training data lies: on the device, where batches are gathered inside the step, or on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from goskill.data import EpisodeStore, ReplayBuffer, ReplaySampler
from goskill.data.mixed_sampler import MixedSampler
from goskill.data.sampler import PlaceStream, StoreSampler
from goskill.training import Batch, Objective, TrainingSettings, choose_device, distributed

# Of the memory that is free on a GPU: the rest is for networks, activations and what else runs there.
SHARE_FOR_DATA = 0.5


def placement(training: TrainingSettings, *stores: EpisodeStore, beside: int = 0) -> dict[str, Any]:
    """What the samplers of ``stores`` are told by ``training.data``: ``device`` and ``resident``, or nothing.

    "auto" keeps the columns on a GPU if those of all stores, and ``beside`` bytes that are kept there with them, take
    at most half of what is free there.
    """
    device = choose_device(training.device)
    on_device = training.data == "device" or (
        training.data == "auto" and device.type == "cuda" and _fit(stores, beside, device)
    )
    return {"device": device, "resident": True} if on_device else {}


def sampling(
    training: TrainingSettings, *stores: EpisodeStore, seed: int | None = None, beside: int = 0
) -> dict[str, Any]:
    """What the samplers of ``stores`` are told: a seed, by default that of ``training``, threads, rank and placement.

    Without stores, those that are sampled lie on the host.
    """
    place = placement(training, *stores, beside=beside) if stores else {}
    return {
        "seed": training.seed if seed is None else seed,
        "threads": training.threads or 1,
        "rank": distributed.rank(),
        "world_size": distributed.world_size(),
        **place,
    }


def replay_buffer(
    training: TrainingSettings, capacity: int, observation_dim: int, action_dim: int, *, tasks: int
) -> ReplayBuffer:
    """A buffer with a ring of ``capacity`` for each task, where ``training.data`` says.

    "auto" keeps it on a GPU if it takes at most half of what is free there.
    """
    device, size = (
        choose_device(training.device),
        4 * tasks * capacity * (2 * observation_dim + action_dim + 3),
    )
    on_device = training.data == "device" or (
        training.data == "auto" and device.type == "cuda" and _has_room(size, device)
    )
    place = device if on_device else torch.device("cpu")
    return ReplayBuffer(capacity, observation_dim, action_dim, tasks=tasks, device=place)


def column_bytes(store: EpisodeStore) -> int:
    """Bytes of all columns that samplers may keep on a device: float32 rows and labels of 4 bytes at most."""
    states = store.num_steps + store.num_episodes
    return 4 * (states * store.observation_dim + store.num_steps * (store.action_dim + 2))


def _fit(stores: Sequence[EpisodeStore], beside: int, device: torch.device) -> bool:
    """Whether there is room for what an earlier phase has not brought there yet."""
    missing = [
        store for store in stores if not any(name == str(device) for name, _ in store.resident_columns)
    ]
    return _has_room(beside + sum(column_bytes(store) for store in missing), device)


def _has_room(size: int, device: torch.device) -> bool:
    free, _ = torch.cuda.mem_get_info(device)
    return size <= SHARE_FOR_DATA * free


class GatheredSampler(Protocol):
    """A method's own sampler, whose batches are gathered from their places."""

    @property
    def resident(self) -> bool:
        """Whether they are gathered on the device, inside the step."""

    def __iter__(self) -> Iterator[Batch]: ...

    def next_places(self) -> Batch: ...

    def gather(self, places: Batch) -> Batch: ...

    def state_dict(self) -> dict[str, int]: ...

    def load_state_dict(self, state: Mapping[str, int]) -> None: ...


def sampled_objective(
    name: str,
    sampler: StoreSampler | ReplaySampler | MixedSampler | GatheredSampler,
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
