"""Where a run's return is lost: in the actions, in the choice of skills, or in the skills themselves.

:func:`diagnose` measures each part with the parts around it replaced by the truth, on a store of demonstrations. The
document that it writes, ``RUN/diagnosis.json``, holds

- ``actions``: squared error of the predicted actions, everything before them given (for GO-Skill the true skill, too),
  beside the variance of the actions, which is the error of the best constant;
- ``policy``: how often the most probable skill is the true one, with the true history given, beside the shares of the
  most frequent skill over all tasks and in each task, which are the accuracies of the best constants;
- ``codebook``: how evenly the skills are used in the data, and by which tasks;
- ``rollouts``: return and success in MetaWorld of the demonstrations themselves, of the decoder with the
  demonstration's skills (the oracle, :class:`goskill.methods.go_skill.OraclePolicy`), and of the policy, from the same
  starts. With a store of ``goskill collect`` environments are reset with the demonstrations' own seeds, so that the
  oracle's skills were made for this very object and goal. The policy's prompts are the task's best episodes, maybe
  with the one from the same start: its numbers lean upwards. Elsewhere seeds are not known: environments are reset
  with evaluation's, the oracle follows the demonstration with the nearest start, and how near it is decides what it
  shows.
- ``left_out``: parts that the method does not have, or that cannot be measured on this store, and why.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from goskill.errors import InputError
from goskill.experiments.run_prompts import prompts_of, rule_elsewhere
from goskill.experiments.runs import (
    Choice,
    check_finished,
    check_repeat,
    load_method,
    open_store,
    settings_of,
)
from goskill.files import write_atomically

if TYPE_CHECKING:
    from goskill.data import EpisodeStore
    from goskill.envs.suite import Suite
    from goskill.evaluation import Results
    from goskill.methods.sequence.predictions import ActionPredictions, SkillPredictions
    from goskill.rollouts import Prompts

PathLike = str | Path
FORMAT = "goskill-diagnosis"
VERSION = 1
FILE_NAME = "diagnosis.json"

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def diagnose(
    path: PathLike,
    data: PathLike,
    *,
    suite: str | Suite | None = None,
    episodes: int = 5,
    samples: int = 4_096,
    workers: int | None = None,
    device: str | None = None,
    seed: int = 0,
    method: Choice | None = None,
    labels: PathLike | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Diagnose a finished run on a store of episodes; returns the document, which is also written into the run.

    ``episodes`` demonstrations of each task, its best, are followed in rollouts (fewer where a task has fewer; 0: no
    rollouts). ``samples`` windows and as many decision points' contexts are drawn, the same number from each task.
    Labels that the store does not have yet are written into the folder ``labels``, by default beside the data, or into
    the run where that cannot be written to. ``suite`` is what the store's tasks are of, where it
    does not say. ``progress(done, total)`` is called with numbers of environment steps.

    Raises InputError for a run or store that is not finished, a store that does not fit the run, and wrong numbers.
    """
    from goskill.methods import Diagnosable, HasSkills
    from goskill.training import RunFolder, choose_device

    for name, value, least in (("episodes", episodes, 0), ("samples", samples, 1)):
        if value < least:
            raise InputError(f"{name}: expected at least {least}, got {value}")
    run = RunFolder.open(path)
    name = settings_of(run, method=method).name
    store = open_store(data, run, labels)
    check_finished(store)
    check_repeat(run, store)
    if store.num_steps == 0:
        raise InputError(f"data: {store.path} has no episodes")
    learned = load_method(run, method)
    for module in learned.modules.values():
        module.to(choose_device(device or "auto")).eval()
    left_out: dict[str, str] = {}
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "run": str(run.path),
        "method": name,
        "data": {"path": str(store.path), "episodes": store.num_episodes, "steps": store.num_steps},
        "samples": samples,
        "seed": seed,
    }
    if isinstance(learned, Diagnosable):
        document["actions"] = action_errors(learned.predict_actions(store, samples, seed), store.tasks)
    else:
        left_out["actions"] = f"{name} does not predict the actions of stored episodes"
    if not isinstance(learned, HasSkills):
        left_out |= dict.fromkeys(("policy", "codebook", "oracle"), f"{name} has no skills")
    elif not learned.discrete_skills:
        reason = "its skills are continuous (method.codebook = 'none'), there is nothing to count"
        left_out |= dict.fromkeys(("policy", "codebook"), reason)
    else:
        column = learned.label(store)
        count = store.num_classes(column)
        predictions = learned.predict_skills(store, column, samples, seed)
        document["policy"] = policy_accuracy(predictions, store.tasks, count)
        document["codebook"] = codebook_usage(store, column, count)
    where = _rollout_suite(store, suite, episodes)
    if isinstance(where, str):
        left_out["rollouts"] = where
    else:
        policies = {"policy": learned.policy()}
        if isinstance(learned, HasSkills):
            policies = {"oracle": learned.oracle(), **policies}
        prompts = prompts_of(store, learned.prompt_episodes, rule_elsewhere(learned))
        document["rollouts"] = _roll_out(policies, store, where, prompts, episodes, workers, seed, progress)
    document["left_out"] = left_out
    write_atomically(run.path / FILE_NAME, json.dumps(document, indent=1, allow_nan=False) + "\n")
    return document


def action_errors(predictions: ActionPredictions, tasks: Sequence[str]) -> dict[str, Any]:
    """Mean squared errors in float64: overall, per action dimension, and grouped by task, skill and step."""
    taken = predictions.taken.astype(np.float64)
    squares = np.square(predictions.predicted.astype(np.float64) - taken)
    error = squares.mean(1)
    found: dict[str, Any] = {
        "steps": len(error),
        "error": float(error.mean()),
        "variance": float(taken.var(0).mean()),
        "by_dimension": squares.mean(0).tolist(),
        "by_task": {tasks[group]: mean for group, _, mean in _grouped(error, predictions.task, len(tasks))},
        "by_step": [
            mean for _, _, mean in _grouped(error, predictions.step, int(predictions.step.max()) + 1)
        ],
    }
    if predictions.skill is not None:
        groups = _grouped(error, predictions.skill, int(predictions.skill.max()) + 1)
        found["by_skill"] = [{"skill": skill, "steps": steps, "error": mean} for skill, steps, mean in groups]
    return found


def policy_accuracy(predictions: SkillPredictions, tasks: Sequence[str], count: int) -> dict[str, Any]:
    """Accuracies of ``count`` skills, the constants to beat, and ``confusion`` [true skill][predicted skill]."""
    true, right = predictions.true, predictions.predicted == predictions.true
    by_task = np.zeros((len(tasks), count), np.int64)
    np.add.at(by_task, (predictions.task, true), 1)
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (true, predictions.predicted), 1)
    groups = _grouped(right.astype(np.float64), true, count)
    return {
        "decisions": len(true),
        "accuracy": float(right.mean()),
        "majority": float(confusion.sum(1).max() / len(true)),
        "majority_of_task": float(by_task.max(1).sum() / len(true)),
        "by_task": {
            tasks[group]: mean
            for group, _, mean in _grouped(right.astype(np.float64), predictions.task, len(tasks))
        },
        "by_skill": [{"skill": skill, "decisions": n, "accuracy": mean} for skill, n, mean in groups],
        "confusion": confusion.tolist(),
    }


def codebook_usage(store: EpisodeStore, column: str, count: int) -> dict[str, Any]:
    """Over all steps of a store: exp of the entropy of the skills' shares, and which tasks use a skill.

    ``tasks`` of a skill are the shares of its steps that belong to each task, ``effective_tasks`` exp of their entropy.
    """
    from goskill.evaluation import DataSkills

    usage = DataSkills.of_store(store, column, count).usage
    tasks = list(usage)
    steps = np.array([usage[task] for task in tasks], np.float64)  # [tasks, count]
    total = steps.sum(0)
    skills = []
    for skill in np.flatnonzero(total):
        shares = steps[:, skill] / total[skill]
        skills.append(
            {
                "skill": int(skill),
                "share": float(total[skill] / total.sum()),
                "effective_tasks": perplexity(shares),
                "tasks": {task: float(share) for task, share in zip(tasks, shares, strict=True) if share > 0},
            }
        )
    return {
        "size": count,
        "perplexity": perplexity(total / total.sum()),
        "unused": np.flatnonzero(total == 0).tolist(),
        "perplexity_by_task": {
            task: perplexity(row / row.sum()) for task, row in zip(tasks, steps, strict=True) if row.sum() > 0
        },
        "skills": skills,
    }


def perplexity(shares: Float64Array) -> float:
    """exp of the entropy of shares that sum to 1: the number of equal shares that are as uncertain."""
    used = shares[shares > 0]
    return float(np.exp(-(used * np.log(used)).sum()))


def _grouped(values: Float64Array, group: IntArray, count: int) -> list[tuple[int, int, float]]:
    """(group, size, mean of values) of the groups in [0, count) that occur."""
    sizes = np.bincount(group, minlength=count)
    sums = np.bincount(group, weights=values, minlength=count)
    return [(int(one), int(sizes[one]), float(sums[one] / sizes[one])) for one in np.flatnonzero(sizes)]


def _rollout_suite(store: EpisodeStore, given: str | Suite | None, episodes: int) -> Suite | str:
    """The suite to roll out in, or why there are no rollouts. Raises InputError for a given one that does not fit."""
    from goskill.experiments.suites import suite_for

    if episodes == 0:
        return "episodes = 0"
    try:
        return suite_for(store, given)
    except InputError as error:
        if given is not None:
            raise
        return str(error)


def _roll_out(
    policies: dict[str, Any],
    store: EpisodeStore,
    suite: Suite,
    prompts: Prompts,
    episodes: int,
    workers: int | None,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    from goskill.data.selection import episode_counts
    from goskill.rollouts import Demonstration, evaluate
    from goskill.rollouts.collection import episode_seeds

    tasks = list(prompts)
    episodes = min(episodes, *filter(None, episode_counts(store)))
    chosen = {task: store.best_episodes(task, episodes) for task in tasks}
    known = episode_seeds(store)
    seeds = None if known is None else {task: [known[index] for index in chosen[task]] for task in tasks}
    followed = {}
    for task in tasks:
        shown = [store.episode(index) for index in chosen[task]]
        followed[task] = [Demonstration(one.observations, one.actions, one.rewards) for one in shown]
    steps = int(max(store.episode_length[index] for indices in chosen.values() for index in indices))
    if steps < suite.max_steps and _ends_early(store, chosen):
        steps = suite.max_steps
    found: dict[str, Results] = {}
    for number, (name, policy) in enumerate(policies.items()):

        def heard(done: int, total: int, before: int = number) -> None:
            if progress is not None:
                progress(before * total + done, len(policies) * total)

        found[name] = evaluate(
            policy,
            tasks,
            episodes,
            suite=suite,
            prompts=followed if name == "oracle" else prompts,
            seed=seed,
            episode_seeds=seeds,
            workers=workers,
            max_steps=steps,
            progress=heard,
        )
    rollouts: dict[str, Any] = {
        "episodes": episodes,
        "max_steps": steps,
        "seeds": "evaluation's" if seeds is None else "the demonstrations'",
        "demonstrations": _demonstrated(store, chosen),
    }
    for name, results in found.items():
        rollouts[name] = {
            "overall": results.overall.to_json(),
            "tasks": {task: results.summary(task).to_json() for task in tasks},
        }
    if "oracle" in policies:
        rollouts["exact_starts"] = policies["oracle"].exact / (episodes * len(tasks))
    return rollouts


def _ends_early(store: EpisodeStore, chosen: dict[str, list[int]]) -> bool:
    """Whether demonstrations were over when their task was done, so that their length is no limit."""
    if "terminated" not in store.columns:
        return False
    return any(
        bool(store.episode(index).columns["terminated"][-1])
        for indices in chosen.values()
        for index in indices
    )


def _demonstrated(store: EpisodeStore, chosen: dict[str, list[int]]) -> dict[str, Any]:
    """Mean return and success of the demonstrations by task; success is None where the store does not know it."""
    tasks = {}
    for task, indices in chosen.items():
        successes = [store.episode(index).success for index in indices]
        known = [bool(one.any()) for one in successes if one is not None]
        tasks[task] = {
            "return_mean": float(store.episode_return[indices].mean()),
            "success": float(np.mean(known)) if len(known) == len(indices) else None,
        }
    rates: list[float | None] = [one["success"] for one in tasks.values()]
    known_rates = [rate for rate in rates if rate is not None]
    overall = {
        "return_mean": float(np.mean([one["return_mean"] for one in tasks.values()])),
        "success": float(np.mean(known_rates)) if len(known_rates) == len(rates) else None,
    }
    return {"overall": overall, "tasks": tasks}
