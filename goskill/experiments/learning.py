"""What runs in environments met while they learned, from their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from goskill.errors import InputError
from goskill.experiments.runs import newest_checkpoint
from goskill.rollouts.episode_log import EpisodeLog
from goskill.training import RunFolder
from goskill.training.state import load_states

_STATE = "episodes"


def episodes(run: str | Path) -> dict[str, list[dict[str, Any]]]:
    """By task, the episodes of a run up to its newest checkpoint, finished or under way.

    Each says ``end`` (steps that its environment had taken by its end), ``length``, ``return`` and ``success`` (None
    where nothing reports it). Raises InputError for a run that did not learn in environments.
    """
    found = newest_checkpoint(RunFolder.open(run))
    states = found.state.get("state", {})
    if _STATE not in states:
        raise InputError(
            f"{run}: expected a run that learned in environments, its checkpoints hold no episodes"
        )
    log = EpisodeLog(())
    load_states({_STATE: log}, {_STATE: states[_STATE]}, found.arrays([_STATE]))
    return {task: log.episodes(task) for task in dict.fromkeys(log.tasks)}
