"""What a run folder means: its settings, the demonstrations it keeps, the networks it ended with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

from goskill.errors import CheckpointError, InputError
from goskill.experiments import presets
from goskill.experiments.run_prompts import keep_prompts
from goskill.settings import from_mapping, to_mapping

if TYPE_CHECKING:
    from goskill.data import EpisodeStore
    from goskill.evaluation import DataReturns, Results
    from goskill.methods import Entry, Method, Sources
    from goskill.rollouts import Policy
    from goskill.training import Checkpoint, Milestones, RunFolder, TrainingSettings

DEFAULT_METHOD = "go_skill"
Choice = Union[str, "type[Method]"]
"""A method: a name, an import path such as ``my_module:MyMethod``, or a class."""


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
    max_steps: int | None = None  # of each; None: as many as the suite's have

    def __post_init__(self) -> None:
        for name in ("episodes", "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}: expected at least 1, got {value}")


@dataclass(frozen=True)
class Settings:
    """All settings of a run, in the sections that presets and ``--set`` name, and the method."""

    entry: Entry  # the method
    data: DataSettings
    method: Any  # an instance of the method's ``Settings``
    training: TrainingSettings
    evaluation: EvaluationSettings

    @property
    def name(self) -> str:
        """The name of the method."""
        return self.entry.name


def read_settings(
    preset: str,
    overrides: Sequence[str] = (),
    *,
    method: Choice = DEFAULT_METHOD,
    ablations: Sequence[str] = (),
) -> Settings:
    """A preset for a method, with ablations of it and overrides such as ``method.horizon=5``.

    Raises InputError that names what is wrong.
    """
    from goskill.methods import find

    entry = find(method)
    sections = presets.load(preset, entry.section)
    sections["training"] = {**entry.method.training_defaults, **sections["training"]}
    sections["method"] |= entry.decided
    return settings_from(entry, sections, overrides, ablations)


def settings_of(
    run: RunFolder,
    overrides: Sequence[str] = (),
    *,
    method: Choice | None = None,
    ablations: Sequence[str] = (),
) -> Settings:
    """The settings that a run was started with, with ablations and overrides.

    ``method`` may be given as a class, whose functions a run folder cannot hold. Raises CheckpointError if the file is
    damaged, and if ``method`` is not that of the run.
    """
    from goskill.methods import find

    record = _record(run)
    values = dict(record["method"])
    name = values.pop("name")
    try:
        entry = find(name)
        given = entry if method is None else find(method)
    except InputError as error:
        raise CheckpointError(f"{run.settings_file}: {error}") from None
    if not isinstance(method, str | None) and issubclass(given.method, entry.method):
        entry = replace(entry, method=given.method)
    elif given.name != name:
        raise CheckpointError(f"{run.path} is a run of method {name!r}, not of {given.name!r}")
    return settings_from(entry, {**record, "method": values, "data": {}}, overrides, ablations)


def settings_from(
    entry: Entry,
    sections: Mapping[str, Mapping[str, Any]],
    overrides: Sequence[str] = (),
    ablations: Sequence[str] = (),
) -> Settings:
    """Settings of a method from plain sections. Raises InputError that names what is wrong."""
    from goskill.data.selection import read_rule
    from goskill.training import TrainingSettings

    plain = {section: dict(values) for section, values in sections.items()}
    plain["method"] |= entry.ablated(ablations)
    sections = presets.override(plain, overrides)
    if isinstance(sections["method"].get("prompts"), str):
        sections["method"]["prompts"] = read_rule(sections["method"]["prompts"])
    return Settings(
        entry,
        from_mapping(DataSettings, sections["data"], "data"),
        entry.settings(sections["method"]),
        from_mapping(TrainingSettings, sections["training"], "training"),
        from_mapping(EvaluationSettings, sections["evaluation"], "evaluation"),
    )


def record_of(settings: Settings, sources: Sources) -> dict[str, Any]:
    """What ``settings.json`` of a run on these sources holds. Raises InputError for a store that is unfinished."""
    return {
        "data": {**_data_record(sources.store), **_suite_record(settings, sources)},
        "method": {"name": settings.name, **to_mapping(settings.method)},
        "training": to_mapping(settings.training),
        "evaluation": to_mapping(settings.evaluation),
    }


def _data_record(store: EpisodeStore | None) -> dict[str, Any]:
    from goskill.evaluation import data_returns

    if store is None:
        return {"path": "", "tasks": [], "episodes": 0, "steps": 0, "returns": {}}
    check_finished(store)
    return {
        "path": str(store.path.resolve()),
        "tasks": store.tasks,
        "episodes": store.num_episodes,
        "steps": store.num_steps,
        "fingerprint": store.fingerprint,
        **({} if store.action_repeat == 1 else {"action_repeat": store.action_repeat}),
        "returns": {task: to_mapping(returns) for task, returns in data_returns(store).items()},
    }


def _suite_record(settings: Settings, sources: Sources) -> dict[str, Any]:
    from goskill.rollouts.collection import suite_of_store

    if sources.suite is not None and settings.entry.method.learns_in_suite:
        return {"suite": sources.suite_name, "suite_tasks": list(sources.tasks)}
    name = None if sources.store is None else suite_of_store(sources.store)
    return {} if name is None else {"suite": name}


def method_name(run: RunFolder) -> str:
    """The name, or import path, of a run's method. Raises CheckpointError if the settings do not say it."""
    return str(_record(run)["method"]["name"])


def suite_of(run: RunFolder) -> str | None:
    """The name of the suite that a run learns in, or that its data was collected in; None where nothing says it."""
    name = _record(run)["data"].get("suite")
    return None if name is None else str(name)


def action_repeat_of(run: RunFolder) -> int:
    """How often the environments that its data is from took each action."""
    return int(_record(run)["data"].get("action_repeat", 1))


def check_repeat(run: RunFolder, store: EpisodeStore) -> None:
    """Raises InputError if a store's actions were repeated more or less often than those that a run learned."""
    learned = action_repeat_of(run)
    if store.action_repeat != learned:
        raise InputError(
            f"data: expected action_repeat {learned} as of the data of {run.path}, "
            f"got {store.action_repeat} of {store.path}"
        )


def tasks_of(run: RunFolder) -> list[str]:
    """The tasks of its suite that a run learns in."""
    return [str(task) for task in _record(run)["data"].get("suite_tasks", ())]


def open_store(data: str | Path, run: RunFolder, labels: str | Path | None = None) -> EpisodeStore:
    """A store whose labels go to the folder ``labels``, by default beside the data, or into the run if they cannot."""
    from goskill.data import EpisodeStore

    store = EpisodeStore.open(data, labels=labels)
    if labels is None and not store.takes_labels:
        store = EpisodeStore.open(data, labels=run.labels)
    return store


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
    for name in ("tasks", "episodes", "steps", "returns", "fingerprint"):
        if name == "fingerprint" and name not in begun:
            continue  # older runs do not know it
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
    for section, name, kind in (
        ("data", "returns", dict),
        ("data", "path", str),
        ("data", "tasks", list),
        ("method", "name", str),
    ):
        if not isinstance(record[section].get(name), kind):
            raise CheckpointError(f"{run.settings_file}: setting {section}.{name} is missing or damaged")
    return record


def load_method(
    run: RunFolder, method: Choice | None = None, *, checkpoint: str | None = None, finished: bool = True
) -> Method:
    """The trained method of a finished run, on the CPU.

    ``checkpoint`` names one of the run's instead of the last, "newest" the newest whole one of a run that may still
    be under way, which ``finished=False`` means as well. ``method`` is the class that the run was trained with where
    it is not found by name, or holds what a run folder cannot. Raises CheckpointError for a run that is not finished,
    and for a checkpoint that is missing, damaged or does not fit the run's settings.
    """
    settings = settings_of(run, method=method)
    found = find_checkpoint(run, "newest" if checkpoint is None and not finished else checkpoint)
    try:
        return settings.entry.method.restore(settings.method, found.networks())
    except RuntimeError as error:  # torch's, of sizes that no memory holds
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{run.settings_file}: networks of these sizes cannot be made: {reason}"
        ) from None


def find_checkpoint(run: RunFolder, name: str | None) -> Checkpoint:
    """The last checkpoint of a finished run, the newest whole one for "newest", or the one of that name."""
    from goskill.training import Checkpoints, read_checkpoint

    if name not in (None, "newest"):
        path = run.checkpoints / str(name)
        if not path.is_dir() or path.parent != run.checkpoints:
            there = sorted(one.name for one in run.checkpoints.glob("step-*"))
            raise CheckpointError(
                f"checkpoint {name!r}: expected newest or one of {', '.join(there) or 'none'}"
            )
        return read_checkpoint(path)
    found = _last_checkpoint(run) if name is None else Checkpoints(run.checkpoints).newest()
    return _there(run, found)


def newest_checkpoint(run: RunFolder) -> Checkpoint:
    """The newest whole checkpoint of a run, finished or under way. Raises CheckpointError if there is none."""
    from goskill.training import Checkpoints

    return _there(run, Checkpoints(run.checkpoints).newest())


def _there(run: RunFolder, found: Checkpoint | None) -> Checkpoint:
    if found is None:
        raise CheckpointError(
            f"{run.checkpoints} holds no whole checkpoint: "
            f"train again with goskill train --resume --out {run.path}"
        )
    return found


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
    if not checkpoint.finished:
        raise CheckpointError(f"{run.path} is not finished: {resume}")
    return checkpoint


def train_into(
    run: RunFolder,
    method: Method,
    settings: Settings,
    store: EpisodeStore | None,
    *,
    prompts: Mapping[str, Sequence[int]],
    resume: bool = False,
    milestones: Milestones | None = None,
) -> None:
    """Train a method into ``run``, which also keeps these ``prompts`` of ``store`` and counts its episodes' skills."""
    from goskill.evaluation import DataSkills
    from goskill.methods import HasSkills
    from goskill.training import Trainer, distributed

    if distributed.rank() == 0 and store is not None and method.prompt_episodes:
        keep_prompts(store, run, prompts, method.prompts)
    Trainer(method, run, settings.training, milestones=milestones).train(resume=resume)
    if store is not None and isinstance(method, HasSkills) and method.discrete_skills:
        column = method.label(store)
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
