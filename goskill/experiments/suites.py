"""Which suite the tasks of a store or a run are rolled out in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goskill.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from goskill.data import EpisodeStore
    from goskill.envs.suite import Suite


def choose_tasks(suite: str | Suite | None, tasks: str | None) -> list[str]:
    """The tasks of a suite, or the comma-separated ones of it, by default of MetaWorld.

    Raises InputError for unknown names, and if neither is given.
    """
    from goskill.envs.suite_registry import tasks_in

    if suite is None and tasks is None:
        raise InputError("--suite or --tasks: expected one of them, got none")
    return tasks_in(suite or "metaworld", tasks)[1]


def suite_for(
    store: EpisodeStore, given: str | Suite | None = None, *, tasks: Sequence[str] | None = None
) -> Suite:
    """The suite that ``tasks`` (by default the store's) are rolled out in.

    It is the one that is given, or that the store was collected in; a store that does not say is taken as MetaWorld's
    where its dimensions and tasks are. Its environments repeat actions as those did that the store is from. Raises
    InputError, in one line, for a suite that is not known or does not fit.
    """
    from goskill.envs.repeated import repeated
    from goskill.envs.suite import check_fits
    from goskill.envs.suite_registry import find_suite
    from goskill.rollouts.collection import suite_of_store

    named = suite_of_store(store)
    if given is not None:
        suite = find_suite(given)
    elif named is not None:
        try:
            suite = find_suite(named)
        except InputError:
            raise InputError(
                f"{store.path} is of suite {named!r}, which is not known here: give it with --suite module:attribute"
            ) from None
    else:
        suite = find_suite("metaworld")
        try:
            check_fits(suite, str(store.path), store.observation_dim, store.action_dim)
            for task in store.tasks:
                suite.task_name(task)
        except InputError as error:
            raise InputError(
                f"{store.path} does not say which suite its tasks are of: give it with --suite ({error})"
            ) from None
    check_fits(suite, str(store.path), store.observation_dim, store.action_dim)
    for task in store.tasks if tasks is None else tasks:
        suite.task_name(task)
    return repeated(suite, store.action_repeat)
