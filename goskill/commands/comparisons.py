"""Commands about several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from goskill.errors import InputError

_CONTENDERS = "Run folders that were evaluated; NAME=RUN,RUN for the training seeds of one contender."


def figures(
    runs: Annotated[list[str], typer.Argument(help=f"{_CONTENDERS} Study folders.", metavar="FOLDER...")],
) -> None:
    """Draw a run's figures from the files in its folder, or a study's figures and tables from its rows.

    Several runs, or several studies, are also drawn beside each other.

    Examples: `goskill figures runs/mt10`, `goskill figures GO-Skill=runs/s0,runs/s1 Prompt-DT=runs/d0,runs/d1`,
    `goskill figures studies/paper-mt30 studies/paper-mt50`
    """
    from goskill.evaluation import read_contenders
    from goskill.figures import draw_comparison, draw_run, draw_studies, draw_study, is_study

    studies = [Path(folder) for folder in runs if is_study(folder)]
    others = [run for run in runs if not is_study(run)]
    written = [file for folder in studies for file in draw_study(folder)]
    if len(studies) > 1:
        written += draw_studies(studies, studies[0] / "figures")
    if others:
        folders = [folder for group in read_contenders(others).values() for folder in group]
        written += [file for folder in folders for file in draw_run(folder)]
        if len(folders) > 1:
            written += draw_comparison(others, folders[0] / "figures")
    for file in written:
        typer.echo(file)


def compare(
    runs: Annotated[list[str], typer.Argument(help=_CONTENDERS, metavar="RUN...")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare evaluated runs task by task, with paired differences from the first.

    Examples: `goskill compare runs/mt10 runs/no-focal-loss`,
    `goskill compare GO-Skill=runs/s0,runs/s1 Prompt-DT=runs/d0,runs/d1`
    """
    from goskill.experiments import pipeline

    pipeline.compare(runs, as_json=as_json)


def study(
    source: Annotated[
        str, typer.Argument(help="A study file, or a ready one's name (see below).", metavar="STUDY")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The study's folder. Default: studies/NAME.", metavar="FOLDER")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Runs at a time. Default: one per GPU, or per core without one.", min=1)
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Another episode store for one of the study's data.", metavar="NAME=DATA"),
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Only print the table of what is there.")] = False,
    into: Annotated[
        Path | None,
        typer.Option(
            help="With --table: also put it into this Markdown file, between its markers.", metavar="FILE"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --table: print JSON.")] = False,
) -> None:
    """Run a comparison: what is missing of it, several runs at a time; then print its table.

    Stopped or killed at any moment, the same command goes on. Each task of each run becomes one line of
    `FOLDER/rows.jsonl`. Ready studies: paper-mt50, paper-mt30, paper-ablations, paper-hyperparameters, paper-ml45,
    srtd-mt10, small-mt10, small-mt10-transformers, srtd-small; in environments, one run at a time: spirl-maze,
    skills-kitchen, simpl-maze, simpl-maze-top, simpl-maze-bottom, simpl-kitchen, simpl-small.

    Examples: `goskill study small-mt10`, `goskill study paper-mt30 --data near-optimal=data/mt30`,
    `goskill study small-mt10 --table --into README.md`
    """
    from goskill.experiments import online_studies, studies

    if online_studies.is_online_study(source):
        for option, value in (("--processes", processes), ("--data", data), ("--json", as_json or None)):
            if value is not None:
                raise InputError(f"{option}: studies in environments have no such option")
        _study_online(source, out, table, into)
        return
    if table:
        folder = out or Path("studies") / studies.read_study(source).name
        studies.show_study(source, folder, into=into, as_json=as_json)
        return
    if into is not None or as_json:
        option = "--json" if into is None else "--into"
        raise InputError(f"{option}: expected only with --table, got it without")
    stores = dict(_named(text) for text in data or ())
    if studies.run_study(source, out, processes=processes, stores=stores):
        raise typer.Exit(1)


def _study_online(source: str, out: Path | None, table: bool, into: Path | None) -> None:
    from goskill.experiments import online_studies

    found = online_studies.read_online_study(source)
    folder = out or Path("studies") / found.name
    if not table:
        online_studies.run_online_study(found, folder)
    online_studies.show_online_study(found, folder, into)


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InputError(f"--data: expected NAME=DATA, got {text!r}")
    return name, value
