"""Continuous skills (the ablation without vector quantisation) as what the policy learns to regress."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from goskill.data import ContextSampler, EpisodeStore
from goskill.methods.go_skill.labelling import embed_store
from goskill.methods.go_skill.networks import GoSkillNetworks
from goskill.training import Batch


class ContinuousContexts:
    """Batches of a ``ContextSampler`` with the skill vectors of their decision points added.

    ``skills`` float32 [B, K, E] and ``prompt_skills`` [B, P, E]; rows that are padding hold some vector. The
    vectors of all steps are computed once and kept where the contexts are gathered: 4·E bytes a step.
    """

    def __init__(self, contexts: ContextSampler, store: EpisodeStore, networks: GoSkillNetworks) -> None:
        self._contexts = contexts
        self._horizon = networks.settings.horizon
        device = networks.normalize.mean.device if contexts.resident else torch.device("cpu")
        self._table = embed_store(networks, store).to(device)
        self._first = torch.from_numpy(store.episode_start.copy()).to(device)
        self._length = torch.from_numpy(store.episode_length.copy()).to(device)

    @property
    def resident(self) -> bool:
        """Whether batches are gathered where the data lives."""
        return self._contexts.resident

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._contexts:
            yield {**batch, **self._skills(batch)}

    def next_places(self) -> Batch:
        """Those of the contexts."""
        return self._contexts.next_places()

    def gather(self, places: Batch) -> Batch:
        """The batch of some :meth:`next_places`, without a look at the host: usable inside a CUDA graph."""
        batch = self._contexts.gather(places)
        return {**batch, **self._skills(batch)}

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
        times = start[:, None] + self._horizon * torch.arange(mask.shape[1], device=start.device)
        return self._table[self._first[episode][:, None] + times.clamp(min=0)]
