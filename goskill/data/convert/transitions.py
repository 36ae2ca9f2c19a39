"""From flat arrays of transitions to whole episodes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.episode import CheckedEpisode
from goskill.errors import InputError, StoreError

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class SourceEpisode:
    """One checked episode and ``where`` it came from, for messages. Equal ``digest`` (96 bits): equal columns."""

    where: str
    content: CheckedEpisode
    digest: tuple[int, ...]

    @classmethod
    def of(
        cls,
        where: str,
        observations: Array,
        actions: Array,
        rewards: Array,
        success: Array | None = None,
    ) -> SourceEpisode:
        """From arrays [T + 1, …], [T, …], [T] and [T]. StoreError says where they came from, and what is wrong."""
        try:
            content = CheckedEpisode.of(observations, actions, rewards, success)
        except InputError as error:
            raise StoreError(f"{where}: {error}") from error
        return cls(where, content, digest(content.observations, content.actions, content.rewards))


def digest(*columns: npt.NDArray[np.float32]) -> tuple[int, ...]:
    """What tells columns apart from others."""
    return tuple(zlib.crc32(np.ascontiguousarray(column).data.cast("B")) for column in columns)


@dataclass(frozen=True)
class Content:
    """What was read at once: episodes, and what was odd about them."""

    episodes: list[SourceEpisode]
    cuts: int = 0  # where the next observation is not the next row, although no episode ends there
    split: list[str] = field(default_factory=list)  # what was cut there, and how often
    shortened: list[str] = field(
        default_factory=list
    )  # what lost last steps, which nothing says the result of


def columns_of(where: str, arrays: Mapping[str, Any]) -> dict[str, Array]:
    """The columns of an episode file by their usual names, checked against one another. StoreError names the file."""
    try:
        return _columns_of(where, arrays)
    # Lists of unequal lengths and text become no arrays of numbers.
    except (TypeError, ValueError) as error:
        raise StoreError(f"{where}: {error}") from error


def _columns_of(where: str, arrays: Mapping[str, Any]) -> dict[str, Array]:
    for name in ("observations", "actions", "rewards"):
        if name not in arrays:
            raise StoreError(f"{where}: expected the column {name!r}, got {sorted(map(str, arrays))}")
    result = {name: np.asarray(arrays[name]) for name in ("observations", "actions", "rewards")}
    if "next_observations" in arrays:
        result["next_observations"] = np.asarray(arrays["next_observations"])
    ends = next((arrays[name] for name in ("terminals", "dones") if name in arrays), None)
    length = len(result["observations"]) if result["observations"].ndim else 0
    result["ends"] = np.zeros(length, bool) if ends is None else np.asarray(ends).reshape(-1)
    result["rewards"] = result["rewards"].reshape(-1)
    for name, column in result.items():
        wanted = 1 if name in ("rewards", "ends") else 2
        if column.dtype.kind not in "fiub" or column.ndim != wanted or len(column) != length or length == 0:
            raise StoreError(
                f"{where}: column {name!r} has dtype {column.dtype} and shape {list(column.shape)}"
            )
    if "next_observations" in result and result["next_observations"].shape != result["observations"].shape:
        raise StoreError(f"{where}: observations and next_observations have different shapes")
    result["ends"] = result["ends"].astype(bool)
    return result


def content_of(where: str, columns: Mapping[str, Array], ends: Array) -> Content:
    """Cut transitions into episodes at ``ends``, and wherever the next observation is not the next row.

    Without next observations the last step of every episode is dropped, since nothing says what follows it.
    StoreError names where the transitions came from.
    """
    observations, following = columns["observations"], columns.get("next_observations")
    cuts = ends.copy()
    cuts[-1] = True
    regular = int(cuts.sum())
    if following is not None:
        jumps = following[:-1] != observations[1:]
        if jumps.any():
            cuts[:-1] |= jumps.any(axis=1)
    episodes, begin = [], 0
    for end in (np.flatnonzero(cuts) + 1).tolist():
        if following is not None:
            states, last = np.concatenate([observations[begin:end], following[end - 1 : end]]), end
        else:
            states, last = observations[begin:end], end - 1
        if last > begin:
            actions, rewards = columns["actions"][begin:last], columns["rewards"][begin:last]
            episodes.append(SourceEpisode.of(where, states, actions, rewards))
        begin = end
    further = int(cuts.sum()) - regular
    return Content(
        episodes,
        further,
        [f"{where}: {further} times"] if further else [],
        [where] if following is None else [],
    )
