"""Whether networks, checkpoints, settings and stores fit together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from goskill.data import EpisodeStore
from goskill.errors import CheckpointError, InputError
from goskill.models import Normalize


class Sized(Protocol):
    """What has sizes of observations and actions."""

    @property
    def observation_dim(self) -> int: ...

    @property
    def action_dim(self) -> int: ...


class WithParts(Protocol):
    """Networks that checkpoints hold by name."""

    @property
    def parts(self) -> Mapping[str, nn.Module]: ...


Parted = TypeVar("Parted", bound=WithParts)


def check_dimensions(networks: Sized, store: EpisodeStore) -> None:
    """Raises InputError for a store whose observations or actions are not as large as the networks'."""
    for name in ("observation_dim", "action_dim"):
        expected, got = getattr(networks, name), getattr(store, name)
        if expected != got:
            raise InputError(f"{store.path}: expected {name} {expected} as the networks have, got {got}")


def check_trained(settings: Any, trained: Any, free: Collection[str]) -> None:
    """Raises InputError unless both settings dataclasses agree in everything but the settings ``free``."""
    for field in fields(settings):
        own, wanted = getattr(settings, field.name), getattr(trained, field.name)
        if field.name not in free and own != wanted:
            raise InputError(f"{field.name}: expected {wanted!r} as the trained networks have, got {own!r}")


def check_lengths(store: EpisodeStore, horizon: int, max_decisions: int) -> None:
    """Raises InputError for episodes with more decisions, one every ``horizon`` steps, than the time tables have."""
    longest = int(store.episode_length.max())
    if (longest - 1) // horizon >= max_decisions:
        raise InputError(
            f"max_decisions: expected more than {(longest - 1) // horizon} for episodes of "
            f"{longest} steps, got {max_decisions}"
        )


@contextmanager
def naming_the_missing() -> Iterator[None]:
    """A network or tensor that is looked up within, and is not there, becomes a CheckpointError that names it."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"checkpoint: {error.args[0]!r} is missing") from None


def normalize_in(state: Mapping[str, Mapping[str, Tensor]], limit: float | None = None) -> Normalize:
    """How the networks of a checkpoint normalise observations. KeyError where it does not say."""
    return Normalize(state["normalize"]["mean"], state["normalize"]["std"], limit)


def loaded(networks: Parted, state: Mapping[str, Mapping[str, Tensor]]) -> Parted:
    """``networks`` with the weights of a checkpoint. Raises as :func:`load_parts`."""
    load_parts(networks.parts, state)
    return networks


def load_parts(parts: Mapping[str, nn.Module], state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Load each network's state dict. Raises CheckpointError that names a network or key that is not as expected."""
    for name in state:
        if name not in parts:
            raise CheckpointError(
                f"checkpoint: network {name!r} is not one of the method with these settings"
            )
    for name, part in parts.items():
        if name not in state:
            raise CheckpointError(f"checkpoint: network {name!r} is missing")
        load_part(part, state[name], name)


def load_part(part: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """``load_state_dict`` with errors that name network ``name`` and the key (CheckpointError)."""
    expected = part.state_dict()
    for key in [*expected, *(key for key in state if key not in expected)]:
        there = tuple(state[key].shape) if key in state else "absent"
        wanted = tuple(expected[key].shape) if key in expected else "absent"
        if there != wanted:
            raise CheckpointError(f"checkpoint: {name}.{key}: expected {wanted}, got {there}")
    part.load_state_dict(dict(state))
