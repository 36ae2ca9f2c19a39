"""Columns that live on a device, and batches gathered there from the native samplers' choices."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from goskill.data.buffers import TORCH_DTYPES
from goskill.data.normalization import Normalization
from goskill.data.store import EpisodeStore

Batch = dict[str, Tensor]

_BLOCK_ROWS = 1 << 20
_TRITON_INSTALLED = importlib.util.find_spec("triton") is not None


class ResidentColumns:
    """The columns of a store on a device; ``names`` says which besides the observations.

    Gathered batches hold the same numbers, bit for bit, as those that the native samplers fill.
    """

    def __init__(
        self,
        store: EpisodeStore,
        device: torch.device,
        names: Sequence[str],
        labels: str | None,
        normalization: Normalization | None,
    ) -> None:
        self._device = device
        self._columns = {name: self._load(store, name) for name in ("observations", *names)}
        self._class_bits = 0
        self._labels = None if labels is None else self._load_labels(store, labels)
        self._length = self._copy(store.episode_length)
        self._first_step = self._copy(store.episode_start)
        # Every episode before has one observation more than steps.
        self._first_state = self._first_step + torch.arange(store.num_episodes, device=device)
        self._mean = None if normalization is None else self._copy(normalization.mean)
        self._std = None if normalization is None else self._copy(normalization.std)

    @property
    def _by_kernel(self) -> bool:
        """Whether one launch gathers a window: on a GPU, unless observations are normalised."""
        return self._device.type == "cuda" and self._mean is None and _TRITON_INSTALLED

    def _copy(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self._device)

    def _load_labels(self, store: EpisodeStore, name: str) -> Tensor:
        column = store.labels(name)
        # As signed integers: devices gather few types that have no sign.
        self._class_bits = (1 << 8 * column.itemsize) - 1
        return self._copy(column.view(f"i{column.itemsize}"))

    def _classes(self, rows: Tensor) -> Tensor:
        assert self._labels is not None
        return self._labels[rows].long() & self._class_bits

    def _load(self, store: EpisodeStore, name: str) -> Tensor:
        key = (str(self._device), name)
        if key not in store.resident_columns:
            store.resident_columns[key] = self._read(store, name)
        return store.resident_columns[key]

    def _read(self, store: EpisodeStore, name: str) -> Tensor:
        """All rows, as two axes; of unsigned integers the bits, since devices gather few types that have no sign."""
        parts = [store.native.shard_rows(name, shard) for shard in range(len(store.shard_folders))]
        rows = sum(len(part) for part in parts)
        dtype = parts[0].dtype
        bits = np.dtype(f"i{dtype.itemsize}") if dtype.kind == "u" else dtype
        width = math.prod(parts[0].shape[1:])
        column = torch.empty((rows, width), dtype=TORCH_DTYPES[bits], device=self._device)
        done = 0
        for part in parts:
            for begin in range(0, len(part), _BLOCK_ROWS):
                block = np.array(part[begin : begin + _BLOCK_ROWS]).view(bits)
                if bits.kind == "b":
                    block = block.view(np.uint8) != 0  # a damaged file may hold bytes that no bool has
                column[done : done + len(block)] = (
                    torch.from_numpy(block).view(len(block), -1).to(self._device)
                )
                done += len(block)
        return column

    def _observations(self, rows: Tensor, real: Tensor) -> Tensor:
        values = self._columns["observations"][rows]
        if self._mean is not None and self._std is not None:
            values = (values - self._mean) / self._std
        return torch.where(real[..., None], values, 0.0)

    def segments(self, places: Batch, horizon: int) -> Batch:
        """Windows of a :class:`SegmentSampler` for ``episode``, ``start`` and ``task`` int64 [B]."""
        if self._by_kernel:
            return self._segments_by_kernel(places, horizon)
        episode, start = places["episode"], places["start"]
        length = self._length[episode][:, None]
        steps = start[:, None] + torch.arange(horizon + 1, device=self._device)
        real = steps < length
        mask = real[:, :-1].contiguous()
        real[:, -1] = True
        rows = self._first_state[episode][:, None] + torch.minimum(steps, length)
        first_step = self._first_step[episode][:, None]
        actions = self._columns["actions"][first_step + torch.minimum(steps[:, :-1], length - 1)]
        batch = {
            "observations": self._observations(rows, real),
            "actions": torch.where(mask[..., None], actions, 0.0),
            "mask": mask,
            **places,
        }
        if self._labels is not None:
            batch["skill"] = self._classes(first_step[:, 0] + start)
        return batch

    def variable_segments(self, places: Batch, max_length: int) -> Batch:
        """Segments of a :class:`VariableSegmentSampler` for its places int64 [B]."""
        episode, start, length = places["episode"], places["start"], places["length"][:, None]
        steps = torch.arange(max_length + 1, device=self._device)
        mask = steps[:-1] < length
        rows = (self._first_state[episode] + start)[:, None] + torch.minimum(steps, length)
        decisions = (self._first_step[episode] + start)[:, None] + torch.minimum(steps[:-1], length - 1)
        actions = torch.where(mask[..., None], self._columns["actions"][decisions], 0.0)
        return {
            "observations": self._observations(rows, steps <= length),
            "actions": actions,
            "mask": mask,
            **places,
        }

    def transitions(
        self,
        places: Batch,
        interval: int,
        gamma: float,
        discounted_rewards: bool,
        terminated: bool,
        columns: Mapping[str, np.dtype[Any]],
    ) -> Batch:
        """Transitions of a :class:`TransitionSampler` for ``episode``, ``start`` and ``task`` int64 [B]."""
        episode, start = places["episode"], places["start"]
        first = self._first_step[episode] + start
        length = torch.clamp(self._length[episode] - start, max=interval)
        state = self._first_state[episode] + start
        total = torch.zeros_like(first, dtype=torch.float64)
        discount, factor = torch.ones_like(total), torch.ones_like(total)
        for k in range(interval):
            real = k < length
            reward = self._columns["rewards"][first + torch.where(real, k, 0), 0].double()
            total += torch.where(real, factor * reward if discounted_rewards else reward, 0.0)
            factor = factor * gamma
            discount = torch.where(real, factor, discount)
        every = torch.ones((), dtype=torch.bool, device=self._device)
        ends = self._columns["terminated"][first + length - 1, 0] if terminated else torch.zeros_like(length)
        batch = {
            "observations": self._observations(state, every),
            "actions": self._columns["actions"][first],
            "rewards": total.float(),
            "next_observations": self._observations(state + length, every),
            "terminated": ends.bool(),
            "discount": discount.float(),
            **places,
        }
        if self._labels is not None:
            batch["skill"] = self._classes(first)
        for name, dtype in columns.items():
            rows = self._columns[name][first].view(TORCH_DTYPES[dtype.base])
            batch[name] = rows.view(len(first), *dtype.shape)
        return batch

    def windows(self, places: Batch, before: int, after: int) -> Batch:
        """Steps around those of :meth:`transitions`, as a :class:`TransitionSampler` with ``window`` gives them."""
        episode, start = places["episode"], places["start"]
        length = self._length[episode][:, None]
        steps = start[:, None] + torch.arange(-before, after + 1, device=self._device)
        first = self._first_step[episode][:, None]
        mask = (steps[:, :-1] >= 0) & (steps[:, :-1] < length)
        own = first + torch.minimum(steps[:, :-1].clamp(min=0), length - 1)
        states = self._first_state[episode][:, None] + torch.minimum(steps.clamp(min=0), length)
        return {
            "window_observations": self._observations(states, (steps >= 0) & (steps <= length)),
            "window_actions": torch.where(mask[..., None], self._columns["actions"][own], 0.0),
            "window_rewards": torch.where(mask, self._columns["rewards"][own][..., 0], 0.0),
            "window_mask": mask,
        }

    def contexts(
        self, places: Batch, horizon: int, context: int, prompt: int, return_scale: float, actions: bool
    ) -> Batch:
        """Windows of a :class:`ContextSampler` for its places int64 [B]."""
        batch = {
            **places,
            **self._window("", places["episode"], places["start"], horizon, context, return_scale, actions),
        }
        if prompt > 0:
            episode = places["prompt_episode"]
            if self._by_kernel:
                window = self._window_by_kernel(
                    "prompt_", episode, None, horizon, prompt, return_scale, actions
                )
                return batch | window
            points = (self._length[episode] // horizon).clamp(1, prompt)
            first = (self._length[episode] - points * horizon).clamp(min=0)
            start = first - (prompt - points) * horizon
            batch |= self._window("prompt_", episode, start, horizon, prompt, return_scale, actions)
        return batch

    def _window(
        self,
        prefix: str,
        episode: Tensor,
        start: Tensor,
        horizon: int,
        points: int,
        return_scale: float,
        actions: bool,
    ) -> Batch:
        if self._by_kernel:
            return self._window_by_kernel(prefix, episode, start, horizon, points, return_scale, actions)
        steps = start[:, None] + torch.arange(points, device=self._device) * horizon
        mask = steps >= 0
        steps = steps.clamp(min=0)
        rows = self._first_step[episode][:, None] + steps
        scale = torch.full((), return_scale, dtype=torch.float32, device=self._device)
        returns_to_go = self._columns["returns_to_go"][rows] / scale
        batch = {
            "observations": self._observations(self._first_state[episode][:, None] + steps, mask),
            "returns_to_go": torch.where(mask[..., None], returns_to_go, 0.0),
            "timesteps": steps // horizon,
            "mask": mask,
        }
        if self._labels is not None:
            batch["skills"] = torch.where(mask, self._classes(rows), 0)
        if actions:
            batch["actions"] = torch.where(mask[..., None], self._columns["actions"][rows], 0.0)
        return {prefix + name: value for name, value in batch.items()}

    def _segments_by_kernel(self, places: Batch, horizon: int) -> Batch:
        from goskill.kernels import resident_windows

        B, new = len(places["episode"]), self._columns["observations"].new_empty
        batch = {
            "observations": new(B, horizon + 1, self._columns["observations"].shape[1]),
            "actions": new(B, horizon, self._columns["actions"].shape[1]),
            "mask": new((B, horizon), dtype=torch.bool),
        }
        if self._labels is not None:
            batch["skill"] = new(B, dtype=torch.int64)
        shape = (self._length, self._first_step, self._columns, self._labels)
        resident_windows.segments(places, *shape, self._class_bits, batch)
        return {**batch, **places}

    def _window_by_kernel(
        self,
        prefix: str,
        episode: Tensor,
        start: Tensor | None,
        horizon: int,
        points: int,
        return_scale: float,
        actions: bool,
    ) -> Batch:
        from goskill.kernels import resident_windows

        B, new = len(episode), self._columns["observations"].new_empty
        batch = {
            "observations": new(B, points, self._columns["observations"].shape[1]),
            "returns_to_go": new(B, points, 1),
            "timesteps": new((B, points), dtype=torch.int64),
            "mask": new((B, points), dtype=torch.bool),
        }
        if self._labels is not None:
            batch["skills"] = new((B, points), dtype=torch.int64)
        if actions:
            batch["actions"] = new(B, points, self._columns["actions"].shape[1])
        shape = (self._length, self._first_step, self._columns, self._labels)
        bits = self._class_bits
        resident_windows.contexts(episode, start, *shape, bits, horizon, return_scale, batch)
        return {prefix + name: value for name, value in batch.items()}
