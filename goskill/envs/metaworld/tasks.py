"""The tasks of MetaWorld and the suites that the field trains and evaluates on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Literal

from goskill.errors import InputError, closest

_MT10 = [
    "reach",
    "push",
    "pick-place",
    "door-open",
    "drawer-open",
    "drawer-close",
    "button-press-topdown",
    "peg-insert-side",
    "window-open",
    "window-close",
]

_MT30 = [
    "basketball",
    "bin-picking",
    "button-press-topdown",
    "button-press",
    "button-press-wall",
    "coffee-button",
    "coffee-pull",
    "coffee-push",
    "dial-turn",
    "disassemble",
    "door-close",
    "door-lock",
    "door-open",
    "door-unlock",
    "drawer-close",
    "drawer-open",
    "faucet-close",
    "faucet-open",
    "hand-insert",
    "handle-press-side",
    "handle-press",
    "handle-pull-side",
    "handle-pull",
    "lever-pull",
    "peg-insert-side",
    "pick-out-of-hole",
    "pick-place-wall",
    "push-back",
    "push",
    "reach",
]

_MT50 = [
    *_MT30,
    *[
        "assembly",
        "box-close",
        "button-press-topdown-wall",
        "hammer",
        "peg-unplug-side",
        "pick-place",
        "plate-slide-back-side",
        "plate-slide-back",
        "plate-slide-side",
        "plate-slide",
        "push-wall",
        "reach-wall",
        "shelf-place",
        "soccer",
        "stick-pull",
        "stick-push",
        "sweep-into",
        "sweep",
        "window-close",
        "window-open",
    ],
]

_ML45_TEST = ["bin-picking", "box-close", "door-lock", "door-unlock", "hand-insert"]

SUITES: dict[str, tuple[str, ...]] = {
    "mt10": tuple(_MT10),
    "mt30": tuple(_MT30),
    "mt50": tuple(_MT50),
    "ml45-train": tuple(task for task in _MT50 if task not in _ML45_TEST),
    "ml45-test": tuple(_ML45_TEST),
}
"""Task names, without a version suffix, by suite name."""

_ALL_TASKS = frozenset(_MT50)
_VERSION_SUFFIX = re.compile(r"-v[23]$")


def tasks_of(suite: str) -> list[str]:
    """The task names of a suite: ``"mt10"``, ``"mt30"``, ``"mt50"``, ``"ml45-train"`` or ``"ml45-test"``.

    Raises `InputError` for any other name.
    """
    tasks = SUITES.get(str(suite).lower())
    if tasks is None:
        raise InputError(
            f"suite: expected one of {', '.join(SUITES)}, got {suite!r}; {closest(str(suite), SUITES)}"
        )
    return list(tasks)


def task_name(task: str) -> str:
    """The name of a MetaWorld task without its version: ``"reach"`` for ``"reach-v2"`` or ``"reach-v3"``.

    Raises `InputError`, with the nearest name, for a task that MetaWorld does not have.
    """
    name = _VERSION_SUFFIX.sub("", str(task))
    if name not in _ALL_TASKS:
        raise InputError(
            f"task: expected a MetaWorld task, got {task!r}; {closest(name, sorted(_ALL_TASKS))}"
        )
    return name


def task_names(tasks: str | Iterable[str]) -> list[str]:
    """Canonical task names of a suite's name, one task's name, or several tasks' names."""
    if isinstance(tasks, str):
        if tasks.lower() in SUITES:
            return tasks_of(tasks)
        return [task_name(part.strip()) for part in tasks.split(",")]
    names = [task_name(task) for task in tasks]
    if not names:
        raise InputError("tasks: expected at least one task, got none")
    return names


def episode_seed(
    seed: int, task: str, episode: int, purpose: Literal["evaluation", "collection"] = "evaluation"
) -> int:
    """The seed of one episode: a pure function of its arguments, in ``[0, 2**63)``.

    It does not depend on which other tasks or episodes are run, nor on their order. ``purpose`` keeps the
    object and goal positions of evaluation apart from those of the training data, whose ``seed`` is often
    the same. MetaWorld's tasks have the same seeds with and without a version.
    """
    plain = _VERSION_SUFFIX.sub("", task)
    name = f"{purpose}/{int(seed)}/{plain if plain in _ALL_TASKS else task}/{int(episode)}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
