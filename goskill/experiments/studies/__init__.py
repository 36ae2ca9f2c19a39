"""Comparisons: a study names methods, data and seeds; running it makes what is missing and keeps it as rows.

``run_study`` does what ``goskill study`` does, ``show_study`` prints what the rows say.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goskill.errors import InputError, closest
from goskill.evaluation.rows import read_rows
from goskill.evaluation.study import DataSource, Study, parse_study, read_study_file
from goskill.files import packaged_names, packaged_text
from goskill.terminal import console

if TYPE_CHECKING:
    from goskill.experiments.studies.plan import Data
    from goskill.experiments.studies.runner import StudyFolder

__all__ = ["Study", "names", "read_rows", "read_study", "run_study", "show_study"]

MARKDOWN = "table.md"


def names() -> list[str]:
    """The names of the studies that come with the package."""
    return packaged_names(__name__, "ready")


def read_study(source: str | Path) -> Study:
    """The study of a file, or the ready one of that name. Raises InputError that says what is wrong where."""
    path = Path(source)
    if path.is_file():
        return read_study_file(path, path.stem)
    if path.suffix == ".toml" or str(source) not in names():
        raise InputError(
            f"study {str(source)!r}: no such file, and no ready study: {closest(str(source), names())}"
        )
    return parse_study(packaged_text(__name__, "ready", str(source)), str(source))


def run_study(
    source: str | Path,
    out: str | Path | None = None,
    *,
    processes: int | None = None,
    stores: Mapping[str, str] | None = None,
) -> int:
    """Run what is missing of a study (a file, or the name of a ready one) and print its table.

    ``out`` is the study's folder, ``studies/NAME`` by default. ``processes`` runs go on at a time, by default one per
    GPU or core. ``stores`` are other episode stores for the study's data, by name. Returns how many runs failed;
    they are named, and tried again by the next call. Interrupted, it leaves everything as a later call needs it.

    Raises InputError for a study that is wrong, data that is not there, and rows or runs in the folder that were made
    on other data or with other settings.
    """
    from goskill.experiments.studies.processes import places
    from goskill.experiments.studies.runner import Runner, StudyFolder
    from goskill.experiments.studies.study_progress import StudyProgress

    study = read_study(source).with_stores(stores or {})
    where = places(processes)
    folder = StudyFolder(Path(out) if out is not None else Path("studies") / study.name)
    with folder.lock(), _terminated_as_interrupted():
        runner = Runner(study, folder, _data(study, folder))
        left = runner.left()
        console.print(f"{study.title}: {left} runs to do, {len(where)} at a time", highlight=False)
        with StudyProgress(console, left, 0) as progress:
            runner.run(where, progress)
    for name, why in runner.failed.items():
        console.print(f"failed: {name}: {why}", highlight=False, markup=False, soft_wrap=True)
    if runner.rows:
        show_study(study, folder.path)
    return len(runner.failed)


def show_study(
    source: str | Path | Study, out: str | Path, *, into: str | Path | None = None, as_json: bool = False
) -> None:
    """Print the table of a study's rows, and keep it as Markdown in its folder.

    ``into`` is a Markdown file with the lines ``<!-- study NAME -->`` and ``<!-- end of study NAME -->``, between
    which the table is put as well. Raises InputError if there are no rows yet.
    """
    from goskill.evaluation import study_table as table
    from goskill.experiments.studies.runner import StudyFolder
    from goskill.files import write_atomically

    study = source if isinstance(source, Study) else read_study(source)
    folder = StudyFolder(Path(out))
    rows = read_rows(folder.rows)
    found = table.groups(study, rows)
    notices = table.left_out(study, rows)
    if any(table.distinctions(found)):
        notices = ("Rows of different versions or data are shown apart.", *notices)
    if not found:
        raise InputError(f"{folder.rows}: has no rows of study {study.name} yet")
    if as_json:
        print(json.dumps(table.to_json(found), indent=2))
    else:
        for group, distinction in zip(found, table.distinctions(found), strict=True):
            console.print(table.rich_table(study, group, distinction))
        for notice in notices:
            console.print(notice, highlight=False, markup=False)
    text = table.markdown(study, found, notices)
    write_atomically(folder.path / MARKDOWN, text)
    if into is not None:
        table.write_between_markers(Path(into), study.name, text)


def _data(study: Study, folder: StudyFolder) -> dict[str, Data]:
    """The study's stores; those to collect are collected, or gone on with."""
    from goskill.envs.suite_registry import tasks_in
    from goskill.experiments.studies.plan import open_data

    data = {}
    for name, source in study.data.items():
        path = Path(source.store) if source.store else folder.data(name)
        try:
            named = source.suite or source.tasks
            tasks = tasks_in(source.suite or None, source.tasks or None)[1] if named else []
            if source.mix:
                path = _mix(folder, name, source, tasks)
            elif not source.store:
                _collect(path, source, tasks)
            data[name] = open_data(name, path, tasks)
        except InputError as error:
            raise InputError(
                f"study {study.name}: data {name}: {error} (give a store with --data {name}=PATH)"
            ) from None
    return data


def _mix(folder: StudyFolder, name: str, source: DataSource, tasks: Sequence[str]) -> Path:
    """The mix of a store, or of a collection that mixes of the same one share."""
    from goskill.data import EpisodeStore
    from goskill.data.mixing import write_mix

    whole = Path(source.store) if source.store else folder.data(f"{source.suite}-{source.episodes}")
    if not source.store:
        _collect(whole, source, tasks)
    path = folder.data(name)
    write_mix(
        EpisodeStore.open(whole),
        path,
        source.mix,
        seed=source.seed,
        limits=source.limits,
        steps=source.steps or None,
    )
    return path


def _collect(path: Path, source: DataSource, tasks: Sequence[str]) -> None:
    """Collect what is missing; a collection that other packages finished is taken as it is."""
    from goskill.experiments import pipeline
    from goskill.rollouts.collection import finished_by

    packages = finished_by(path, tasks, source.episodes, source.quality, source.seed)
    if packages is None:
        pipeline.collect(
            path,
            suite=source.suite or None,
            tasks=tasks,
            episodes=source.episodes,
            quality=source.quality,
            seed=source.seed,
        )
        return
    made = ", ".join(f"{name} {version}" for name, version in packages.items())
    console.print(f"{path}: collected before, with {made}", highlight=False, markup=False)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A scheduler's SIGTERM ends a study with the same care as Ctrl-C."""

    def stop(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
