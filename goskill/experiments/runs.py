"""What a run folder means: its settings, the demonstrations it keeps, the networks it ended with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from goskill.errors import CheckpointError, InputError
from goskill.experiments import presets
from goskill.settings import from_mapping, to_mapping

if TYPE_CHECKING:
    from torch import nn

    from goskill.data import EpisodeStore
    from goskill.evaluation import DataReturns, Results
    from goskill.methods.registry import GoalFeatures, MethodSettings, MethodWithNetworks
    from goskill.rollouts import Policy, Prompts
    from goskill.training import Checkpoint, Milestones, RunFolder, TrainingSettings

DEFAULT_METHOD = "go_skill"


@dataclass(frozen=True)
class DataSettings:
    """What quickstart collects. Raises InputError that names the setting."""

    tasks: tuple[str, ...] = ()  # task names, or the name of one suite
    episodes: int = 40  # per task, from random to expert
    quality: Literal["near-optimal", "sub-optimal"] = "near-optimal"  # all episodes, or the first half

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise InputError(f"episodes: expected at least 1, got {self.episodes}")


@dataclass(frozen=True)
class EvaluationSettings:
    """How a run is evaluated. Raises InputError that names the setting."""

    episodes: int = 50  # new episodes per task

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise InputError(f"episodes: expected at least 1, got {self.episodes}")


@dataclass(frozen=True)
class Settings:
    """All settings of a run, in the sections that presets and ``--set`` name, and the method's name."""

    name: str  # of the method, see ``goskill.methods.registry``
    data: DataSettings
    method: MethodSettings
    training: TrainingSettings
    evaluation: EvaluationSettings


def read_settings(
    preset: str,
    overrides: Sequence[str] = (),
    *,
    method: str = DEFAULT_METHOD,
    ablations: Sequence[str] = (),
) -> Settings:
    """A preset for a method by name, with ablations of it and overrides such as ``method.horizon=5``.

    Raises InputError that names what is wrong.
    """
    from goskill.methods import registry

    entry = registry.find(method)
    sections = presets.load(preset, entry.family.section)
    sections["training"] = {**entry.family.training, **sections["training"]}
    sections["method"] |= entry.decided
    return settings_from(method, sections, overrides, ablations)


def settings_of(
    run: RunFolder,
    overrides: Sequence[str] = (),
    *,
    method: str | None = None,
    ablations: Sequence[str] = (),
) -> Settings:
    """The settings that a run was started with, with ablations and overrides.

    Raises CheckpointError if its file is damaged, and if ``method`` is given and not that of the run.
    """
    from goskill.methods import registry

    record = _record(run)
    values = dict(record["method"])
    name = values.pop("name")
    try:
        registry.find(name)
    except InputError as error:
        raise CheckpointError(f"{run.settings_file}: {error}") from None
    if method not in (None, name):
        raise CheckpointError(f"{run.path} is a run of method {name!r}, not of {method!r}")
    return settings_from(name, {**record, "method": values, "data": {}}, overrides, ablations)


def settings_from(
    name: str,
    sections: Mapping[str, Mapping[str, Any]],
    overrides: Sequence[str] = (),
    ablations: Sequence[str] = (),
) -> Settings:
    """Settings of the method ``name`` from plain sections. Raises InputError that names what is wrong."""
    from goskill.methods import registry
    from goskill.training import TrainingSettings

    entry = registry.find(name)
    plain = {section: dict(values) for section, values in sections.items()}
    plain["method"] |= entry.ablated(ablations)
    sections = presets.override(plain, overrides)
    return Settings(
        name,
        from_mapping(DataSettings, sections["data"], "data"),
        entry.settings(sections["method"]),
        from_mapping(TrainingSettings, sections["training"], "training"),
        from_mapping(EvaluationSettings, sections["evaluation"], "evaluation"),
    )


def record_of(settings: Settings, store: EpisodeStore) -> dict[str, Any]:
    """What ``settings.json`` of a run on ``store`` holds. Raises InputError for a store that is unfinished."""
    from goskill.evaluation import data_returns

    check_finished(store)
    return {
        "data": {
            "path": str(store.path.resolve()),
            "tasks": store.tasks,
            "episodes": store.num_episodes,
            "steps": store.num_steps,
            "returns": {task: to_mapping(returns) for task, returns in data_returns(store).items()},
        },
        "method": {"name": settings.name, **to_mapping(settings.method)},
        "training": to_mapping(settings.training),
        "evaluation": to_mapping(settings.evaluation),
    }


def check_finished(store: EpisodeStore) -> None:
    """Raises InputError for a store whose writer has been stopped, or is not done."""
    if store.unfinished:
        raise InputError(
            f"{store.path} is unfinished: first run the command again that was writing it, it goes on"
        )


def data_path(run: RunFolder) -> str:
    """Where the store was that a run was started on."""
    return str(_record(run)["data"]["path"])


def check_data(run: RunFolder, path: Path, data: Mapping[str, Any]) -> None:
    """Raises InputError if the store at ``path`` is not the one that the run was started on.

    ``data`` says of the store what :func:`record_of` does.
    """
    begun = _record(run)["data"]
    for name in ("tasks", "episodes", "steps", "returns"):
        if begun.get(name) != data[name]:
            shown = "" if name == "returns" else f" ({begun.get(name)} there, {data[name]} here)"
            raise InputError(
                f"{run.path} cannot be resumed with {path}: its {name}{shown} are not those of {begun['path']}, "
                "on which the run was started"
            )


def returns_of(run: RunFolder) -> dict[str, DataReturns]:
    """The returns of a run's training episodes by task."""
    from goskill.evaluation import DataReturns

    returns = _record(run)["data"]["returns"]
    return {
        task: from_mapping(DataReturns, values, f"data.returns.{task}") for task, values in returns.items()
    }


def _record(run: RunFolder) -> dict[str, Any]:
    record = run.sections("data", "method", "training", "evaluation")
    for section, name in (("data", "returns"), ("data", "path"), ("method", "name")):
        if name not in record[section]:
            raise CheckpointError(f"{run.settings_file}: setting {section}.{name} is missing")
    return record


def load_networks(
    run: RunFolder, goal_features: GoalFeatures | None = None, *, finished: bool = True
) -> nn.Module:
    """The networks of a finished run, on the CPU; with ``finished`` False of any that has a checkpoint.

    ``goal_features`` is the goal hook that the run was trained with, if it was. Raises CheckpointError for a run
    that is not finished, and for a checkpoint that is damaged or does not fit the run's settings.
    """
    from goskill.methods import registry
    from goskill.training import Checkpoints

    settings = settings_of(run)
    checkpoint = _last_checkpoint(run) if finished else Checkpoints(run.checkpoints).newest()
    if checkpoint is None:
        raise CheckpointError(
            f"{run.checkpoints} holds no whole checkpoint: "
            f"train again with goskill train --resume --out {run.path}"
        )
    family = registry.find(settings.name).family
    return family.rebuild(settings.method, checkpoint.networks(), goal_features)


def _last_checkpoint(run: RunFolder) -> Checkpoint | None:
    """The checkpoint at the end of training; None if there is no checkpoint at all."""
    from goskill.training import Checkpoints, read_checkpoint

    path = Checkpoints(run.checkpoints).newest_path()
    if path is None:
        return None
    resume = f"go on with goskill train --resume --out {run.path}"
    try:
        checkpoint = read_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {resume}, which repeats what it held") from None
    if checkpoint.state["phase"] < len(checkpoint.state["phases"]):
        raise CheckpointError(f"{run.path} is not finished: {resume}")
    return checkpoint


def outside_metaworld(store: EpisodeStore) -> str:
    """Why the tasks of a store cannot be rolled out in MetaWorld; "" if they can."""
    from goskill.envs import task_names
    from goskill.envs.metaworld.environment import ACTION_DIM, OBSERVATION_DIM

    for name, size in (("observation_dim", OBSERVATION_DIM), ("action_dim", ACTION_DIM)):
        if getattr(store, name) != size:
            return f"{store.path}: expected {name} {size}, got {getattr(store, name)}"
    try:
        task_names(store.tasks)
    except InputError as error:
        return str(error)
    return ""


def train_into(
    run: RunFolder,
    method: MethodWithNetworks,
    settings: Settings,
    store: EpisodeStore,
    *,
    resume: bool = False,
    milestones: Milestones | None = None,
) -> None:
    """Train a method on ``store`` into ``run``, which also keeps its prompts and counts the skills of its data."""
    from goskill.evaluation import DataSkills
    from goskill.methods import registry
    from goskill.training import Trainer, distributed

    if distributed.rank() == 0:
        keep_prompts(store, run, settings.method.prompt_episodes)
    Trainer(method, run, settings.training, milestones=milestones).train(resume=resume)
    family = registry.find(settings.name).family
    if family.label is not None and family.has_skills(settings.method):
        column = family.label(method.networks, store, None)
        if distributed.rank() == 0:
            DataSkills.of_store(store, column).save(run.path / "data_skills.json")


def evaluate_over_ranks(policy: Policy, tasks: Sequence[str], episodes: int, **options: Any) -> Results:
    """:func:`goskill.evaluation.evaluate` with the tasks shared among the ranks; each gets all results."""
    from goskill.evaluation import merge
    from goskill.rollouts import evaluate
    from goskill.training import distributed

    share = tasks[distributed.rank() :: distributed.world_size()]
    part = evaluate(policy, share, episodes, **options) if share else None
    return merge([one for one in distributed.gather(part) if one is not None], tasks)


def keep_prompts(store: EpisodeStore, run: RunFolder, count: int) -> None:
    """Copy each task's best episodes into a run, so that it can be evaluated without its data."""
    from goskill.data import StoreWriter

    if run.prompts.exists():
        return
    unfinished = run.path / ".prompts"
    shutil.rmtree(unfinished, ignore_errors=True)
    origin = {"source": str(store.path), "selection": f"the {count} episodes of highest return of each task"}
    with StoreWriter(
        unfinished, store.observation_dim, store.action_dim, store.tasks, provenance=origin
    ) as writer:
        for task in store.tasks:
            for index in store.best_episodes(task, count):
                episode = store.episode(index)
                writer.append(
                    task=task,
                    observations=episode.observations,
                    actions=episode.actions,
                    rewards=episode.rewards,
                    success=episode.success,
                )
    os.replace(unfinished, run.prompts)


def prompts_of(store: EpisodeStore, count: int) -> Prompts:
    """Each task's best episodes as demonstrations; tasks without episodes are left out."""
    from goskill.rollouts import Demonstration

    prompts = {}
    for task in store.tasks:
        best = [store.episode(index) for index in store.best_episodes(task, count)]
        if best:
            prompts[task] = [Demonstration(one.observations, one.actions, one.rewards) for one in best]
    return prompts
