"""Running what is missing of a study in environments, and what its runs say as rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from goskill.envs.suite_registry import tasks_in
from goskill.errors import InputError
from goskill.evaluation.results import package_versions
from goskill.experiments import learning, pipeline
from goskill.experiments.online_studies.maze_ways import WAYS, draw_ways, read_ways, ways_of_run
from goskill.experiments.online_studies.specification import OnlineContender, OnlineStudy
from goskill.experiments.studies import provenance
from goskill.files import write_atomically
from goskill.terminal import console
from goskill.training import RunFolder

ROWS = "rows.jsonl"


def run_online_study(study: OnlineStudy, folder: str | Path) -> list[dict[str, Any]]:
    """Collect, learn skills and run every contender with every seed, as far as ``folder`` does not hold it.

    Interrupted, the same call goes on. Returns the rows, which are also in ``folder/rows.jsonl``.
    """
    root = Path(folder)
    data = study.data
    pipeline.collect(
        root / "data", suite=study.suite, tasks=data.tasks, episodes=data.episodes, seed=data.seed
    )
    for name, run in study.skills.items():
        pipeline.train(
            root / "data",
            root / "skills" / name,
            method=run.method,
            preset=study.preset,
            overrides=_overrides(run.settings),
            resume=True,
        )
    for contender, seed in _jobs(study):
        _train(study, root, contender, seed)
        _keep(root / ROWS, rows_of_study(study, root))
    rows = rows_of_study(study, root)
    _keep(root / ROWS, rows)
    _keep_ways(study, root)
    return rows


def rows_of_study(study: OnlineStudy, folder: str | Path) -> list[dict[str, Any]]:
    """A row for each contender, seed and task of which there is a checkpoint, finished or under way.

    ``end``, ``length``, ``return`` and ``success`` are lists over the first ``study.episodes`` episodes;
    ``end`` counts the environment's steps. ``meta_tasks``: how many tasks were trained on before; None: no such run.
    """
    root = Path(folder)
    origin = {"commit": provenance.commit(), "machine": provenance.machine(), "versions": package_versions()}
    found = []
    for contender, seed, run in _begun(study, root):
        for task, episodes in learning.episodes(run).items():
            own = episodes[: study.episodes]
            found.append(
                {
                    "study": study.name,
                    "contender": contender.name,
                    "method": contender.method,
                    "seed": seed,
                    "task": task,
                    "scripted": True,
                    "meta_tasks": _meta_tasks(study, contender),
                    "whole": len(episodes) >= study.episodes,
                    # Not the path, which is another on every machine.
                    "settings": {**RunFolder.open(run).settings["method"], "skills": contender.skills},
                    **{name: [one[name] for one in own] for name in ("end", "length", "return", "success")},
                    **origin,
                }
            )
    return found


def ways_of_study(study: OnlineStudy, folder: str | Path) -> list[dict[str, Any]]:
    """A row for each contender, seed, task of a maze and episode that was followed; none in other suites."""
    if study.suite != "maze":
        return []
    found = []
    for contender, seed, run in _begun(study, Path(folder)):
        found += ways_of_run(run, {"study": study.name, "contender": contender.name, "seed": seed})
    return found


def show_online_study(study: OnlineStudy, folder: str | Path, into: str | Path | None = None) -> None:
    """Print the table of what ``folder`` holds of a study, and draw its curves there.

    Where contenders were trained on different numbers of tasks before, a second figure has these along its axis. In
    mazes there is one for each task with ways through it by episode.
    With ``into`` the table is put into a Markdown file as well, between its markers, and the figure beside the file.
    Raises InputError if there is nothing yet.
    """
    from goskill.evaluation.study_table import write_between_markers
    from goskill.figures.learning_curves import draw_learning, draw_meta_tasks, learning_table, read_learning
    from goskill.figures.style import save, style

    root = Path(folder)
    rows = rows_of_study(study, root)
    if rows:
        _keep(root / ROWS, rows)
        _keep_ways(study, root)
    elif not (root / ROWS).exists():
        raise InputError(f"{root}: has nothing of study {study.name} yet")
    rows = read_learning(root / ROWS)
    marks = [count for count in (20, 50, 100, 200, 300, 500) if count <= study.episodes]
    table = learning_table(rows, study.metric, marks)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    counts = {row.get("meta_tasks") for row in rows if len(row[study.metric]) >= study.episodes} - {None}
    with style():
        save(draw_learning(rows, study.metric, study.episodes), root, study.name)
        if len(counts) > 1:
            figure = draw_meta_tasks(rows, study.metric, study.episodes)
            save(figure, root, f"{study.name}-meta-tasks")
        ways = read_ways(root / WAYS) if (root / WAYS).exists() else []
        for task in dict.fromkeys(row["task"] for row in ways):
            save(draw_ways(ways, task), root, f"{study.name}-ways-{task}")
    if into is not None:
        file = Path(into)
        text = f"{table}\n\n![{study.title}]({study.name}.png)"
        write_between_markers(file, study.name, text)
        with style():
            save(draw_learning(rows, study.metric, study.episodes), file.parent, study.name)


def _train(study: OnlineStudy, root: Path, contender: OnlineContender, seed: int) -> None:
    changes = [*_overrides(contender.settings), f"training.seed={seed}"]
    changes += _skills(root, contender.skills)
    if contender.meta:
        changes.append(f"method.meta={json.dumps(str(_meta_train(study, root, contender.meta, seed)))}")
    pipeline.train(
        root / "data" if contender.uses_data else None,
        _run(root, contender, seed),
        method=contender.method,
        preset=study.preset,
        overrides=changes,
        suite=study.suite,
        tasks=study.tasks,
        resume=True,
    )


def _meta_train(study: OnlineStudy, root: Path, name: str, seed: int) -> Path:
    """The run over training tasks of that seed, which is trained if it is not there yet."""
    run, path = study.meta[name], root / "meta" / name / f"seed-{seed}"
    training = [f"training.seed={seed}", f"training.precision={run.precision}"]
    pipeline.train(
        None,
        path,
        method=run.method,
        preset=study.preset,
        overrides=[*_overrides(run.settings), *training, *_skills(root, run.skills)],
        suite=study.suite,
        tasks=tasks_in(study.suite, run.tasks)[1],
        resume=True,
    )
    return path


def _meta_tasks(study: OnlineStudy, contender: OnlineContender) -> int | None:
    if not contender.meta:
        return None
    return len(tasks_in(study.suite, study.meta[contender.meta].tasks)[1])


def _skills(root: Path, name: str) -> list[str]:
    return [f"method.skills={json.dumps(str(root / 'skills' / name))}"] if name else []


def _run(root: Path, contender: OnlineContender, seed: int) -> Path:
    return root / "runs" / contender.name / f"seed-{seed}"


def _jobs(study: OnlineStudy) -> Iterator[tuple[OnlineContender, int]]:
    """Every contender with its first seed, then with the next, so that what is whole first is the comparison."""
    most = max(len(study.seeds_of(one)) for one in study.contenders)
    for place in range(most):
        for contender in study.contenders:
            seeds = study.seeds_of(contender)
            if place < len(seeds):
                yield contender, seeds[place]


def _begun(study: OnlineStudy, root: Path) -> Iterator[tuple[OnlineContender, int, Path]]:
    """Contenders and seeds with the folders of their runs, where these have a checkpoint."""
    for contender, seed in _jobs(study):
        run = _run(root, contender, seed)
        if (run / "checkpoints").exists() and any((run / "checkpoints").iterdir()):
            yield contender, seed, run


def _overrides(settings: Any) -> list[str]:
    if not all(isinstance(name, str) for name in settings):
        raise InputError(f"settings: expected names and values, got {settings!r:.80}")
    return [f"method.{name}={json.dumps(value)}" for name, value in settings.items()]


def _keep_ways(study: OnlineStudy, root: Path) -> None:
    rows = ways_of_study(study, root)
    if rows:
        _keep(root / WAYS, rows)


def _keep(file: Path, rows: list[dict[str, Any]]) -> None:
    write_atomically(file, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
