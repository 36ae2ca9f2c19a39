"""The errors that goskill raises for wrong input. The command line prints them as one line."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Something that the caller gave is wrong: the message names it, what was expected and what came."""


class InputTypeError(InputError, TypeError):
    """The same, where a peer raises TypeError: what came is of another type."""


class StoreError(InputError):
    """An episode store on disk is missing, damaged, of another version, or does not fit."""


class CheckpointError(InputError):
    """A checkpoint on disk is missing, damaged, or belongs to another configuration."""


class WorkerDied(RuntimeError):  # noqa: N818 (reads as what happened)
    """A worker process ended without being asked to. The message names it and what it was doing."""


class WorkerFailed(RuntimeError):  # noqa: N818
    """Work in a worker process raised. The message holds the worker's own traceback."""


def closest(name: str, known: Iterable[str]) -> str:
    """For messages about an unknown name: ``did you mean 'push'?``, or a list of what is known."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


def optional(package: str, needs: str, extra: str) -> Any:
    """A module of a package that not everybody has. InputError: what ``needs`` it, and what ``pip install`` takes."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.partition(".")[0]
        raise InputError(f"{needs} the package {name}: pip install {extra}") from error
