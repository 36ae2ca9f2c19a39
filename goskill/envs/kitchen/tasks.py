"""FrankaKitchen's sub-tasks, and the tasks that D4RL and SiMPL make of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from goskill.errors import InputError, closest

DONE_WITHIN = 0.3
"""A sub-task is done when the distance of its joints to their goal is below this, at any instant."""


@dataclass(frozen=True, eq=False)
class Subtask:
    """One thing to do in the kitchen: bring the joint positions ``qpos[joints]`` to ``goal``."""

    name: str
    letter: str
    joints: slice
    goal: npt.NDArray[np.float64]

    def is_done(self, qpos: npt.NDArray[np.float64]) -> bool:
        """Whether joint positions [30] are near the goal."""
        difference = qpos[self.joints] - self.goal
        return math.sqrt(difference.dot(difference)) < DONE_WITHIN


def _subtask(name: str, first_joint: int, goal: list[float]) -> Subtask:
    return Subtask(name, name[0], slice(first_joint, first_joint + len(goal)), np.array(goal))


SUBTASKS: dict[str, Subtask] = {
    subtask.name: subtask
    for subtask in (
        _subtask("bottom burner", 11, [-0.88, -0.01]),
        _subtask("top burner", 15, [-0.92, -0.01]),
        _subtask("light switch", 17, [-0.69, -0.05]),
        _subtask("slide cabinet", 19, [0.37]),
        _subtask("hinge cabinet", 20, [0.0, 1.45]),
        _subtask("microwave", 22, [-0.75]),
        _subtask("kettle", 23, [-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06]),
    )
}
"""By name, in D4RL's order."""

_BY_LETTER = {subtask.letter: subtask.name for subtask in SUBTASKS.values()}
_PREFIX = "kitchen-"
_UNORDERED = "any-"

PLAY = "kitchen-play"
"""All seven sub-tasks in any order: what task-agnostic data is collected in. No episode is long enough for all."""
_D4RL = {"complete": "mkls", "partial": "mkls", "mixed": "mkbl"}
_SIMPL_TRAIN = (
    "mkbs mbts mtlh kblh mbht ktls mksb klsb mkbt mksh mbst kblt mktl mklh "
    "mbls kbtl mlsh mbth kbsh btsl mkls kbth btls"
)
_SIMPL_TEST = "mblt mbtl kbls mkth kbst klsh kbts mbsh btsh mkbh"


def _names(letters: Iterable[str]) -> tuple[str, ...]:
    return tuple(_PREFIX + task for task in letters)


GROUPS: dict[str, tuple[str, ...]] = {
    "kitchen-d4rl": _names(_D4RL),
    "kitchen-train": _names(_SIMPL_TRAIN.split()),
    "kitchen-test": _names(_SIMPL_TEST.split()),
}
"""Task names by group: D4RL's goals, and SiMPL's 23 training and 10 test tasks."""


@dataclass(frozen=True)
class KitchenTask:
    """What counts in an episode. ``ordered``: a sub-task counts once all before it have (SiMPL's reward)."""

    name: str
    subtasks: tuple[str, ...]
    ordered: bool


def kitchen_task(name: str) -> KitchenTask:
    """The task of a name.

    ``kitchen-complete``, ``kitchen-partial`` and ``kitchen-mixed`` are D4RL's; the first two have one goal
    and differ in the human data that D4RL gives with them. ``kitchen-mkbs`` is microwave, kettle, bottom
    burner, slide cabinet in this order, ``kitchen-any-mkbs`` the same in any order: every selection of
    sub-tasks is written by their first letters. ``kitchen-play`` is all seven, for task-agnostic data.

    Raises `InputError` for anything else.
    """
    if name == PLAY:
        return KitchenTask(PLAY, tuple(SUBTASKS), ordered=False)
    rest = name.removeprefix(_PREFIX)
    ordered = rest not in _D4RL and not rest.startswith(_UNORDERED)
    letters = _D4RL.get(rest, rest.removeprefix(_UNORDERED))
    if rest == name or not letters or set(letters) - set(_BY_LETTER) or len(set(letters)) < len(letters):
        known = [task for group in GROUPS.values() for task in group]
        raise InputError(
            "task: expected 'kitchen-' or 'kitchen-any-' and different first letters of sub-tasks "
            f"({', '.join(_BY_LETTER.values())}), got {name!r}; {closest(name, known)}"
        )
    return KitchenTask(name, tuple(_BY_LETTER[letter] for letter in letters), ordered)


def task_of(subtasks: Iterable[str], *, ordered: bool = True) -> KitchenTask:
    """The task of sub-tasks by their names."""
    names = tuple(subtasks)
    unknown = [name for name in names if name not in SUBTASKS]
    if unknown:
        raise InputError(
            f"subtasks: expected sub-tasks of the kitchen, got {unknown[0]!r}; {closest(unknown[0], SUBTASKS)}"
        )
    letters = "".join(SUBTASKS[name].letter for name in names)
    return kitchen_task(f"{_PREFIX}{'' if ordered else _UNORDERED}{letters}")
