"""The sequences that the Prompt-DT family learns from."""

from __future__ import annotations

from typing import Any

from goskill.data import ContextSampler, EpisodeStore
from goskill.data.selection import select_episodes
from goskill.methods.prompt_dt.settings import PromptDTSettings


def contexts(
    settings: PromptDTSettings, store: EpisodeStore, batch_size: int, **options: Any
) -> ContextSampler:
    """Contexts of consecutive environment steps, whose start is uniform in [1 - context, T - context], behind the
    last steps of one of the task's demonstrations. ``options`` are those of ``ContextSampler``.
    """
    return ContextSampler(
        store,
        horizon=1,
        context=settings.context,
        prompt=settings.prompt_length,
        batch_size=batch_size,
        prompt_episodes=select_episodes(store, settings.prompts, settings.prompt_episodes),
        return_scale=settings.return_scale,
        actions=True,
        **options,
    )
