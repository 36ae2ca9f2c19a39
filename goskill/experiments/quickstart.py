"""The whole way of the data in one go, on five tasks: what a newcomer sees first."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from goskill.errors import InputError
from goskill.experiments import pipeline
from goskill.experiments.runs import read_settings
from goskill.terminal import console

if TYPE_CHECKING:
    from goskill.evaluation import Results


def run_quickstart(
    out: str | Path = "runs/quickstart",
    *,
    seed: int = 0,
    workers: int | None = None,
    overrides: Sequence[str] = (),
) -> Results:
    """The whole way on five tasks: collect, train, evaluate, draw. Run again, it goes on where it was stopped.

    The dataset is kept beside the run folder, in ``<out>-data``. Raises InputError for wrong settings and for a
    folder that holds a finished quickstart or something else.
    """
    from goskill.evaluation import Results
    from goskill.figures import draw_run
    from goskill.training import RunFolder
    from goskill.training.devices import choose_execution

    overrides = [f"training.seed={seed}", *overrides]
    settings = read_settings("quickstart", overrides)
    choose_execution(settings.training)
    run = RunFolder(Path(out))
    started = run.settings_file.exists()
    if run.figures.exists():
        raise InputError(f"{run.path} holds a finished run: give another folder with --out")
    if not started and not run.is_free():
        raise InputError(f"{run.path} exists already and holds no run: give another folder with --out")
    data = run.path.parent / f"{run.path.name}-data"
    pipeline.collect(
        data,
        tasks=settings.data.tasks,
        episodes=settings.data.episodes,
        quality=settings.data.quality,
        workers=workers,
        seed=settings.training.seed,
    )
    to_train = [change for change in overrides if not change.startswith("data.")]
    pipeline.train(data, run.path, preset="quickstart", overrides=to_train, resume=started)
    if not run.results_file.exists():
        pipeline.evaluate(run.path, workers=workers, seed=settings.training.seed)
    try:
        drawn = draw_run(run.path)
    except BaseException:
        shutil.rmtree(run.figures, ignore_errors=True)
        raise
    for file in drawn:
        if file.suffix == ".png":
            console.print(f"drew {file}", highlight=False)
    return Results.load(run.results_file)
