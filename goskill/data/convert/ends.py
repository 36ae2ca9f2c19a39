"""Where episodes end in flat columns of transitions: the names that datasets mark it under, or what a caller says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.episode import Episode
from goskill.errors import InputError, StoreError

Flags = npt.NDArray[np.bool_]
Ends = str | int  # "marked", "file", or the steps of every episode

TERMINATIONS = ("terminals", "terminations", "terminated", "terminal", "terminateds", "is_terminal")
TRUNCATIONS = ("timeouts", "truncations", "truncated", "timeout", "truncateds")
KINDS = {"terminated": TERMINATIONS, "truncated": TRUNCATIONS}
# Without saying which: "episode_terminals" is d3rlpy's, "is_last" that of RLDS.
FLAGS = (*TERMINATIONS, *TRUNCATIONS, "dones", "done", "episode_terminals", "is_last")
OPTIONS = "ends=500 if every episode has 500 steps, or ends='file' if a file is one episode"


def check_ends(ends: object) -> None:
    """InputError unless ``ends`` is "marked", "file" or a number of steps."""
    if ends not in ("marked", "file") and (type(ends) is not int or ends < 1):
        raise InputError(
            f"ends: expected 'marked', 'file' or the number of steps of every episode, got {ends!r:.80}"
        )


def flags_of(where: str, columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, Flags]:
    """The flags among the columns, as truth values. StoreError names one that holds anything else."""
    flags = {}
    for name in FLAGS:
        if name in columns:
            strange = (columns[name] != 0) & (columns[name] != 1)
            if strange.any():
                step = int(np.flatnonzero(strange)[0])
                raise StoreError(
                    f"{where}: column {name!r}: expected the values 0 and 1, "
                    f"got {columns[name][step]} at step {step}"
                )
            flags[name] = columns[name].astype(bool)
    return flags


def kinds(names: Iterable[str]) -> list[str]:
    """Which kinds of ends flags of those names tell: terminated, truncated."""
    known = set(names)
    return [kind for kind, flags in KINDS.items() if known.intersection(flags)]


def kinds_of(flags: Mapping[str, Flags]) -> dict[str, Flags]:
    """Where episodes are terminated and truncated, as far as flags tell which it is."""
    return {
        kind: np.logical_or.reduce([flags[name] for name in KINDS[kind] if name in flags])
        for kind in kinds(flags)
    }


def check_marked(where: str, names: Iterable[str], marked: bool) -> None:
    """StoreError unless ends are marked: one episode is never assumed."""
    known = sorted(names)
    if not known:
        raise StoreError(
            f"{where}: expected the ends of episodes under one of {', '.join(FLAGS)}, got none of them: "
            f"give {OPTIONS}"
        )
    if not marked:
        raise StoreError(
            f"{where}: {', '.join(known)}: expected the end of an episode, got none: give {OPTIONS}"
        )


def check_whole(where: str, steps: int, length: int) -> None:
    """StoreError unless the steps are whole episodes of a length."""
    if steps % length:
        raise StoreError(f"{where}: expected a multiple of {length} steps (ends={length}), got {steps}")


def every(length: int, first: int, last: int) -> Flags:
    """Which of the steps from ``first`` to ``last`` end an episode, if all have that length."""
    found: Flags = np.arange(first + 1, last + 1) % length == 0
    return found


def last_flags(episode: Episode) -> tuple[bool, bool]:
    """Whether an episode ended by termination, and otherwise: other programs tell episodes apart by one of them."""
    terminated = bool(episode.columns["terminated"][-1]) if "terminated" in episode.columns else False
    return terminated, not terminated
