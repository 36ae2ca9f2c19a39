"""Commands about data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from goskill.commands.options import Device, Labels, Overrides, Seed, Suite, Tasks, Workers, split


def collect(
    out: Annotated[Path, typer.Option(help="The episode store to write.", metavar="DATA")],
    suite: Suite = None,
    tasks: Tasks = None,
    episodes: Annotated[int, typer.Option(help="Episodes per task, from random to expert.", min=1)] = 40,
    policy: Annotated[
        str,
        typer.Option(
            help="Who acts: scripted, random, or sac: agents that learn, whose every episode is kept."
        ),
    ] = "scripted",
    quality: Annotated[
        str, typer.Option(help="near-optimal: all episodes; sub-optimal: the first half.")
    ] = "near-optimal",
    workers: Workers = None,
    seed: Seed = 0,
    overrides: Overrides = None,
) -> None:
    """Collect episodes of a suite's tasks, by default MetaWorld's. Run it again to go on after an interruption.

    Examples: `goskill collect --suite mt10 --out data/mt10`,
    `goskill collect --suite mt10 --policy sac --episodes 2000 --out data/sac`,
    `goskill collect --tasks reach,push --out data/two`,
    `goskill collect --suite my_module:suite --policy random --out data/mine`
    """
    from goskill.envs.collectors import POLICIES
    from goskill.errors import InputError
    from goskill.experiments import pipeline

    if policy not in (*POLICIES, "sac"):
        raise InputError(f"policy: expected one of {', '.join(POLICIES)}, sac, got {policy!r:.80}")
    if policy == "sac":
        pipeline.collect_learning(
            out,
            suite=suite,
            tasks=pipeline.choose_tasks(suite, tasks),
            episodes=episodes,
            overrides=overrides or (),
            workers=workers,
            seed=seed,
        )
        return
    if overrides:
        raise InputError(f"--set {overrides[0]}: only collections of agents that learn have settings")
    pipeline.collect(
        out,
        suite=suite,
        tasks=pipeline.choose_tasks(suite, tasks),
        episodes=episodes,
        policy=policy,
        quality=quality,
        workers=workers,
        seed=seed,
    )


def convert(
    layout: Annotated[
        str,
        typer.Argument(
            help="goskill, mtdiff, harmodt, hdf5, minari, tdmpc2, lerobot, vintix, robomimic or ogbench."
        ),
    ],
    source: Annotated[str, typer.Argument(help="A folder, a file, or a Minari dataset's id.", metavar="SRC")],
    data: Annotated[Path, typer.Argument(help="The episode store to write.", metavar="DATA")],
    quality: Annotated[
        str | None,
        typer.Option(help="npz layouts: near-optimal (the default), or sub-optimal (the first half)."),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="Only these tasks: mt10, mt30, mt50, ml45-train or ml45-test."),
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks, with commas between them.")] = None,
    task: Annotated[
        str | None, typer.Option(help="What the one task is called (minari, hdf5, robomimic, ogbench).")
    ] = None,
    ends: Annotated[
        str | None,
        typer.Option(
            help="Where episodes end (npz layouts, hdf5): marked, file (a file is one), or after that many steps."
        ),
    ] = None,
    observation: Annotated[
        str | None,
        typer.Option(
            help="What is observed: keys with commas between them, or all (minari, robomimic, lerobot)."
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="What else to keep, with commas between them (minari, hdf5, robomimic)."),
    ] = None,
    missing_rewards: Annotated[
        str | None,
        typer.Option(help="zero: store zeros for a dataset without rewards (ogbench, lerobot)."),
    ] = None,
    workers: Workers = None,
) -> None:
    """Convert another dataset into an episode store. What was odd about it is printed. Called again, an interrupted
    conversion goes on.

    Prompts of the source go into DATA/prompts, for other code: training takes each task's best episodes of DATA.

    Examples: `goskill convert goskill downloads/metaworld data/mt30 --suite mt30`,
    `goskill convert minari D4RL/kitchen/mixed-v2 data/kitchen --task kitchen --observation observation`
    """
    from goskill.experiments import pipeline

    keys = split(observation)
    pipeline.convert(
        layout,
        source,
        data,
        workers=workers,
        quality=quality,
        tasks=_chosen(layout, suite, tasks),
        task=task,
        ends=int(ends) if ends is not None and ends.isdigit() else ends,
        observation=keys[0] if keys is not None and len(keys) == 1 else keys,
        columns=split(columns),
        missing_rewards=missing_rewards,
    )


def _chosen(layout: str, suite: str | None, tasks: str | None) -> list[str] | None:
    """The tasks of a suite, or those with commas between them: MetaWorld's, or any that a layout may have."""
    from goskill.data.convert.npz import LAYOUTS
    from goskill.experiments import pipeline

    if suite is not None or (tasks is not None and layout in LAYOUTS):
        return pipeline.choose_tasks(suite, tasks)
    return split(tasks)


def merge(
    stores: Annotated[list[Path], typer.Argument(help="Two episode stores or more.", metavar="DATA...")],
    out: Annotated[Path, typer.Option(help="The episode store to write.", metavar="DATA")],
    workers: Workers = None,
) -> None:
    """Copy the episodes of several stores into a new one. Tasks of the same name become one. Called again, an
    interrupted merge goes on.

    Example: `goskill merge data/kitchen data/maze --out data/both`
    """
    from goskill.experiments import pipeline

    pipeline.merge(stores, out, workers=workers)


def mix(
    data: Annotated[Path, typer.Argument(help="An episode store, of agents that learned.", metavar="DATA")],
    config: Annotated[
        str,
        typer.Option(
            help="How many tasks get medium replay, replay, and medium to expert.", metavar="MR,RP,ME"
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The episode store to write. Default: say who gets what.", metavar="DATA"),
    ] = None,
    limits: Annotated[
        str | None,
        typer.Option(help="At most so many episodes of a task, such as 150,100,50.", metavar="MR,RP,ME"),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Cut each episode to so many steps.", min=1)] = None,
    seed: Seed = 0,
) -> None:
    """Mix data of different quality out of what agents experienced while they learned: each task gets one quality.

    Example: `goskill mix data/sac --config 5,3,2 --seed 0 --out data/mix`
    """
    from goskill.experiments import pipeline

    pipeline.mix(
        data,
        out,
        config=_numbers("config", config),
        limits=_numbers("limits", limits),
        steps=steps,
        seed=seed,
    )


def _numbers(name: str, text: str | None) -> list[int]:
    from goskill.errors import InputError

    try:
        return [int(part) for part in (text or "").split(",") if part.strip()]
    except ValueError:
        raise InputError(f"{name}: expected whole numbers with commas between them, got {text!r}") from None


def download(
    name: Annotated[str | None, typer.Argument(help="A dataset's name. Default: list them.")] = None,
    folder: Annotated[
        Path | None, typer.Argument(help="Where its files go. Default: downloads/NAME.", metavar="FOLDER")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Convert it into this episode store.", metavar="DATA")
    ] = None,
    discard: Annotated[
        bool, typer.Option("--discard", help="With --store: remove each file once it is converted.")
    ] = False,
    tasks: Annotated[
        str | None, typer.Option(help="With --store: only these tasks, with commas between them.")
    ] = None,
    workers: Workers = None,
) -> None:
    """Download a public dataset from huggingface.co, and convert it if asked. Called again, an interrupted download
    goes on.

    Examples: `goskill download metaworld-mt50 --store data/mt50`,
    `goskill download tdmpc2-mt80 --store data/mt80 --discard --tasks reach,push`
    """
    from goskill.experiments import pipeline

    pipeline.download(name, folder, store=store, keep=not discard, tasks=split(tasks), workers=workers)


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
    labels: Labels = None,
    device: Device = None,
) -> None:
    """Label every step of an episode store with a run's skills; prints the name of the column.

    Stopped or killed, the same command goes on. Under torchrun the ranks share the work.

    Example: `goskill label runs/mt10 data/mt10`
    """
    from goskill.experiments import pipeline
    from goskill.training import distributed

    column = pipeline.label(run, data, device=device, labels=labels)
    if distributed.rank() == 0:
        typer.echo(column)
