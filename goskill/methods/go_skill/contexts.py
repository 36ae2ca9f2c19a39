"""The sequences of decisions that GO-Skill's policy sees: contexts to learn from, and demonstrations as prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from goskill.data import ContextSampler, EpisodeStore
from goskill.data.selection import select_episodes
from goskill.methods.go_skill.labelling import label_episodes
from goskill.methods.go_skill.networks import GoSkillNetworks
from goskill.methods.go_skill.settings import GoSkillSettings
from goskill.methods.sequence.prompting import last_decisions
from goskill.models import Decisions
from goskill.rollouts.policy import Demonstration


def contexts(
    settings: GoSkillSettings, store: EpisodeStore, labels: str | None, batch_size: int, **options: Any
) -> ContextSampler:
    """Contexts of decision points, H steps apart, behind those of one of the task's demonstrations.

    ``labels`` is the column with their skills, None for continuous ones. ``options`` are those of ``ContextSampler``.
    """
    return ContextSampler(
        store,
        horizon=settings.horizon,
        context=settings.context,
        prompt=settings.prompt_length,
        batch_size=batch_size,
        labels=labels,
        prompt_episodes=select_episodes(store, settings.prompts, settings.prompt_episodes),
        return_scale=settings.return_scale,
        **options,
    )


def read_prompts(networks: GoSkillNetworks, demonstrations: Sequence[Demonstration]) -> Decisions:
    """The last decision points of each demonstration (``last_decisions``), [len(demonstrations), P, ...].

    Skills are labelled by the networks' own skill model.
    """
    settings = networks.settings
    return last_decisions(
        demonstrations,
        networks.policy_input(label_episodes(networks, list(demonstrations))),
        networks.normalize,
        length=settings.prompt_length,
        horizon=settings.horizon,
        return_scale=settings.return_scale,
    )
