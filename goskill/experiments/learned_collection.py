"""Collecting what agents experience while they learn: soft actor-critic on each task of a suite."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goskill.errors import InputError

if TYPE_CHECKING:
    from goskill.data import EpisodeStore
    from goskill.envs.suite import Suite

PathLike = str | Path


def collect_learning(
    out: PathLike,
    *,
    suite: str | Suite,
    tasks: Sequence[str] = (),
    episodes: int = 40,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    seed: int = 0,
) -> EpisodeStore:
    """Train soft actor-critic on tasks of a suite, and keep everything that it experiences as the store ``out``.

    ``episodes`` is how many an agent lives through, of the suite's number of steps. The run is in ``out`` with ``-run``
    behind its name, to watch, resume and evaluate; called again, it goes on where it was, also after SIGKILL. The store
    appears as a whole when the run ends: its episodes in the order in which they ended.

    Raises InputError for wrong arguments, and an ``out`` that is there and is not what this would make.
    """
    from goskill.data import EpisodeStore
    from goskill.envs.suite_registry import find_suite
    from goskill.experiments.runs import read_settings, settings_of
    from goskill.experiments.train import train
    from goskill.methods import Sources
    from goskill.training import RunFolder, Trainer

    path = Path(out)
    run = RunFolder(path.with_name(f"{path.name}-run"))
    if path.exists():
        return _there(path)
    found = find_suite(suite)
    chosen = read_settings("mt10", overrides, method="sac").method
    steps = episodes * found.max_steps / chosen.environments_per_task
    iterations = int((steps - chosen.warmup_steps) * chosen.updates_per_step)
    if iterations < 1:
        raise InputError(
            f"episodes: expected more than {chosen.warmup_steps} steps of each environment, which are random, "
            f"got {episodes} episodes of {found.max_steps}"
        )
    train(
        None,
        run.path,
        method="sac",
        overrides=[
            *overrides,
            f"method.iterations={iterations}",
            "method.keep_experience=true",
            f"training.seed={seed}",
        ],
        resume=True,
        suite=suite,
        tasks=tasks,
        workers=workers,
    )
    # The episodes under way at the end are in the last checkpoint.
    settings = settings_of(run)
    names = tuple(settings.method.tasks)
    sources = Sources(suite=found, tasks=names, workers=workers, folder=run.made)
    learner: Any = settings.entry.method.create(settings.method, sources, settings.training)
    Trainer(learner, run, settings.training, progress=False).train(resume=True)
    learner.collector.close()
    learner.experience.finish()
    os.rename(learner.experience.path, path)
    return EpisodeStore.open(path)


def _there(path: Path) -> EpisodeStore:
    from goskill.data import EpisodeStore

    store = EpisodeStore.open(path)
    if store.unfinished or any(origin.get("source") != "sac" for origin in store.provenance):
        raise InputError(f"{path}: exists already, and is not the experience of learning agents")
    return store
