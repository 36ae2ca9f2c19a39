"""The policy of a run, to drive in any loop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from goskill.errors import InputError
from goskill.experiments import sharing
from goskill.experiments.run_prompts import prompts_of
from goskill.experiments.runs import Choice, load_method, method_name

if TYPE_CHECKING:
    from goskill.rollouts.policy import Prompts
    from goskill.rollouts.staggered import StaggeredPolicy


def load_policy(
    path: str | Path,
    *,
    checkpoint: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    method: Choice | None = None,
) -> StaggeredPolicy:
    """The policy of a run folder, with the demonstrations that the run keeps as prompts.

    ``path`` may also be ``hf://USER/NAME`` or ``hf://USER/NAME@REVISION``, a run that ``goskill push`` has put on
    huggingface.co, which needs huggingface_hub. A method of your own, which is named by the module to import, is then
    to be given as ``method``: whoever wrote the repository might name any module.

    ``checkpoint`` is "newest" for a run under way, or the name of one of the run's. ``reset(tasks)`` begins an episode
    in each of ``len(tasks)`` environments, ``reset(tasks, rows=...)`` in some; ``act(observations)`` gives actions and
    ``observe(rewards)`` says what they were paid. ``method`` is the class that the run was trained with where its name
    does not say all. Raises InputError for a folder without a run and CheckpointError for one that is not finished.

    Example::

        policy = goskill.load_policy("runs/quickstart")
        policy.reset(["reach"] * 8)
        actions = policy.act(observations)
    """
    from goskill.data import EpisodeStore
    from goskill.rollouts.staggered import StaggeredPolicy
    from goskill.training import RunFolder, choose_device

    if sharing.is_address(path):
        run = RunFolder.open(sharing.fetch(str(path)))
        name = method_name(run)
        if method is None and ":" in name:
            raise InputError(f"{path}: names a module to import, {name!r:.80}: give method= if you trust it")
    else:
        run = RunFolder.open(path)
    learned = load_method(run, method, checkpoint=checkpoint)
    for module in learned.modules.values():
        module.to(choose_device(device)).eval()
    prompts: Prompts = {}
    if run.prompts.exists() and learned.prompt_episodes:
        prompts = prompts_of(EpisodeStore.open(run.prompts), learned.prompt_episodes)
    return StaggeredPolicy(learned.policy(precision), prompts)
