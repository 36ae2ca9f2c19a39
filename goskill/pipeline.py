"""The way of the data, an arrow per function: episodes -> store -> run -> results -> figures.

These are what the command line calls, and a script can call them as well. They print progress and tables.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from goskill import presets
from goskill.errors import InputError
from goskill.settings import from_mapping, to_mapping

if TYPE_CHECKING:
    from goskill.data import EpisodeStore
    from goskill.evaluation import Prompts, Results
    from goskill.methods.go_skill import GoSkillNetworks, GoSkillSettings
    from goskill.training import RunFolder, TrainingSettings

PathLike = str | Path
console = Console()


@dataclass(frozen=True)
class DataSettings:
    """What a preset would collect."""

    suite: str | None = None  # a suite's name, or
    tasks: tuple[str, ...] = ()  # task names
    episodes: int = 40  # per task, from random to expert
    quality: Literal["near-optimal", "sub-optimal"] = "near-optimal"  # all episodes, or the first half


@dataclass(frozen=True)
class EvaluationSettings:
    """How a preset's run is evaluated."""

    episodes: int = 50  # new episodes per task


@dataclass(frozen=True)
class Settings:
    """All settings of a run, in the sections that presets and ``--set`` name."""

    data: DataSettings
    method: GoSkillSettings
    training: TrainingSettings
    evaluation: EvaluationSettings


def read_settings(preset: str, overrides: Sequence[str] = ()) -> Settings:
    """A preset with overrides such as ``method.horizon=5``. Raises InputError that names what is wrong."""
    from goskill.methods.go_skill import GoSkillSettings
    from goskill.training import TrainingSettings

    sections = presets.load(preset, overrides)
    return Settings(
        from_mapping(DataSettings, sections["data"], "data"),
        from_mapping(GoSkillSettings, sections["method"], "method"),
        from_mapping(TrainingSettings, sections["training"], "training"),
        from_mapping(EvaluationSettings, sections["evaluation"], "evaluation"),
    )


def choose_tasks(suite: str | None, tasks: str | None) -> list[str]:
    """The tasks of a suite, or the comma-separated ones. Raises InputError unless exactly one is given."""
    from goskill.envs import task_names

    if (suite is not None and tasks is not None) or not (suite or tasks):
        raise InputError("give either --suite or --tasks")
    return task_names(suite if suite else [name.strip() for name in str(tasks).split(",") if name.strip()])


def collect(
    out: PathLike,
    *,
    tasks: Sequence[str],
    episodes: int = 40,
    policy: str = "scripted",
    quality: str = "near-optimal",
    workers: int | None = None,
    seed: int = 0,
) -> EpisodeStore:
    """Collect episodes of MetaWorld tasks into a store; see :func:`goskill.data.collection.collect`."""
    from goskill.data.collection import collect as collect_episodes

    with _progress("collecting episodes") as report:
        store = collect_episodes(
            tasks,
            out,
            episodes=episodes,
            policy=policy,
            quality=quality,
            workers=workers,
            seed=seed,
            progress=report,
        )
    console.print(f"{out}: {store.num_episodes} scripted episodes of {len(store.tasks)} tasks")
    return store


def convert(
    layout: str, source: str, out: PathLike, *, quality: str = "near-optimal", workers: int | None = None
) -> None:
    """Convert npz files, D4RL's HDF5 or a Minari dataset into a store; see :mod:`goskill.data.convert`."""
    from goskill.data.convert import from_hdf5, from_minari, from_npz

    layouts = ("mtdiff", "goskill", "harmodt", "minari", "hdf5")
    if layout not in layouts:
        raise InputError(f"layout: expected one of {', '.join(layouts)}, got {layout!r}")
    with _progress("converting") as report:
        if layout == "hdf5":
            found = from_hdf5(source, out, progress=report)
        elif layout == "minari":
            found = from_minari(source, out)
        else:
            found = from_npz(layout, source, out, quality, workers=workers or 0, progress=report)
    console.print_json(json.dumps(found.to_json()))


def show_store(data: PathLike, *, as_json: bool = False) -> None:
    """Print what an episode store holds."""
    from goskill.data import EpisodeStore

    facts = EpisodeStore.open(data).info()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    table = Table("task", "episodes", "steps", "mean return", "best return")
    for name, task in facts["tasks"].items():
        returns = ("" if task[key] is None else f"{task[key]:.0f}" for key in ("return_mean", "return_best"))
        table.add_row(name, str(task["episodes"]), str(task["steps"]), *returns)
    console.print(table)
    for name in ("episodes", "steps", "observation_dim", "action_dim", "shards", "bytes"):
        console.print(f"{name.replace('_', ' ')}: {facts[name]:,}")
    console.print(f"labels: {', '.join(facts['labels']) or 'none'}")
    for origin in facts["provenance"]:
        console.print(
            "from: " + ", ".join(f"{key} {value}" for key, value in origin.items()), highlight=False
        )


def train(
    data: PathLike,
    out: PathLike,
    *,
    preset: str = "mt10",
    overrides: Sequence[str] = (),
    resume: bool = False,
) -> RunFolder:
    """Train a preset's method on a store into a run folder, or go on with an interrupted run.

    ``overrides`` are texts such as ``method.horizon=5``. Raises InputError for wrong settings, a store that does
    not fit them, and a folder that exists already (or none to resume).
    """
    from goskill.data import EpisodeStore
    from goskill.evaluation import DataSkills, data_returns
    from goskill.methods.go_skill import GoSkill, label_store
    from goskill.training import RunFolder, Trainer, distributed

    settings = read_settings(preset, overrides)
    store = EpisodeStore.open(data)
    # Building the networks checks settings against data before anything is written.
    method = GoSkill(settings.method, store, settings.training)
    record = {
        "data": {
            "path": str(Path(data).resolve()),
            "tasks": store.tasks,
            "episodes": store.num_episodes,
            "steps": store.num_steps,
            "returns": {task: to_mapping(returns) for task, returns in data_returns(store).items()},
        },
        "method": {"name": method.name, **to_mapping(settings.method)},
        "training": to_mapping(settings.training),
        "evaluation": to_mapping(settings.evaluation),
    }
    run = RunFolder.create(out, record, resume=resume)
    if distributed.rank() == 0:
        _keep_prompts(store, run, settings.method.prompt_episodes)
    Trainer(method, run, settings.training).train(resume=resume)
    if settings.method.discrete and distributed.rank() == 0:
        column = label_store(method.networks, store)
        DataSkills.of_store(store, column).save(run.path / "data_skills.json")
    return run


def evaluate(
    path: PathLike,
    *,
    episodes: int = 50,
    tasks: str | None = None,
    data: PathLike | None = None,
    workers: int | None = None,
    seed: int = 0,
    device: str | None = None,
    precision: str = "float32",
    video: bool = False,
) -> Results:
    """Evaluate a run in MetaWorld, print the table, and keep the results in the run folder.

    ``data`` is a store with demonstrations of tasks that the run never saw. ``video`` also films the first
    episode of each task into the folder's ``videos``. Raises InputError for a folder without a finished run, for
    tasks without demonstrations, and for films where rendering is not possible. Under torchrun the ranks share
    the tasks.
    """
    from goskill.data import EpisodeStore
    from goskill.evaluation import DataReturns, film, merge, require_rendering, results_table
    from goskill.evaluation import evaluate as roll_out
    from goskill.methods.go_skill import GoSkillPolicy
    from goskill.training import RunFolder, choose_device, distributed

    run = RunFolder.open(path)
    if video:
        require_rendering()
    chosen_device = choose_device(device or "auto")
    distributed.start(chosen_device)
    networks = load_networks(run).to(chosen_device)
    prompts = _prompts(
        EpisodeStore.open(run.prompts if data is None else data), networks.settings.prompt_episodes
    )
    chosen = choose_tasks(None, tasks) if tasks else list(prompts)
    missing = [task for task in chosen if task not in prompts]
    if missing:
        raise InputError(
            f"{run.path} has no demonstrations of {', '.join(missing)}, which it never saw: "
            "give an episode store that has some with --data"
        )
    policy = GoSkillPolicy(networks, precision=precision)
    share = chosen[distributed.rank() :: distributed.world_size()]
    part = None
    if share:
        with _progress("evaluating") as report:
            part = roll_out(
                policy, share, episodes, prompts=prompts, seed=seed, workers=workers, progress=report
            )
    results = merge([one for one in distributed.gather(part) if one is not None], chosen)
    returns = run.settings["data"]["returns"]
    results = results.with_data({task: DataReturns(**returns[task]) for task in chosen if task in returns})
    if distributed.rank() > 0:
        return results
    results.save(run.results_file)
    results.save_csv(run.path / "results.csv")
    console.print(results_table(results, title=str(run.path)))
    if video:
        with _progress("filming") as report:
            films = film(policy, chosen, run.path / "videos", prompts=prompts, seed=seed, progress=report)
        console.print(
            f"filmed {', '.join(path.name for path in films)} in {run.path / 'videos'}", highlight=False
        )
    return results


def label(path: PathLike, data: PathLike) -> str:
    """Label every step of a store with a run's skills; returns the name of the label column."""
    from goskill.data import EpisodeStore
    from goskill.methods.go_skill import label_store
    from goskill.training import RunFolder

    networks = load_networks(RunFolder.open(path))
    if not networks.settings.discrete:
        raise InputError(
            f"{path}: its skills are continuous (method.codebook = 'none'), there is nothing to count"
        )
    return label_store(networks.eval(), EpisodeStore.open(data))


def compare(runs: Sequence[PathLike], *, as_json: bool = False) -> None:
    """Print evaluated runs side by side, with paired differences from the first one."""
    from goskill.evaluation import Results, comparison_table
    from goskill.evaluation import compare as compare_results

    names = {str(run): Results.load(Path(run) / "results.json") for run in runs}
    comparison = compare_results(names)
    if as_json:
        print(json.dumps(comparison.to_json(), indent=2))
    else:
        console.print(comparison_table(comparison))


def quickstart(
    out: PathLike = "runs/quickstart",
    *,
    seed: int = 0,
    workers: int | None = None,
    overrides: Sequence[str] = (),
) -> Results:
    """The whole way on five tasks: collect, train, evaluate, draw. Run again, it goes on where it was stopped.

    The dataset is kept in the run folder. Raises InputError for wrong settings and for a finished or foreign folder.
    """
    from goskill.figures import draw_run
    from goskill.training import RunFolder

    folder = Path(out)
    if (folder / "results.json").exists():
        raise InputError(f"{folder} holds a finished run: give another folder with --out")
    overrides = [*overrides, f"training.seed={seed}"]
    settings = read_settings("quickstart", overrides)
    wanted = settings.data
    data = folder.parent / f"{folder.name}-data"
    collect(
        data, tasks=wanted.tasks, episodes=wanted.episodes, quality=wanted.quality, workers=workers, seed=seed
    )
    resume = RunFolder(folder).settings_file.exists()
    run = train(data, folder, preset="quickstart", overrides=overrides, resume=resume)
    results = evaluate(run.path, episodes=settings.evaluation.episodes, workers=workers, seed=seed + 1)
    for file in draw_run(run.path):
        if file.suffix == ".png":
            console.print(f"drew {file}", highlight=False)
    return results


def load_networks(run: RunFolder) -> GoSkillNetworks:
    """The networks of a finished run, on the CPU. Raises CheckpointError if there is none or it does not fit."""
    from goskill.errors import CheckpointError
    from goskill.methods.go_skill import GoSkillSettings, networks_from_state
    from goskill.training import Checkpoints

    checkpoint = Checkpoints(run.checkpoints).newest()
    if checkpoint is None:
        raise CheckpointError(f"{run.checkpoints} holds no whole checkpoint")
    section = {key: value for key, value in run.settings["method"].items() if key != "name"}
    return networks_from_state(from_mapping(GoSkillSettings, section, "method"), checkpoint.networks())


def _keep_prompts(store: EpisodeStore, run: RunFolder, count: int) -> None:
    """Copy each task's best episodes into the run, so that it can be evaluated without its data."""
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


def _prompts(store: EpisodeStore, count: int) -> Prompts:
    from goskill.evaluation import Demonstration

    prompts = {}
    for task in store.tasks:
        best = [store.episode(index) for index in store.best_episodes(task, count)]
        if best:
            prompts[task] = [Demonstration(one.observations, one.actions, one.rewards) for one in best]
    return prompts


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar as a callback (done, total)."""
    columns: Sequence[Any] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
