"""Runs that are gone on from: whether they fit, and what is taken from them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from goskill.envs.suite import Suite
from goskill.errors import CheckpointError, InputError
from goskill.methods.method import Networks
from goskill.methods.registry import Entry, find
from goskill.methods.skill_rl.execution import ExecutableSkills
from goskill.methods.skill_rl.settings import SkillSettings
from goskill.methods.skill_rl.skill_model import SkillModel, model_from_state
from goskill.training import Checkpoint, Checkpoints, RunFolder


@dataclass(frozen=True)
class TrainedSkills:
    """A run's skills: the model, and the run's settings of it by name."""

    model: SkillModel
    settings: dict[str, Any]


def skills_of_run(path: str | Path, suite: Suite | None = None) -> TrainedSkills:
    """The skills of any run that has learned some; its online phase may still be under way.

    Raises InputError for what is no run with skills, a run whose skills are not finished, and one whose observations
    or actions are not those of ``suite``; CheckpointError for damaged files.
    """
    run, entry, settings = _settings_of(path)
    if not isinstance(settings, SkillSettings):
        raise InputError(
            f"skills: expected a run of skills such as skill_prior's, {run.path} is one of {entry.name}"
        )
    checkpoint = _checkpoint("skills", run)
    phases = [name for name, _ in checkpoint.state["phases"]]
    if "skills" in phases and checkpoint.state["phase"] <= phases.index("skills"):
        raise InputError(
            f"skills: those of {run.path} are not finished: go on with goskill train --resume --out {run.path}"
        )
    model = model_from_state(settings, checkpoint.networks())
    if suite is not None:
        check_sizes("skills", run.path, model, suite)
    own = {
        field.name: getattr(settings, field.name) for field in fields(SkillSettings) if field.name != "skills"
    }
    return TrainedSkills(model, own)


def finished_run(setting: str, path: str | Path, method: str) -> tuple[Any, Networks]:
    """The settings of a finished run of ``method``, and its networks' state dicts by name.

    Raises InputError that begins with ``setting`` for other runs and those that are not finished; CheckpointError for
    damaged files.
    """
    run, entry, settings = _settings_of(path)
    if entry.name != method:
        raise InputError(f"{setting}: expected a run of {method}, {run.path} is one of {entry.name}")
    checkpoint = _checkpoint(setting, run)
    if not checkpoint.finished:
        raise InputError(
            f"{setting}: {run.path} is not finished: go on with goskill train --resume --out {run.path}"
        )
    return settings, checkpoint.networks()


def check_suite_name(setting: str, path: str | Path, suite_name: str) -> None:
    """Raises InputError for a run that says it is of another suite."""
    found = RunFolder.open(path).sections("data")["data"].get("suite")
    if found is not None and suite_name and found != suite_name:
        raise InputError(f"{setting}: {path}: expected a run of suite {suite_name}, got one of {found}")


def check_sizes(setting: str, path: str | Path, model: ExecutableSkills, suite: Suite) -> None:
    """Raises InputError for a run whose observations or actions are not those of ``suite``."""
    for name in ("observation_dim", "action_dim"):
        expected, got = getattr(suite, name), getattr(model, name)
        if expected != got:
            raise InputError(
                f"{setting}: {path}: expected {name} {expected} as suite {suite.name} has, got {got}"
            )


def warn_of_known(tasks: Sequence[str], known: Sequence[str]) -> None:
    """Warn of target tasks that were among those trained on."""
    both = [task for task in tasks if task in known]
    if both:
        warnings.warn(f"tasks: {', '.join(both)}: meta-trained on as well", stacklevel=3)


def _settings_of(path: str | Path) -> tuple[RunFolder, Entry, Any]:
    run = RunFolder.open(path)
    values = dict(run.sections("method")["method"])
    entry = find(values.pop("name"))
    return run, entry, entry.settings(values)


def _checkpoint(setting: str, run: RunFolder) -> Checkpoint:
    found = Checkpoints(run.checkpoints).newest()
    if found is None:
        raise CheckpointError(f"{setting}: {run.checkpoints} holds no whole checkpoint")
    return found
