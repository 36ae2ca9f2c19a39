"""Embeddings that episodes are played with: drawn from N(0, 1), or from what is known of the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FromTask = Callable[[int], Tensor]
"""An environment's number -> an embedding [embedding_dim] of its task."""


class EpisodeEmbeddings:
    """An embedding for the episode under way in each of N environments; a checkpoint keeps them.

    Args:
        count: N.
        embedding_dim: of each.
        seed: of those drawn from N(0, 1), together with the environment's place and the number of its episode.
    """

    def __init__(self, count: int, embedding_dim: int, seed: int) -> None:
        self.values = torch.zeros(count, embedding_dim)
        self.from_prior = np.zeros(count, np.bool_)
        self._episode = np.zeros(count, np.int64)  # that each value belongs to, from 1
        self._seed = seed

    def renew(
        self,
        begun: npt.NDArray[np.int64],
        from_prior: Callable[[int, int], bool],
        from_task: FromTask,
    ) -> None:
        """Draw embeddings where a new episode has begun.

        ``begun`` int64 [N] counts episodes; ``from_prior(environment, episode)`` says which are drawn from N(0, 1).
        """
        for row in np.flatnonzero(begun != self._episode).tolist():
            episode = int(begun[row])
            self.from_prior[row] = from_prior(row, episode)
            self.values[row] = self._random(row, episode) if self.from_prior[row] else from_task(row)
            self._episode[row] = episode

    def _random(self, row: int, episode: int) -> Tensor:
        key = np.random.SeedSequence([self._seed, row, episode])
        drawn = np.random.Generator(np.random.Philox(key)).standard_normal(self.values.shape[1], np.float32)
        return torch.from_numpy(drawn)

    def state_dict(self) -> dict[str, Any]:
        """All embeddings, and the episodes that they belong to."""
        return {
            "values": self.values.clone(),
            "from_prior": self.from_prior.copy(),
            "episode": self._episode.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of :meth:`state_dict`."""
        self.values = torch.as_tensor(state["values"]).clone()
        self.from_prior = np.asarray(state["from_prior"]).astype(np.bool_)
        self._episode = np.asarray(state["episode"]).astype(np.int64)
