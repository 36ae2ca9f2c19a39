"""Which runs a command line compares, and under which names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from goskill.errors import InputError

RESULTS = "results.json"


def read_contenders(arguments: Sequence[str | Path]) -> dict[str, list[Path]]:
    """Run folders by name, from arguments ``RUN`` or ``NAME=RUN,RUN,...`` (the training seeds of one contender).

    A folder that is there is a run, whatever its name is. A run without a name is called after its folder, with
    as many folders above it as tell it apart from the others. Raises InputError, naming the argument, for a name
    without runs, and for a name or a run that is given twice.
    """
    named = [_split(str(argument)) for argument in arguments]
    if not named:
        raise InputError("runs: expected at least one, got none")
    unnamed = [Path(runs[0]).absolute().parts for name, runs in named if name is None]
    contenders: dict[str, list[Path]] = {}
    seen: set[Path] = set()
    for name, runs in named:
        for run in map(Path, runs):
            if run.resolve() in seen:
                raise InputError(f"runs: expected every run once, got {run} twice")
            seen.add(run.resolve())
        if name is None:
            name = _shortest_name(Path(runs[0]).absolute().parts, unnamed)
        if name in contenders:
            raise InputError(f"runs: expected every name once, got {name!r} twice")
        contenders[name] = [Path(run) for run in runs]
    return contenders


def _shortest_name(parts: tuple[str, ...], among: Sequence[tuple[str, ...]]) -> str:
    for count in range(1, len(parts)):
        if sum(other[-count:] == parts[-count:] for other in among) == 1:
            return "/".join(parts[-count:])
    return "/".join(parts)


def _split(argument: str) -> tuple[str | None, list[str]]:
    name, equals, runs = argument.partition("=")
    if not equals or Path(argument).exists():
        return None, [argument]
    if not name or not all(runs.split(",")):
        raise InputError(f"runs: expected RUN or NAME=RUN,RUN,..., got {argument!r}")
    return name, runs.split(",")
