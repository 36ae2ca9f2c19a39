"""Runs that SiMPL begins with: whether they fit, and what is taken from them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from goskill.envs.suite import Suite
from goskill.errors import CheckpointError, InputError
from goskill.methods.registry import find
from goskill.methods.simpl.networks import MetaAgent, agent_from_state
from goskill.methods.simpl.settings import SiMPLSettings, TaskSettings
from goskill.training import Checkpoints, RunFolder


def check_suite_name(setting: str, path: str | Path, suite_name: str) -> None:
    """Raises InputError for a run that says it is of another suite."""
    found = RunFolder.open(path).sections("data")["data"].get("suite")
    if found is not None and suite_name and found != suite_name:
        raise InputError(f"{setting}: {path}: expected a run of suite {suite_name}, got one of {found}")


def meta_trained(path: str | Path, suite: Suite) -> tuple[MetaAgent, dict[str, Any]]:
    """The agent of a finished run of ``simpl``, and its settings of networks, skills and rewards by name.

    Raises InputError for other runs, those that are not finished, and those whose observations or actions are not
    those of ``suite``; CheckpointError for damaged files.
    """
    run = RunFolder.open(path)
    values = dict(run.sections("method")["method"])
    entry = find(values.pop("name"))
    settings = entry.settings(values)
    if not isinstance(settings, SiMPLSettings):
        raise InputError(f"meta: expected a run of simpl, {run.path} is one of {entry.name}")
    checkpoint = Checkpoints(run.checkpoints).newest()
    if checkpoint is None:
        raise CheckpointError(f"meta: {run.checkpoints} holds no whole checkpoint")
    if checkpoint.state["phase"] < len(checkpoint.state["phases"]):
        raise InputError(
            f"meta: {run.path} is not finished: go on with goskill train --resume --out {run.path}"
        )
    agent = agent_from_state(settings, checkpoint.networks())
    for name in ("observation_dim", "action_dim"):
        expected, got = getattr(suite, name), getattr(agent.skills, name)
        if expected != got:
            raise InputError(
                f"meta: {run.path}: expected {name} {expected} as suite {suite.name} has, got {got}"
            )
    shared = {one.name: getattr(settings, one.name) for one in fields(TaskSettings) if one.name != "tasks"}
    return agent, shared
