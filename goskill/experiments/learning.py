"""What runs in environments met while they learned, from their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from goskill.errors import InputError
from goskill.experiments.runs import newest_checkpoint
from goskill.rollouts.episode_log import EpisodeLog
from goskill.rollouts.policy import FloatArray
from goskill.training import RunFolder
from goskill.training.state import load_states

_STATE = "episodes"


def episodes(run: str | Path) -> dict[str, list[dict[str, Any]]]:
    """By task, the episodes of a run up to its newest checkpoint, finished or under way.

    Each says ``end`` (steps that its environment had taken by its end), ``length``, ``return`` and ``success`` (None
    where nothing reports it). Raises InputError for a run that did not learn in environments.
    """
    log = _log_of(run)
    return {task: log.episodes(task) for task in dict.fromkeys(log.tasks)}


def ways(run: str | Path) -> dict[str, dict[int, FloatArray]]:
    """By task and number of the episode, from 1, the way that some episodes of its first environment took.

    Each is float32 [n, observation_dim]: the observation of every tenth step, and the last. Episodes 1, 21, 40, 100
    and 200 are followed, as far as they have ended; a run from before they were kept has none. Raises InputError for a
    run that did not learn in environments.
    """
    log = _log_of(run)
    return {task: log.ways(task) for task in dict.fromkeys(log.tasks)}


def _log_of(run: str | Path) -> EpisodeLog:
    found = newest_checkpoint(RunFolder.open(run))
    states = found.state.get("state", {})
    if _STATE not in states:
        raise InputError(
            f"{run}: expected a run that learned in environments, its checkpoints hold no episodes"
        )
    log = EpisodeLog(())
    load_states({_STATE: log}, {_STATE: states[_STATE]}, found.arrays([_STATE]))
    return log
