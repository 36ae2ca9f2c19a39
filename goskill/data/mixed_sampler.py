"""Batches that are drawn from several places: stores, replay buffers, or both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from goskill.data.loading import refuse_workers
from goskill.data.replay import ReplaySampler
from goskill.data.sampler import Batch, StoreSampler
from goskill.errors import InputError


class MixedSampler:
    """The batches of several samplers as one, behind one another; an endless iterator.

    Each sampler's batch size is its share: real and imaginary transitions half and half are two samplers of 640. A
    batch holds what all of them give (start and episode of a store, say, are not among what a replay buffer gives),
    and ``source`` int64 [B], the place of the sampler that a sample came from. Task indices are those of each
    sampler's own store. The workers of a DataLoader cannot read it.

    Raises InputError for no samplers, or samplers of which some are resident and some are not.
    """

    def __init__(self, samplers: Sequence[StoreSampler | ReplaySampler]) -> None:
        if not samplers or not all(isinstance(s, (StoreSampler, ReplaySampler)) for s in samplers):
            raise InputError(f"samplers: expected at least one sampler, got {samplers!r:.80}")
        if len({sampler.resident for sampler in samplers}) > 1:
            raise InputError(
                "samplers: expected all of them resident, as those of replay buffers are, or none"
            )
        self._samplers = list(samplers)

    @property
    def resident(self) -> bool:
        """Whether batches are gathered where the data lives."""
        return self._samplers[0].resident

    def __iter__(self) -> Iterator[Batch]:
        refuse_workers(self)
        return self

    def __next__(self) -> Batch:
        return _joined([next(sampler) for sampler in self._samplers])

    def next_places(self) -> Batch:
        """The next batch's places: what :meth:`gather` takes."""
        return {
            f"{i}.{name}": value
            for i, sampler in enumerate(self._samplers)
            for name, value in sampler.next_places().items()
        }

    def gather(self, places: Batch) -> Batch:
        """The batch of some :meth:`next_places`, without a look at the host: usable inside a CUDA graph."""
        parts: list[Batch] = [{} for _ in self._samplers]
        for key, value in places.items():
            place, _, name = key.partition(".")
            parts[int(place)][name] = value
        return _joined([sampler.gather(part) for sampler, part in zip(self._samplers, parts, strict=True)])

    def state_dict(self) -> dict[str, int]:
        """The states of all samplers."""
        return {
            f"{i}.{name}": value
            for i, sampler in enumerate(self._samplers)
            for name, value in sampler.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a state of :meth:`state_dict`. Raises InputError for anything else."""
        for i, sampler in enumerate(self._samplers):
            prefix = f"{i}."
            sampler.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})


def _joined(batches: list[Batch]) -> Batch:
    names = [name for name in batches[0] if all(name in batch for batch in batches)]
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in names}
    sizes = [len(batch[names[0]]) for batch in batches]
    device = batches[0][names[0]].device
    joined["source"] = torch.cat(
        [torch.full((size,), i, dtype=torch.int64, device=device) for i, size in enumerate(sizes)]
    )
    return joined
