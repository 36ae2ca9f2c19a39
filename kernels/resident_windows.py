"""Batches of windows from columns that lie on a device, one launch for all that a window has.

The numbers are those of ``goskill.data.resident``, bit for bit. A program fills the window of one sample.
"""

from __future__ import annotations

from collections.abc import Mapping

import triton
import triton.language as tl
from torch import Tensor

from goskill.kernels.launch import on_device_of, power_of_two


@triton.jit
def _copy_rows(column, row, out, place, real, columns, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Rows int64 [P] of a column to places [P] of a batch; zeros where the row is not real."""
    c = tl.arange(0, BLOCK)
    inside = columns[:, None] & (c < WIDTH)[None, :]
    values = tl.load(column + row[:, None] * WIDTH + c[None, :], inside & real[:, None], 0.0)
    tl.store(out + place[:, None] * WIDTH + c[None, :], values, inside)


# What places a batch has may lie anywhere: a capture must not meet an alignment that is new.
PLACES = ["episodes", "starts"]


@triton.jit(do_not_specialize=PLACES, do_not_specialize_on_alignment=PLACES)
def segments_kernel(
    episodes, starts, lengths, first_steps, observations, actions, labels,
    out_observations, out_actions, out_mask, out_skill, class_bits,
    HORIZON: tl.constexpr, OBSERVATION: tl.constexpr, ACTION: tl.constexpr, LABELS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_A: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    episode, start = tl.load(episodes + sample), tl.load(starts + sample)
    length, first_step = tl.load(lengths + episode), tl.load(first_steps + episode)
    p = tl.arange(0, BLOCK_P)
    step = start + p
    real = step < length
    # Every episode before has one observation more than steps; the goal is there even behind the end.
    row = first_step + episode + tl.minimum(step, length)
    goal = p == HORIZON
    place = sample * (HORIZON + 1) + p
    _copy_rows(observations, row, out_observations, place, real | goal, p <= HORIZON, OBSERVATION, BLOCK_O)
    place = sample * HORIZON + p
    row = first_step + tl.minimum(step, length - 1)
    _copy_rows(actions, row, out_actions, place, real, p < HORIZON, ACTION, BLOCK_A)
    tl.store(out_mask + place, real, p < HORIZON)
    if LABELS:
        tl.store(out_skill + sample, tl.load(labels + first_step + start).to(tl.int64) & class_bits)


@triton.jit(do_not_specialize=PLACES, do_not_specialize_on_alignment=PLACES)
def contexts_kernel(
    episodes, starts, lengths, first_steps, observations, returns_to_go, labels, actions,
    out_observations, out_returns, out_timesteps, out_mask, out_skills, out_actions, scale, class_bits,
    HORIZON: tl.constexpr, POINTS: tl.constexpr, PROMPT: tl.constexpr,
    OBSERVATION: tl.constexpr, ACTION: tl.constexpr, LABELS: tl.constexpr, ACTIONS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_A: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    episode = tl.load(episodes + sample)
    length, first_step = tl.load(lengths + episode), tl.load(first_steps + episode)
    if PROMPT:
        # The last decision points of the episode, behind padding if it has fewer.
        there = tl.minimum(tl.maximum(length // HORIZON, 1), POINTS)
        start = tl.maximum(length - there * HORIZON, 0) - (POINTS - there) * HORIZON
    else:
        start = tl.load(starts + sample)
    p = tl.arange(0, BLOCK_P)
    column = p < POINTS
    step = start + p * HORIZON
    real = step >= 0
    step = tl.maximum(step, 0)
    row, place = first_step + step, sample * POINTS + p
    _copy_rows(observations, row + episode, out_observations, place, real, column, OBSERVATION, BLOCK_O)
    returned = tl.load(returns_to_go + row, column & real, 0.0)
    tl.store(out_returns + place, tl.div_rn(returned, scale), column)
    tl.store(out_timesteps + place, step // HORIZON, column)
    tl.store(out_mask + place, real, column)
    if LABELS:
        skill = tl.load(labels + row, column & real, 0).to(tl.int64) & class_bits
        tl.store(out_skills + place, skill, column)
    if ACTIONS:
        _copy_rows(actions, row, out_actions, place, real, column, ACTION, BLOCK_A)


def segments(
    places: Mapping[str, Tensor],
    lengths: Tensor,
    first_steps: Tensor,
    columns: Mapping[str, Tensor],
    labels: Tensor | None,
    class_bits: int,
    batch: Mapping[str, Tensor],
) -> None:
    """Fills ``observations`` [B, H + 1, D], ``actions`` [B, H, A], ``mask`` bool [B, H], with labels ``skill`` [B].

    ``places`` has ``episode`` and ``start`` int64 [B]; columns are float32 [rows, width].
    """
    B, horizon, action = batch["actions"].shape
    if B == 0:
        return
    observation = batch["observations"].shape[2]
    with on_device_of(lengths):
        segments_kernel[(B,)](
            places["episode"],
            places["start"],
            lengths,
            first_steps,
            columns["observations"],
            columns["actions"],
            labels,
            batch["observations"],
            batch["actions"],
            batch["mask"],
            batch.get("skill"),
            class_bits,
            HORIZON=horizon,
            OBSERVATION=observation,
            ACTION=action,
            LABELS=labels is not None,
            BLOCK_P=power_of_two(horizon + 1),
            BLOCK_O=power_of_two(observation),
            BLOCK_A=power_of_two(action),
            num_warps=1,
        )


def contexts(
    episodes: Tensor,
    starts: Tensor | None,
    lengths: Tensor,
    first_steps: Tensor,
    columns: Mapping[str, Tensor],
    labels: Tensor | None,
    class_bits: int,
    horizon: int,
    return_scale: float,
    batch: Mapping[str, Tensor],
) -> None:
    """Fills decision points: ``observations`` [B, K, D], ``returns_to_go`` [B, K, 1], ``timesteps``, ``mask`` [B, K],
    and where the batch has them ``skills`` [B, K] and ``actions`` [B, K, A].

    ``starts`` int64 [B] are their first steps, maybe before the episode's; None takes its last points (a prompt).
    """
    B, points, observation = batch["observations"].shape
    if B == 0:
        return
    actions = batch.get("actions")
    action = 1 if actions is None else actions.shape[2]
    with on_device_of(lengths):
        contexts_kernel[(B,)](
            episodes,
            starts,
            lengths,
            first_steps,
            columns["observations"],
            columns["returns_to_go"],
            labels,
            columns.get("actions"),
            batch["observations"],
            batch["returns_to_go"],
            batch["timesteps"],
            batch["mask"],
            batch.get("skills"),
            actions,
            float(return_scale),
            class_bits,
            HORIZON=horizon,
            POINTS=points,
            PROMPT=starts is None,
            OBSERVATION=observation,
            ACTION=action,
            LABELS=labels is not None,
            ACTIONS=actions is not None,
            BLOCK_P=power_of_two(points),
            BLOCK_O=power_of_two(observation),
            BLOCK_A=power_of_two(action),
            num_warps=1,
        )
