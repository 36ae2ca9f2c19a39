"""Commands about data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from goskill.commands.options import Device, Seed, Tasks, Workers


def collect(
    out: Annotated[Path, typer.Option(help="The episode store to write.", metavar="DATA")],
    suite: Annotated[str | None, typer.Option(help="mt10, mt30, mt50, ml45-train or ml45-test.")] = None,
    tasks: Tasks = None,
    episodes: Annotated[int, typer.Option(help="Episodes per task, from random to expert.", min=1)] = 40,
    policy: Annotated[str, typer.Option(help="Who acts: scripted.")] = "scripted",
    quality: Annotated[
        str, typer.Option(help="near-optimal: all episodes; sub-optimal: the first half.")
    ] = "near-optimal",
    workers: Workers = None,
    seed: Seed = 0,
) -> None:
    """Collect episodes with MetaWorld's scripted policies. Run it again to go on after an interruption.

    Examples: `goskill collect --suite mt10 --out data/mt10`,
    `goskill collect --tasks reach,push --out data/two`
    """
    from goskill.experiments import pipeline

    pipeline.collect(
        out,
        tasks=pipeline.choose_tasks(suite, tasks),
        episodes=episodes,
        policy=policy,
        quality=quality,
        workers=workers,
        seed=seed,
    )


def convert(
    layout: Annotated[str, typer.Argument(help="mtdiff, goskill, harmodt, minari or hdf5.")],
    source: Annotated[str, typer.Argument(help="A folder, a file, or a Minari dataset's id.", metavar="SRC")],
    data: Annotated[Path, typer.Argument(help="The episode store to write.", metavar="DATA")],
    quality: Annotated[
        str, typer.Option(help="npz layouts: near-optimal, or sub-optimal (the first half).")
    ] = "near-optimal",
    suite: Annotated[
        str | None,
        typer.Option(help="npz layouts: only these tasks: mt10, mt30, mt50, ml45-train or ml45-test."),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="npz layouts: only these, with commas between them.")
    ] = None,
    workers: Workers = None,
) -> None:
    """Convert another dataset into an episode store. What was odd about it is printed. Called again, an interrupted
    conversion goes on.

    Prompts of the source go into DATA/prompts, for other code: training takes each task's best episodes of DATA.

    Examples: `goskill convert goskill downloads/metaworld data/mt30 --suite mt30`,
    `goskill convert hdf5 episodes.hdf5 data/mine`
    """
    from goskill.experiments import pipeline

    chosen = pipeline.choose_tasks(suite, tasks) if suite is not None or tasks is not None else None
    pipeline.convert(layout, source, data, quality=quality, tasks=chosen, workers=workers)


def info(
    data: Annotated[Path, typer.Argument(help="An episode store.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what an episode store holds: tasks, counts, returns, where it came from.

    Example: `goskill info data/mt10`
    """
    from goskill.experiments import pipeline

    pipeline.show_store(data, as_json=as_json)


def verify(data: Annotated[Path, typer.Argument(help="An episode store.")]) -> None:
    """Read every byte of an episode store, with its labels and converted prompts, and check it against its checksums.

    Example: `goskill verify data/mt10`
    """
    from goskill.experiments import pipeline

    pipeline.verify(data)


def label(
    run: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    data: Annotated[Path, typer.Argument(help="An episode store.", metavar="DATA")],
    device: Device = None,
) -> None:
    """Label every step of an episode store with a run's skills; prints the name of the column.

    Stopped or killed, the same command goes on. Under torchrun the ranks share the work.

    Example: `goskill label runs/mt10 data/mt10`
    """
    from goskill.experiments import pipeline
    from goskill.training import distributed

    column = pipeline.label(run, data, device=device)
    if distributed.rank() == 0:
        typer.echo(column)
