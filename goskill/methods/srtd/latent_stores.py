"""The stores that the actor-critic learns from: states with their latents, and what is made of them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goskill.data import Episode, EpisodeStore, StoreWriter
from goskill.data.episode import CheckedBlock
from goskill.data.store_files import MANIFEST
from goskill.errors import StoreError
from goskill.methods.srtd.networks import SRTDNetworks
from goskill.methods.srtd.settings import SRTDSettings

EMBEDDED, AUGMENTED = "embedded", "augmented"
TOGETHER = 4_096  # imaginary demonstrations that are rolled out at once
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embedded:
    """An episode with the latent of each of its states."""

    task: str
    states: FloatArray  # [T + 1, S + D]
    actions: FloatArray  # [T, A]
    rewards: FloatArray  # [T], as the settings want them
    terminated: npt.NDArray[np.bool_]  # [T]
    steps: Tensor  # [T + 1, n, A + S + 1]: what each latent is encoded from


@torch.inference_mode()
def embed(networks: SRTDNetworks, episode: Episode) -> Embedded:
    """The episode as the actor-critic sees it."""
    settings, device = networks.settings, networks.normalize.mean.device
    n, length = settings.history, len(episode.rewards)
    rewards = _rewards(episode.rewards, settings)
    states = torch.from_numpy(np.array(episode.observations)).to(device)
    own = [torch.from_numpy(np.array(episode.actions)).to(device), networks.normalize(states[1:])]
    steps = torch.cat([*own, torch.from_numpy(rewards).to(device)[:, None]], -1)
    padded = torch.cat([steps.new_zeros(n, steps.shape[1]), steps])
    windows = padded.unfold(0, n, 1).transpose(1, 2)[: length + 1]
    together = torch.cat([states, networks.encode_task(windows)], -1)
    ended = episode.columns.get("terminated") if settings.ends == "column" else None
    return Embedded(
        episode.task,
        together.cpu().numpy(),
        episode.actions,
        rewards,
        np.zeros(length, np.bool_) if ended is None else np.asarray(ended, np.bool_),
        windows,
    )


@torch.inference_mode()
def imagine(
    networks: SRTDNetworks, states: Tensor, steps: Tensor, generator: torch.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Roll skills out from raw states [B, S] in the tasks that the last steps [B, n, A + S + 1] tell (Eq. 9).

    Returns states with latents [B, rollout + 1, S + D], clipped actions [B, rollout, A], predicted rewards
    [B, rollout].
    """
    settings, mean, std = networks.settings, networks.normalize.mean, networks.normalize.std
    now = networks.normalize(states)
    latents = networks.encode_task(steps)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    latents = latents + settings.latent_noise * noise
    seen, taken, paid = [torch.cat([states, latents], -1)], [], []
    for _ in range(settings.rollout):
        actions = networks.decode_skill(now, latents).clamp(-1, 1)
        now, rewards = networks.decode_task(now, actions, latents)
        step = torch.cat([actions, now, rewards[:, None]], -1)
        steps = torch.cat([steps[:, 1:], step[:, None]], 1)
        latents = networks.encode_task(steps)
        seen.append(torch.cat([now * std + mean, latents], -1))
        taken.append(actions)
        paid.append(rewards)
    return (
        torch.stack(seen, 1).cpu().numpy(),
        torch.stack(taken, 1).cpu().numpy(),
        torch.stack(paid, 1).cpu().numpy(),
    )


def write_stores(networks: SRTDNetworks, store: EpisodeStore, folder: Path, seed: int) -> None:
    """Write ``folder/embedded``, and ``folder/augmented`` if the settings want it, unless they are there.

    One pass over the episodes; what is in memory at a time does not depend on their number.
    """
    wanted = [EMBEDDED] if networks.settings.augmentation == "none" else [EMBEDDED, AUGMENTED]
    origin = _origin(networks, store, seed)
    if all(_is_there(folder / name, origin) for name in wanted):
        return
    for name in wanted:
        shutil.rmtree(folder / name, ignore_errors=True)
    widths = store.observation_dim + networks.settings.latent, store.action_dim
    writers = {
        name: StoreWriter(
            folder / name,
            *widths,
            store.tasks,
            provenance={**origin, "part": name},
            unfinished=True,
            columns={"terminated": bool},
        )
        for name in wanted
    }
    _write(networks, store, writers, seed)
    for writer in writers.values():
        writer.finish()
        writer.close()


def _write(networks: SRTDNetworks, store: EpisodeStore, writers: dict[str, StoreWriter], seed: int) -> None:
    settings = networks.settings
    waiting = _Waiting(networks, torch.Generator().manual_seed(seed))
    random = np.random.default_rng(seed)
    for index, first in _starts(store, settings, random):
        embedded = embed(networks, store.episode(index))
        _append(writers[EMBEDDED], embedded, embedded.states, slice(None))
        if settings.augmentation == "imaginary":
            waiting.add(embedded, first)
            if waiting.count >= TOGETHER:
                waiting.write(writers[AUGMENTED])
        elif settings.augmentation == "noise":
            scale = settings.state_noise * networks.normalize.std.cpu().numpy()
            for start in first.tolist():
                rows = slice(start, min(start + settings.rollout, len(embedded.rewards)))
                states = embedded.states[rows.start : rows.stop + 1].copy()
                shape = (len(states), len(scale))
                states[:, : len(scale)] += scale * random.standard_normal(shape, np.float32)
                _append(writers[AUGMENTED], embedded, states, rows)
    if waiting.count:
        waiting.write(writers[AUGMENTED])


@dataclass
class _Waiting:
    """Starts of imaginary demonstrations, until there are enough to roll out together."""

    networks: SRTDNetworks
    generator: torch.Generator
    count: int = 0
    _tasks: list[str] = field(default_factory=list)
    _states: list[FloatArray] = field(default_factory=list)
    _steps: list[Tensor] = field(default_factory=list)

    def add(self, embedded: Embedded, first: npt.NDArray[np.int64]) -> None:
        """Those of an episode that begin at the states ``first``."""
        if not len(first):
            return
        self._tasks += [embedded.task] * len(first)
        self._states.append(embedded.states[first, : self.networks.observation_dim])
        self._steps.append(embedded.steps[torch.from_numpy(first).to(embedded.steps.device)])
        self.count += len(first)

    def write(self, writer: StoreWriter) -> None:
        """Roll them out into a store."""
        steps = torch.cat(self._steps)
        states = torch.from_numpy(np.concatenate(self._states)).to(steps.device)
        observations, actions, rewards = imagine(self.networks, states, steps, self.generator)
        if not np.isfinite(observations).all():
            raise StoreError(f"{writer.path}: imaginary demonstrations leave what float32 can hold")
        ends = {"terminated": np.zeros(rewards.shape, np.bool_)}
        writer.append_block(self._tasks, CheckedBlock.of(observations, actions, rewards, ends))
        self.count, self._tasks, self._states, self._steps = 0, [], [], []


def _append(writer: StoreWriter, episode: Embedded, states: FloatArray, rows: slice) -> None:
    writer.append(
        task=episode.task,
        observations=states,
        actions=episode.actions[rows],
        rewards=episode.rewards[rows],
        columns={"terminated": episode.terminated[rows]},
    )


def _rewards(rewards: FloatArray, settings: SRTDSettings) -> FloatArray:
    values = np.diff(rewards, prepend=np.float32(0)) if settings.rewards == "differences" else rewards
    return np.asarray(settings.reward_scale * values, np.float32)


def episode_quality(store: EpisodeStore, settings: SRTDSettings) -> Tensor:
    """The discounted return of each episode of a store, at least 0, float32 [E]; ones without ``quality_weight``."""
    if not settings.quality_weight:
        return torch.ones(store.num_episodes)
    found = np.empty(store.num_episodes)
    for index in range(store.num_episodes):
        rewards = _rewards(store.episode(index).rewards, settings).astype(np.float64)
        found[index] = rewards @ settings.discount ** np.arange(len(rewards))
    return torch.from_numpy(np.maximum(found, 0).astype(np.float32))


def _starts(
    store: EpisodeStore, settings: SRTDSettings, random: np.random.Generator
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Each episode, and the states in it from which something is made: one drawn from each of equal stretches."""
    steps = store.num_steps
    count = (
        0 if settings.augmentation == "none" else round(settings.augmented_size * steps / settings.rollout)
    )
    drawn = np.floor((np.arange(count) + random.random(count)) * steps / max(count, 1)).astype(np.int64)
    ends = store.episode_start + store.episode_length
    for index, (first, end) in enumerate(zip(store.episode_start, ends, strict=True)):
        yield index, drawn[np.searchsorted(drawn, first) : np.searchsorted(drawn, end)] - first


def _origin(networks: SRTDNetworks, store: EpisodeStore, seed: int) -> dict[str, Any]:
    digest = hashlib.sha256()
    for module in networks.decomposition.values():
        for value in module.state_dict().values():
            digest.update(value.detach().float().cpu().numpy().tobytes())
    settings = networks.settings
    names = ("augmentation", "augmented_size", "rollout", "latent_noise", "state_noise", "rewards", "ends")
    return {
        "source": "goskill.methods.srtd",
        "data": store.fingerprint,
        "networks": digest.hexdigest()[:16],
        "seed": seed,
        **{name: getattr(settings, name) for name in names},
    }


def _is_there(path: Path, origin: dict[str, Any]) -> bool:
    if not (path / MANIFEST).exists():
        return False
    try:
        store = EpisodeStore.open(path)
    except StoreError:
        return False
    return not store.unfinished and store.provenance == [{**origin, "part": path.name}]
