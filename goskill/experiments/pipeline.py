"""Each step from episodes to results as a function: collect or convert, train, evaluate, compare.

These are what the command line calls, and a script can call them as well. They print progress and tables.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goskill.errors import InputError
from goskill.experiments.load import load_policy
from goskill.experiments.run_prompts import prompts_of, rule_elsewhere, tasks_with_episodes
from goskill.experiments.runs import (
    Choice,
    action_repeat_of,
    check_finished,
    check_repeat,
    evaluate_over_ranks,
    find_checkpoint,
    load_method,
    open_store,
    returns_of,
    settings_of,
    suite_of,
    tasks_of,
)
from goskill.experiments.store_steps import convert, download, merge, mix, show_store, verify
from goskill.experiments.suites import choose_tasks, suite_for
from goskill.experiments.train import train
from goskill.terminal import console, progress_bar

if TYPE_CHECKING:
    from goskill.data import EpisodeStore
    from goskill.envs.suite import Suite
    from goskill.evaluation import Results
    from goskill.rollouts.policy import Prompts
    from goskill.training import RunFolder

__all__ = [
    "choose_tasks",
    "collect",
    "collect_learning",
    "compare",
    "convert",
    "diagnose",
    "download",
    "evaluate",
    "export",
    "label",
    "load_policy",
    "merge",
    "mix",
    "push",
    "show_store",
    "train",
    "verify",
]

PathLike = str | Path


def collect(
    out: PathLike,
    *,
    tasks: Sequence[str] | None = None,
    suite: str | Suite | None = None,
    episodes: int = 40,
    policy: str = "scripted",
    quality: str = "near-optimal",
    workers: int | None = None,
    seed: int = 0,
) -> EpisodeStore:
    """Collect episodes of a suite's tasks into a store; see :func:`goskill.rollouts.collection.collect`.

    Under torchrun the ranks share the episodes.
    """
    from goskill.rollouts.collection import collect as collect_episodes
    from goskill.training import choose_device, distributed

    distributed.start(choose_device("cpu"))
    with progress_bar("collecting episodes") as report:
        store = collect_episodes(
            tasks,
            out,
            suite=suite,
            episodes=episodes,
            policy=policy,
            quality=quality,
            workers=distributed.workers(workers),
            seed=seed,
            progress=report if distributed.rank() == 0 else None,
            ranks=distributed,
        )
    if distributed.rank() == 0:
        console.print(f"{out}: {store.num_episodes} {policy} episodes of {len(store.tasks)} tasks")
    return store


def collect_learning(
    out: PathLike,
    *,
    suite: str | Suite | None = None,
    tasks: Sequence[str] | None = None,
    **options: Any,
) -> EpisodeStore:
    """Collect what agents experience while they learn; see
    :func:`goskill.experiments.learned_collection.collect_learning`, also for the options.
    """
    from goskill.envs.suite_registry import tasks_in
    from goskill.experiments.learned_collection import collect_learning as collect_experience

    found, names = tasks_in(suite, tasks)
    store = collect_experience(out, suite=suite or found.name, tasks=names, **options)
    console.print(f"{out}: {store.num_episodes} episodes of {len(store.tasks)} agents that learned")
    return store


def evaluate(
    path: PathLike,
    *,
    episodes: int | None = None,
    suite: str | Suite | None = None,
    tasks: str | None = None,
    data: PathLike | None = None,
    prompts: str | None = None,
    workers: int | None = None,
    seed: int = 0,
    device: str | None = None,
    precision: str = "float32",
    video: bool = False,
    out: PathLike | None = None,
    method: Choice | None = None,
    checkpoint: str | None = None,
) -> Results:
    """Evaluate a run in its suite, print the table, and keep the results in the run folder.

    ``episodes`` are per task, by default as many as the run's settings say. ``suite`` is where the run is evaluated
    instead of where its data was collected or it learned, ``tasks`` some of its tasks. ``data`` is a store with
    demonstrations of tasks that the run never saw. ``prompts`` chooses among its episodes, or those that the run
    keeps: a rule of :func:`goskill.data.selection.select_episodes`, or a ``.json`` file of indices; by default the
    run's rule, or the best where that was a file. ``video`` also films the first episode of each task into the
    folder's ``videos``. ``out`` is a file for the results (and a CSV file beside it) instead of the run's
    ``results.json``. ``method`` is the class that the run was trained with, where its name does not say all.
    ``checkpoint`` is the name of one of the run's, "newest" of a run under way; its results are not the run's and go
    to ``results-CHECKPOINT.json``.
    Raises InputError for a folder without a finished run, for a suite of other dimensions, for tasks without
    demonstrations, and for films where rendering is not possible. Under torchrun the ranks share the tasks.
    """
    from goskill.evaluation import results_table
    from goskill.rollouts import film
    from goskill.training import RunFolder, choose_device, distributed

    run = RunFolder.open(path)
    file = run.results_file
    if checkpoint is not None:
        file = run.results_of(find_checkpoint(run, checkpoint).path.name)
    file = file if out is None else Path(out)
    if file.suffix != ".json" or file.is_dir():
        raise InputError(f"out: expected a file that ends in .json, got {file}")
    chosen_device = choose_device(device or "auto")
    distributed.start(chosen_device)
    learned = load_method(run, method, checkpoint=checkpoint)
    rule = prompts or ("best" if data is None else rule_elsewhere(learned))
    found, chosen, demonstrations = _where(run, suite, tasks, data, learned.prompt_episodes, rule)
    if video:
        found.require_rendering()
    for module in learned.modules.values():
        module.to(chosen_device)
    wanted = settings_of(run, method=method).evaluation
    if episodes is None:
        episodes = wanted.episodes
    policy = learned.policy(precision)
    with progress_bar("evaluating") as report:
        results = evaluate_over_ranks(
            policy,
            chosen,
            episodes,
            suite=found,
            prompts=demonstrations,
            seed=seed,
            workers=distributed.workers(workers),
            max_steps=wanted.max_steps,
            progress=report if distributed.rank() == 0 else None,
        )
    results = results.with_data(returns_of(run))
    if distributed.rank() > 0:
        return results
    console.print(results_table(results, title=str(run.path)))
    _save_results(results, file)
    if checkpoint is not None:
        console.print(f"results: {file}", highlight=False, markup=False)
    if video:
        with progress_bar("filming") as report:
            films = film(
                policy,
                chosen,
                run.path / "videos",
                suite=found,
                prompts=demonstrations,
                seed=seed,
                progress=report,
            )
        console.print(
            f"filmed {', '.join(path.name for path in films)} in {run.path / 'videos'}", highlight=False
        )
    return results


def export(
    path: PathLike,
    folder: PathLike,
    *,
    half: bool = True,
    checkpoint: str | None = None,
    commit: str | None = None,
) -> None:
    """Write a run as a small folder to hand on; see :func:`goskill.experiments.export.export`."""
    from goskill.experiments.export import export as export_run

    written = export_run(path, folder, half=half, checkpoint=checkpoint, commit=commit)
    size = sum(file.stat().st_size for file in written.rglob("*") if file.is_file())
    console.print(f"{written}: {size / 1e6:.2f} MB", highlight=False)


def push(
    path: PathLike,
    repository: str,
    *,
    half: bool = True,
    private: bool = False,
    checkpoint: str | None = None,
) -> None:
    """Put a run on huggingface.co; see :func:`goskill.experiments.sharing.push`."""
    from goskill.experiments.sharing import push as push_run

    address = push_run(path, repository, half=half, private=private, checkpoint=checkpoint)
    console.print(f'pushed: goskill.load_policy("{address}") loads it', highlight=False)


def _where(
    run: RunFolder,
    suite: str | Suite | None,
    tasks: str | None,
    data: PathLike | None,
    count: int,
    rule: str,
) -> tuple[Suite, list[str], Prompts]:
    """The suite and tasks that a run is evaluated in, and ``count`` demonstrations of each from ``data`` or the run."""
    from goskill.data import EpisodeStore
    from goskill.data.selection import is_indices
    from goskill.envs.repeated import repeated
    from goskill.envs.suite_registry import find_suite, tasks_in
    from goskill.rollouts.collection import suite_of_store

    if data is None and not run.prompts.exists():
        found = repeated(find_suite(suite or suite_of(run) or "metaworld"), action_repeat_of(run))
        return found, tasks_in(found, tasks or tasks_of(run) or None)[1], {}
    store = EpisodeStore.open(run.prompts if data is None else data)
    check_finished(store)
    check_repeat(run, store)
    prompts = prompts_of(store, count, rule)
    prompted = tasks_with_episodes(store) if count else store.tasks
    given = suite or (suite_of(run) if suite_of_store(store) is None else None)
    found = suite_for(store, given, tasks=() if tasks is not None else prompted)
    chosen = tasks_in(found, tasks)[1] if tasks is not None else prompted
    missing = [task for task in chosen if count and task not in prompts]
    if missing:
        which = f" among {rule:.400}" if is_indices(rule) or rule.endswith(".json") else ""
        hint = ": give an episode store that has some with --data" if data is None else ""
        raise InputError(f"{data or run.path} has no demonstrations of {', '.join(missing)}{which}{hint}")
    return found, chosen, prompts


def _save_results(results: Results, file: Path) -> None:
    try:
        results.save(file)
        results.save_csv(file.with_suffix(".csv"))
    except OSError as error:
        # Rollouts take long: they are kept somewhere.
        kept = results.save(Path(tempfile.mkdtemp(prefix="goskill-")) / file.name)
        raise InputError(f"{error.filename}: {error.strerror}; the results are in {kept}") from error


def diagnose(path: PathLike, data: PathLike, *, as_json: bool = False, **options: Any) -> dict[str, Any]:
    """Diagnose a run, print tables or JSON; see :func:`goskill.experiments.diagnose.diagnose`."""
    from goskill.experiments import diagnose as diagnosis
    from goskill.experiments.diagnosis_tables import tables

    if as_json:
        document = diagnosis.diagnose(path, data, **options)
        print(json.dumps(document, indent=2))
        return document
    with progress_bar("diagnosing") as report:
        document = diagnosis.diagnose(path, data, progress=report, **options)
    console.print(tables(document), highlight=False)
    return document


def label(
    path: PathLike, data: PathLike, *, device: str | None = None, labels: PathLike | None = None
) -> str:
    """Label every step of a store with a run's skills; returns the name of the label column.

    ``labels`` is the folder for it, by default beside the data, or in the run where that cannot be written to.
    Interrupted, it goes on where it was when it is called again. Under torchrun the ranks share the work.
    """
    from goskill.methods import HasSkills
    from goskill.training import RunFolder, choose_device, distributed

    run = RunFolder.open(path)
    method = load_method(run)
    if not isinstance(method, HasSkills) or not method.discrete_skills:
        name = settings_of(run).name
        raise InputError(f"{path}: this run of {name} has no codebook of skills to label with")
    store = open_store(data, run, labels)
    check_finished(store)
    chosen_device = choose_device(device or "auto")
    distributed.start(chosen_device)
    for module in method.modules.values():
        module.to(chosen_device).eval()
    with progress_bar("labelling") as report:
        shown = report if distributed.rank() == 0 else None
        return method.label(store, shown)


def compare(runs: Sequence[PathLike], *, as_json: bool = False) -> None:
    """Print evaluated runs side by side, with paired differences from the first one.

    ``runs`` are folders, or several training seeds under one name as ``NAME=RUN,RUN``.
    """
    from goskill.evaluation import Results, comparison_table, read_contenders
    from goskill.evaluation import compare as compare_results

    contenders = read_contenders([str(run) for run in runs])
    comparison = compare_results(
        {name: [Results.load(run / "results.json") for run in group] for name, group in contenders.items()}
    )
    if as_json:
        print(json.dumps(comparison.to_json(), indent=2))
    else:
        console.print(comparison_table(comparison))
