"""Several runs beside each other: differences from the first, paired wherever the runs allow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import goskill.evaluation.statistics as statistics
from goskill.errors import InputError
from goskill.evaluation.results import Results, TaskEpisodes
from goskill.evaluation.statistics import Estimate

Value = Callable[[TaskEpisodes], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Difference:
    """How much more a contender has than the first one."""

    returns: Estimate
    success: Estimate | None  # None: unknown in one of them


@dataclass(frozen=True)
class ComparedRuns:
    """One name's numbers over its runs (training seeds), on the tasks that all have."""

    name: str
    runs: int
    returns: Mapping[str, Estimate]  # by task
    success: Mapping[str, Estimate | None]  # by task; None: unknown
    overall_return: Estimate
    overall_success: Estimate | None
    interquartile_return: Estimate | None  # over runs x tasks, stratified bootstrap; None for a single run
    differences: Mapping[str, Difference] | None  # by task, from the first contender; None for that one
    overall_difference: Difference | None
    paired_by: str | None  # "episode", "run", or None when the samples are independent


@dataclass(frozen=True)
class Comparison:
    """Contenders in the order given; the first is what the others differ from."""

    tasks: Sequence[str]
    left_out: Sequence[str]  # tasks that not every run has
    contenders: Sequence[ComparedRuns]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain lists and dicts; an estimate is {"value", "ci95"}."""
        return {
            "tasks": list(self.tasks),
            "left_out": list(self.left_out),
            "contenders": {c.name: _contender_to_json(c) for c in self.contenders},
        }


def compare(groups: Mapping[str, Results | Sequence[Results]]) -> Comparison:
    """Compare results by name; several results under one name are its training seeds.

    With one run each, differences are paired by episode when both ran the same ones (same seeds), so that
    an easy or hard object position cancels. With several runs each, they are paired run by run in the order
    given and the interval speaks about training seeds. Everything else is compared as independent samples.

    Raises InputError for runs without a task in common, or whose episodes may take different numbers of steps.
    """
    runs = {name: [group] if isinstance(group, Results) else list(group) for name, group in groups.items()}
    if not runs or not all(runs.values()):
        raise InputError("groups: expected at least one run under each name")
    every = [result for group in runs.values() for result in group]
    steps = {result.protocol.max_steps for result in every}
    if len(steps) > 1:
        raise InputError(f"groups: expected runs evaluated for as many steps, got max_steps {sorted(steps)}")
    tasks = [task for task in every[0].tasks if all(task in result.episodes for result in every)]
    if not tasks:
        raise InputError("groups: expected runs with at least one task in common, got none")
    seen = dict.fromkeys(task for result in every for task in result.tasks)
    first = next(iter(runs.values()))
    return Comparison(
        tasks,
        [task for task in seen if task not in tasks],
        [
            _contender(name, group, None if index == 0 else first, tasks)
            for index, (name, group) in enumerate(runs.items())
        ],
    )


def _contender(
    name: str, runs: Sequence[Results], first: Sequence[Results] | None, tasks: Sequence[str]
) -> ComparedRuns:
    differences, overall_difference, paired_by = None, None, None
    if first is not None:
        paired_by = _pairing(first, runs, tasks)
        differences = {task: _difference(first, runs, [task], paired_by) for task in tasks}
        overall_difference = _difference(first, runs, tasks, paired_by)
    interquartile = None
    if len(runs) > 1:
        scores = [[run.episodes[task].returns.mean() for task in tasks] for run in runs]
        interquartile = statistics.bootstrap(scores)
    return ComparedRuns(
        name=name,
        runs=len(runs),
        returns={task: statistics.stratified_mean(_strata(runs, [task], _returns)) for task in tasks},
        success={task: _success_rate(runs, [task]) for task in tasks},
        overall_return=statistics.stratified_mean(_strata(runs, tasks, _returns)),
        overall_success=_success_rate(runs, tasks),
        interquartile_return=interquartile,
        differences=differences,
        overall_difference=overall_difference,
        paired_by=paired_by,
    )


def _success_rate(runs: Sequence[Results], tasks: Sequence[str]) -> Estimate | None:
    if not _is_known(runs, tasks):
        return None
    if len(runs) == 1:
        successes = [runs[0].episodes[task].success for task in tasks]
        return statistics.success_rate(sum(int(s.sum()) for s in successes), sum(map(len, successes)))
    return statistics.stratified_mean(_strata(runs, tasks, _success))


def _is_known(runs: Sequence[Results], tasks: Sequence[str]) -> bool:
    return all(run.episodes[task].success_known for run in runs for task in tasks)


def _difference(
    first: Sequence[Results], second: Sequence[Results], tasks: Sequence[str], paired_by: str | None
) -> Difference:
    compute = statistics.difference if paired_by is None else statistics.paired_difference
    known = _is_known([*first, *second], tasks)
    return Difference(
        compute(_strata(first, tasks, _returns), _strata(second, tasks, _returns)),
        compute(_strata(first, tasks, _success), _strata(second, tasks, _success)) if known else None,
    )


def _strata(runs: Sequence[Results], tasks: Sequence[str], value: Value) -> list[npt.NDArray[np.float64]]:
    """What an interval is about: the episodes of each task, or the means of several runs."""
    if len(runs) == 1:
        return [value(runs[0].episodes[task]) for task in tasks]
    return [np.array([np.mean([value(run.episodes[task]).mean() for task in tasks]) for run in runs])]


def _pairing(first: Sequence[Results], second: Sequence[Results], tasks: Sequence[str]) -> str | None:
    if len(first) > 1 and len(first) == len(second):
        return "run"
    same = len(first) == len(second) == 1 and all(
        np.array_equal(first[0].episodes[task].seed, second[0].episodes[task].seed) for task in tasks
    )
    return "episode" if same else None


def _returns(episodes: TaskEpisodes) -> npt.NDArray[np.float64]:
    return episodes.returns


def _success(episodes: TaskEpisodes) -> npt.NDArray[np.float64]:
    return episodes.success.astype(np.float64)


def _contender_to_json(contender: ComparedRuns) -> dict[str, Any]:
    def estimate(value: Estimate | None) -> dict[str, Any] | None:
        if value is None:
            return None
        return {"value": value.value, "ci95": None if value.interval is None else list(value.interval)}

    def difference(value: Difference | None) -> dict[str, Any] | None:
        if value is None:
            return None
        return {"return": estimate(value.returns), "success": estimate(value.success)}

    return {
        "runs": contender.runs,
        "overall": {
            "return": estimate(contender.overall_return),
            "success": estimate(contender.overall_success),
            "return_iqm": estimate(contender.interquartile_return),
            "difference": difference(contender.overall_difference),
        },
        "tasks": {
            task: {
                "return": estimate(contender.returns[task]),
                "success": estimate(contender.success[task]),
                "difference": difference(contender.differences[task]) if contender.differences else None,
            }
            for task in contender.returns
        },
        "paired_by": contender.paired_by,
    }
