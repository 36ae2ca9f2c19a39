"""What methods share that learn from the episodes of a store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from goskill.data import EpisodeStore
from goskill.errors import InputError
from goskill.methods.method import Method, Sources
from goskill.models import Normalize
from goskill.training import TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self


class StoreMethod(Method):
    """A method whose networks are one module, with the ``parts`` that a checkpoint holds.

    Args:
        settings: of the method.
        store: the training episodes. None: to act only, with ``networks``.
        training: seed, threads and where the data lies are used here.
        networks: trained networks, to act with or to go on from; None makes new ones.

    Raises InputError where there is neither a store nor networks.
    """

    networks: Any
    store: EpisodeStore

    def __init__(
        self,
        settings: Any,
        store: EpisodeStore | None,
        training: TrainingSettings | None = None,
        *,
        networks: Any = None,
    ) -> None:
        if store is None and networks is None:
            raise InputError("store: expected one to learn from without trained networks, got None")
        self.settings, self.networks = settings, networks
        self.training = training or TrainingSettings()

    @classmethod
    def create(cls, settings: Any, sources: Sources, training: TrainingSettings) -> Self:
        """A new method to train on a store."""
        return cls(settings, sources.episodes(), training)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        parts: Mapping[str, nn.Module] = self.networks.parts
        return parts


class FineTunableStoreMethod(StoreMethod):
    """One whose networks go on with the episodes of other tasks."""

    @classmethod
    def fine_tuned_settings(cls, settings: Any, iterations: int) -> Any:
        """The whole network goes on for ``iterations``."""
        return replace(settings, iterations=iterations)

    def fine_tune(self, settings: Any, sources: Sources, training: TrainingSettings) -> Self:
        """Go on with this one's networks on the episodes of other tasks."""
        return type(self)(settings, sources.episodes(), training, networks=self.networks)


def normalize_of(store: EpisodeStore, limit: float | None = None) -> Normalize:
    """Observations by mean and standard deviation of all the store's episodes."""
    found = store.normalization()
    return Normalize(torch.as_tensor(found.mean), torch.as_tensor(found.std), limit)
