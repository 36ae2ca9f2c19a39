"""Training a method into a run folder, from a store, in a suite, or both; going on with it; making it longer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from goskill.errors import InputError
from goskill.experiments.export import ORIGIN
from goskill.experiments.run_prompts import chosen_prompts
from goskill.experiments.runs import (
    DEFAULT_METHOD,
    Choice,
    Settings,
    check_data,
    check_finished,
    data_path,
    open_store,
    read_settings,
    record_of,
    settings_of,
    suite_of,
    tasks_of,
    train_into,
)
from goskill.settings import parse_override

if TYPE_CHECKING:
    from goskill.data import EpisodeStore
    from goskill.envs.suite import Suite
    from goskill.methods import Sources
    from goskill.training import RunFolder

PathLike = str | Path
DEFAULT_PRESET = "mt10"
OUTSIDE = 0.01  # share of steps with actions that no policy can take, above which training warns
UNFIT = 20.0  # factor between the largest return and its scale, above which training warns


def train(
    data: PathLike | None,
    out: PathLike,
    *,
    method: Choice | None = None,
    preset: str | None = None,
    ablations: Sequence[str] = (),
    overrides: Sequence[str] = (),
    resume: bool = False,
    suite: str | Suite | None = None,
    tasks: Sequence[str] = (),
    workers: int | None = None,
    labels: PathLike | None = None,
) -> RunFolder:
    """Train a method into a run folder, or go on with an interrupted run.

    Args:
        data: the episode store to learn from; None for methods that learn in a suite only, and to resume.
        out: the run folder.
        method: a name of :func:`goskill.methods.method_names`, an import path or a class; by default go_skill, or the
            method of the run to resume.
        preset, ablations, overrides: a name (by default mt10), names such as ``no-focal``, and texts such as
            ``method.horizon=5``.
        resume: go on with the run in ``out``, or begin it if there is none: the same call begins a run and goes on
            with it. The run's own settings, data and suite are taken where none are given; a larger number of
            iterations makes it longer.
        suite, tasks, workers: environments to learn in, for methods that do, which of its tasks, and how many
            processes step them.
        labels: the folder for labels of the data, by default beside it, or in ``out`` where it cannot be written to.

    Raises InputError for wrong settings, a store or suite that does not fit them, and a folder that exists already
    without ``resume``; nothing is written then.
    """
    from goskill.experiments import finetuning
    from goskill.training import RunFolder
    from goskill.training.devices import choose_execution

    begun = resume and RunFolder(Path(out)).settings_file.exists()
    if begun and (Path(out) / ORIGIN).exists():
        raise InputError(f"{out} is an exported run, which has no optimisers to go on with: fine-tune it")
    if begun and preset is None and finetuning.was_finetuned(out):
        return finetuning.resume(out, data, overrides=overrides, method=method, labels=labels)
    if begun:
        data = data or data_path(RunFolder.open(out)) or None
    overrides = _with_numbers(overrides, data)
    if begun and preset is None:
        settings = settings_of(RunFolder.open(out), overrides, method=method, ablations=ablations)
    else:
        chosen = method or DEFAULT_METHOD
        settings = read_settings(preset or DEFAULT_PRESET, overrides, method=chosen, ablations=ablations)
    choose_execution(settings.training)  # raises before anything is written
    store = None if data is None else open_store(data, RunFolder(Path(out)), labels)
    sources = _sources(settings, store, suite, tasks, workers, RunFolder.open(out) if begun else None)
    sources = replace(sources, folder=RunFolder(Path(out)).made)
    learner = settings.entry.method.create(settings.method, sources, settings.training)
    settings = replace(settings, method=learner.settings)
    prompts = chosen_prompts(learner, store)
    record = record_of(settings, sources)
    if begun and sources.store is not None:
        check_data(RunFolder.open(out), sources.store.path, record["data"])
    schedule = {f"method.{name}" for name in settings.entry.method.schedule}
    run = RunFolder.create(out, record, resume=begun, may_grow=schedule)
    train_into(run, learner, settings, sources.store, prompts=prompts, resume=begun)
    return run


def _with_numbers(overrides: Sequence[str], data: PathLike | None) -> list[str]:
    """The overrides with numbers of the data where they say "auto". Raises InputError for a setting of the data."""
    from goskill.data import EpisodeStore

    found = []
    for override in overrides:
        key, value = parse_override(override)
        if key.startswith("data."):
            raise InputError(f"--set {override}: only quickstart collects data, train takes what is there")
        if key == "method.return_scale" and value == "auto":
            if data is None:
                raise InputError(f"--set {override}: expected a number without an episode store")
            override = f"{key}={largest_return(EpisodeStore.open(data))}"
        found.append(override)
    return found


def _sources(
    settings: Settings,
    store: EpisodeStore | None,
    suite: str | Suite | None,
    tasks: Sequence[str],
    workers: int | None,
    begun: RunFolder | None,
) -> Sources:
    """What the method learns from, as given or as the run that is resumed had it."""
    from goskill.envs.suite import check_fits
    from goskill.envs.suite_registry import find_suite
    from goskill.methods import Sources

    kind = settings.entry.method
    if begun is not None and kind.learns_in_suite:
        suite, tasks = suite or suite_of(begun), tasks or tasks_of(begun)
    if store is None and kind.needs_store:
        raise InputError("data: expected an episode store to learn from, got none")
    if suite is None and kind.learns_in_suite:
        raise InputError(
            f"suite: {settings.name} learns in environments: expected the name of a suite, got none"
        )
    if store is not None:
        check_finished(store)
        for notice in unusual_data(store, settings.method):
            warnings.warn(notice, stacklevel=3)
    found = None if suite is None else find_suite(suite)
    if found is not None and store is not None:
        check_fits(found, str(store.path), store.observation_dim, store.action_dim)
    names = tuple(found.task_name(task) for task in tasks) or found.tasks if found is not None else ()
    name = suite if isinstance(suite, str) else getattr(suite, "name", "")
    return Sources(store, found, name, names, workers)


def largest_return(store: EpisodeStore) -> float:
    """The largest absolute return of an episode, to three digits: what ``return_scale=auto`` means; 1 if all are 0."""
    largest = float(np.abs(store.episode_return).max(initial=0.0))
    return float(f"{largest:.3g}") or 1.0


def unusual_data(store: EpisodeStore, method: Any) -> list[str]:
    """What about a store is likely to spoil training with these settings of a method, each as a sentence."""
    notices = []
    outside = store.actions_outside
    if outside is not None and outside > OUTSIDE * store.num_steps:
        notices.append(
            f"{store.path}: {outside:,} of {store.num_steps:,} steps have actions outside [-1, 1], which no policy "
            "here can take: scale the actions of the data"
        )
    scale, largest = getattr(method, "return_scale", None), largest_return(store)
    if scale is not None and store.num_steps and not 1 / UNFIT < largest / scale < UNFIT:
        notices.append(
            f"method.return_scale is {scale:g}, the largest return of {store.path} is {largest:g}: "
            "returns-to-go should be about 1; --set method.return_scale=auto fits them to the data"
        )
    return notices
