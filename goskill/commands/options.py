"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Suite = Annotated[
    str | None,
    typer.Option(help="A suite of environments: its name, or module:attribute of your own.", metavar="NAME"),
]
Tasks = Annotated[str | None, typer.Option(help="Task names, separated by commas.", metavar="A,B")]
Workers = Annotated[int | None, typer.Option(help="Worker processes. Default: one per core.", min=0)]
Seed = Annotated[int, typer.Option(help="Decides every random choice.", min=0, max=2**60 - 1)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting: section.key=value.", metavar="KEY=VALUE"),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Where labels of the data go. Default: beside it, or into the run where it cannot be written to.",
        metavar="FOLDER",
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def split(text: str | None) -> list[str] | None:
    """What stands between commas."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]
