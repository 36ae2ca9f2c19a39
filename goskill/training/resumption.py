"""Where a run stands in its phases, also when it is resumed with longer ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from goskill.errors import CheckpointError
from goskill.training.checkpoint import Checkpoint


def position_in(checkpoint: Checkpoint, phases: Sequence[Sequence[Any]]) -> tuple[int, int]:
    """The phase and its iteration to go on at, where ``phases`` are [name, iterations] of the method now.

    The phase that the checkpoint stands in, and those behind it, may have more iterations than when it was written;
    a finished run goes on at the end of its last phase then. Raises CheckpointError for other differences.
    """
    before, phase, iteration = (
        checkpoint.state["phases"],
        checkpoint.state["phase"],
        checkpoint.state["iteration"],
    )
    if phase == len(before) and phases and before and list(phases[-1]) != before[-1]:
        phase, iteration = phase - 1, before[-1][1]
    passed, left = list(before[:phase]), list(before[phase:])
    same = [list(one) for one in phases[:phase]] == passed and len(phases) == len(before)
    if not same or any(
        now[0] != was[0] or now[1] < was[1] for now, was in zip(phases[phase:], left, strict=True)
    ):
        raise CheckpointError(
            f"checkpoint {checkpoint.path} has phases {before}, the method has {[list(one) for one in phases]}"
        )
    return phase, iteration
