"""Continuous skills (the ablation without vector quantisation) as what the policy learns to regress."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from goskill.data import EpisodeStore
from goskill.methods.go_skill.labelling import embed_store
from goskill.methods.go_skill.networks import GoSkillNetworks
from goskill.training import Batch, Sampler


class ContinuousContexts:
    """Batches of a ``ContextSampler`` with the skill vectors of their decision points added.

    ``skills`` float32 [B, K, E] and ``prompt_skills`` [B, P, E]; rows that are padding hold some vector. The
    vectors of all steps are computed once and kept in memory: 4·E bytes a step.
    """

    def __init__(self, contexts: Sampler, store: EpisodeStore, networks: GoSkillNetworks) -> None:
        self._contexts = contexts
        self._horizon = networks.settings.horizon
        self._table = embed_store(networks, store)
        self._first = torch.from_numpy(store.episode_start.copy())
        self._length = torch.from_numpy(store.episode_length.copy())

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._contexts:
            yield {**batch, **self._skills(batch)}

    def state_dict(self) -> dict[str, int]:
        return self._contexts.state_dict()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._contexts.load_state_dict(state)

    def _skills(self, batch: Batch) -> Batch:
        skills = {"skills": self._vectors(batch["episode"], batch["start"], batch["mask"])}
        if "prompt_mask" in batch:
            episode, mask = batch["prompt_episode"], batch["prompt_mask"]
            length = self._length[episode]
            last = (length - self._horizon).clamp(min=0)
            start = last - (mask.shape[1] - 1) * self._horizon
            skills["prompt_skills"] = self._vectors(episode, start, mask)
        return skills

    def _vectors(self, episode: Tensor, start: Tensor, mask: Tensor) -> Tensor:
        times = start[:, None] + self._horizon * torch.arange(mask.shape[1])
        return self._table[self._first[episode][:, None] + times.clamp(min=0)]
