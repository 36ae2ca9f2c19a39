"""The sequences of decisions that GO-Skill's policy learns from."""

from __future__ import annotations

from typing import Any

from goskill.data import ContextSampler, EpisodeStore
from goskill.data.selection import select_episodes
from goskill.methods.go_skill.settings import GoSkillSettings


def contexts(
    settings: GoSkillSettings,
    store: EpisodeStore,
    labels: str | None,
    batch_size: int,
    seed: int,
    **options: Any,
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
        seed=seed,
        **options,
    )
