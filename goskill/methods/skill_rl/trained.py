"""Skills of a run that is finished, to learn with."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from goskill.envs.suite import Suite
from goskill.errors import CheckpointError, InputError
from goskill.methods.registry import find
from goskill.methods.skill_rl.settings import SkillSettings
from goskill.methods.skill_rl.skill_model import SkillModel, model_from_state
from goskill.training import Checkpoints, RunFolder


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
    run = RunFolder.open(path)
    values = dict(run.sections("method")["method"])
    entry = find(values.pop("name"))
    settings = entry.settings(values)
    if not isinstance(settings, SkillSettings):
        raise InputError(
            f"skills: expected a run of skills such as skill_prior's, {run.path} is one of {entry.name}"
        )
    checkpoint = Checkpoints(run.checkpoints).newest()
    if checkpoint is None:
        raise CheckpointError(f"skills: {run.checkpoints} holds no whole checkpoint")
    phases = [name for name, _ in checkpoint.state["phases"]]
    if "skills" in phases and checkpoint.state["phase"] <= phases.index("skills"):
        raise InputError(
            f"skills: those of {run.path} are not finished: go on with goskill train --resume --out {run.path}"
        )
    model = model_from_state(settings, checkpoint.networks())
    if suite is not None:
        _check_suite(run.path, model, suite)
    own = {
        field.name: getattr(settings, field.name) for field in fields(SkillSettings) if field.name != "skills"
    }
    return TrainedSkills(model, own)


def _check_suite(path: Path, model: SkillModel, suite: Suite) -> None:
    for name in ("observation_dim", "action_dim"):
        expected, got = getattr(suite, name), getattr(model, name)
        if expected != got:
            raise InputError(
                f"skills: {path}: expected {name} {expected} as suite {suite.name} has, got {got}"
            )
