"""Fine-tuning: a trained run goes on with other tasks, in a run folder of its own.

GO-Skill keeps its skills: encoder and codebook are frozen, policy and decoder are trained side by side on the new
tasks with the new tasks' own prompts. Methods without skills train the whole network. Normalisation is the old run's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goskill.errors import CheckpointError, InputError
from goskill.experiments import presets
from goskill.experiments.run_prompts import chosen_prompts, prompts_of
from goskill.experiments.runs import (
    Choice,
    Settings,
    check_data,
    check_repeat,
    data_path,
    evaluate_over_ranks,
    load_method,
    open_store,
    record_of,
    settings_from,
    settings_of,
    train_into,
)
from goskill.settings import from_mapping, to_mapping
from goskill.terminal import amount

if TYPE_CHECKING:
    from goskill.data import EpisodeStore
    from goskill.envs.suite import Suite
    from goskill.methods import Entry, Method
    from goskill.training import Milestones, RunFolder

PathLike = str | Path
SECTION = "finetuning"


@dataclass(frozen=True)
class FinetuningSettings:
    """What fine-tuning adds to a run's settings. Raises InputError that names the setting."""

    tasks: tuple[str, ...] = ()  # that the data must hold, no others; (): whatever it holds
    iterations: int = 3_000  # the paper's
    evaluate_every: int = 0  # iterations between evaluations, of which the first is before any; 0: none

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise InputError(f"iterations: expected at least 1, got {self.iterations}")
        if self.evaluate_every < 0:
            raise InputError(f"evaluate_every: expected at least 0, got {self.evaluate_every}")


def finetune(
    path: PathLike,
    data: PathLike,
    out: PathLike,
    *,
    preset: str | None = None,
    iterations: int | None = None,
    evaluate_every: int | None = None,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    suite: str | Suite | None = None,
    method: Choice | None = None,
    labels: PathLike | None = None,
) -> RunFolder:
    """Go on training a finished run on a store of other tasks, into the run folder ``out``.

    Settings are the old run's, with a warm-up of at most a tenth of ``iterations`` (3,000 unless a preset says
    otherwise), then those of ``preset`` (a name of ``presets.names("finetuning")``), then ``overrides`` such as
    ``training.learning_rate=1e-4``. With ``evaluate_every`` positive the policy is evaluated in ``suite``, by default
    the one that ``data`` was collected in, before the first iteration, after every so many, and after the last; the
    points are in ``out/evaluations.jsonl`` (:mod:`goskill.evaluation.points`). Its seed is training's, so that the
    last one is what ``goskill eval`` with that seed finds. ``workers`` are evaluation's, ``labels`` the folder for
    labels of the data, as :func:`goskill.experiments.train.train` has it.

    The folder is a run like any other; ``settings.json`` says in section ``finetuning`` where it came from.
    :func:`resume` goes on with it after an interruption. Raises InputError for a run that is not finished, a store
    that does not fit it or has a task without episodes, wrong settings, and a folder that exists already; nothing
    is written then.
    """
    from goskill.methods import Sources
    from goskill.training import RunFolder
    from goskill.training.devices import choose_execution

    origin = RunFolder.open(path)
    before = settings_of(origin, method=method)
    kind = _fine_tunable(before.entry)
    chosen = presets.load_finetuning(preset, before.entry.section) if preset else {}
    tuning = from_mapping(
        FinetuningSettings,
        {
            **chosen.get(SECTION, {}),
            **({} if iterations is None else {"iterations": iterations}),
            **({} if evaluate_every is None else {"evaluate_every": evaluate_every}),
        },
        SECTION,
    )
    settings = _settings(
        before, kind.fine_tuned_settings(before.method, tuning.iterations), tuning, chosen, overrides
    )
    choose_execution(settings.training)  # raises before anything is written
    trained: Any = load_method(origin, method)
    store = open_store(data, RunFolder(Path(out)), labels)
    check_repeat(origin, store)
    _check_tasks(store, tuning, preset)
    where = _evaluation_suite(store, suite, tuning)
    learner = trained.fine_tune(settings.method, Sources(store), settings.training)
    settings = replace(settings, method=learner.settings)
    came_from = {"run": str(origin.path.resolve()), "checkpoint": _checkpoint(origin)}
    prompts = chosen_prompts(learner, store)
    record = {**record_of(settings, Sources(store)), SECTION: {**came_from, **to_mapping(tuning)}}
    run = RunFolder.create(out, record)
    milestones = _evaluations(run, learner, settings, store, where, tuning, workers)
    train_into(run, learner, settings, store, prompts=prompts, milestones=milestones)
    return run


def _fine_tunable(entry: Entry) -> Any:
    from goskill.methods import FineTunable

    if not issubclass(entry.method, FineTunable):
        raise InputError(f"method: {entry.name} cannot be fine-tuned")
    return entry.method


def was_finetuned(path: PathLike) -> bool:
    """Whether a run folder was made by :func:`finetune`."""
    from goskill.training import RunFolder

    run = RunFolder(Path(path))
    return run.settings_file.is_file() and SECTION in run.settings


def resume(
    out: PathLike,
    data: PathLike | None = None,
    *,
    path: PathLike | None = None,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    suite: str | Suite | None = None,
    method: Choice | None = None,
    labels: PathLike | None = None,
) -> RunFolder:
    """Go on with an interrupted fine-tuning; on the CPU it ends with the same bits as one that was not interrupted.

    ``data`` is by default where the store was, and the old run is read only where ``out`` has no checkpoint yet.
    ``path`` may be given to make sure that ``out`` came from that run. Raises InputError for a folder that
    :func:`finetune` did not make, came from another run, or was started with other settings.
    """
    from goskill.methods import Sources
    from goskill.training import RunFolder

    run = RunFolder.open(out)
    if not was_finetuned(out):
        raise InputError(f"{run.path} is not a fine-tuned run: resume it with goskill train --resume")
    section = run.sections(SECTION)[SECTION]
    for name in ("run", "checkpoint"):
        if not isinstance(section.get(name), str):
            raise CheckpointError(f"{run.settings_file}: setting {SECTION}.{name} is missing")
    came_from = {name: section.pop(name) for name in ("run", "checkpoint")}
    if path is not None and Path(path).resolve() != Path(came_from["run"]):
        raise InputError(f"{run.path} came from {came_from['run']}, not from {path}")
    tuning = from_mapping(FinetuningSettings, section, SECTION)
    settings = settings_of(run, overrides, method=method)
    _fine_tunable(settings.entry)
    begun = _checkpoint(run) is not None
    source = run if begun else RunFolder.open(came_from["run"])
    if not begun and _checkpoint(source) != came_from["checkpoint"]:
        raise CheckpointError(
            f"{run.path} has no checkpoint yet, and {source.path} has another than it came from"
        )
    trained: Any = load_method(source, method, finished=not begun)
    store = open_store(data_path(run) if data is None else data, run, labels)
    where = _evaluation_suite(store, suite, tuning)
    learner = trained.fine_tune(settings.method, Sources(store), settings.training)
    prompts = chosen_prompts(learner, store)
    record = {**record_of(settings, Sources(store)), SECTION: {**came_from, **to_mapping(tuning)}}
    check_data(run, store.path, record["data"])
    run = RunFolder.create(out, record, resume=True)
    milestones = _evaluations(run, learner, settings, store, where, tuning, workers)
    train_into(run, learner, settings, store, prompts=prompts, resume=True, milestones=milestones)
    return run


def _checkpoint(run: RunFolder) -> str | None:
    """The checksum of a run's newest whole checkpoint, which covers the networks' own."""
    from goskill.training import Checkpoints

    newest = Checkpoints(run.checkpoints).newest()
    return None if newest is None else str(newest.state["checksum"])


def _settings(
    before: Settings,
    method: Any,
    tuning: FinetuningSettings,
    chosen: dict[str, dict[str, Any]],
    overrides: Sequence[str],
) -> Settings:
    from goskill.data.selection import is_indices

    training = to_mapping(before.training)
    for name in ("warmup_iterations", "decay_iterations"):
        training[name] = min(training[name], tuning.iterations // 10)
    sections = {
        "data": {},
        "method": to_mapping(method),
        "training": training,
        "evaluation": to_mapping(before.evaluation),
    }
    if is_indices(str(sections["method"].get("prompts", ""))):
        sections["method"]["prompts"] = "best"  # they are the old data's
    for name in sections:
        sections[name] |= chosen.get(name, {})
    for override in overrides:
        if override.startswith("data."):
            raise InputError(f"--set {override}: fine-tuning takes the data that is there")
    return settings_from(before.entry, sections, overrides)


def _check_tasks(store: EpisodeStore, tuning: FinetuningSettings, preset: str | None) -> None:
    for index, task in enumerate(store.tasks):
        if not (store.episode_task == index).any():
            raise InputError(
                f"data: {store.path} has no episodes of task {task!r} to learn from and to prompt with"
            )
    if not store.tasks:
        raise InputError(f"data: {store.path} has no tasks")
    if tuning.tasks and set(store.tasks) != set(tuning.tasks):
        raise InputError(
            f"data: preset {preset} fine-tunes on {', '.join(tuning.tasks)}; {store.path} has {', '.join(store.tasks)}"
        )


def _evaluation_suite(
    store: EpisodeStore, given: str | Suite | None, tuning: FinetuningSettings
) -> Suite | None:
    """Where to evaluate on the way; None if that is not to be."""
    from goskill.experiments.suites import suite_for

    if not tuning.evaluate_every:
        return None
    try:
        return suite_for(store, given)
    except InputError as error:
        raise InputError(f"evaluate_every: expected 0, or a suite to evaluate in: {error}") from None


def _evaluations(
    run: RunFolder,
    method: Method,
    settings: Settings,
    store: EpisodeStore,
    suite: Suite | None,
    tuning: FinetuningSettings,
    workers: int | None,
) -> Milestones | None:
    from goskill.evaluation.points import add_point, read_points
    from goskill.evaluation.tables import percentage
    from goskill.training import Milestones, distributed

    if suite is None:
        return None
    prompts = prompts_of(store, method.prompt_episodes, method.prompts)

    def evaluate(iteration: int) -> str:
        if any(point["iteration"] == iteration for point in read_points(run.evaluations_file)):
            return ""
        policy = method.policy()
        episodes = settings.evaluation.episodes
        results = evaluate_over_ranks(
            policy,
            store.tasks,
            episodes,
            suite=suite,
            prompts=prompts,
            seed=settings.training.seed,
            workers=workers,
            max_steps=settings.evaluation.max_steps,
        )
        if distributed.rank() == 0:
            add_point(run.evaluations_file, iteration, results)
        found = results.overall
        success = percentage(found.success)
        return f"after {iteration} iterations: return {amount(found.returns.value)}, success {success}"

    return Milestones(tuning.evaluate_every, evaluate)
