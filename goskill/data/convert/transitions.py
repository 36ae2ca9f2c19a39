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
    """One checked episode and ``where`` it came from, for messages. Equal ``digest`` (96 bits): equal columns.

    ``continues``: in the source it is one episode with the one before it, which was cut there.
    """

    where: str
    content: CheckedEpisode
    digest: tuple[int, ...]
    continues: bool = False

    @classmethod
    def of(
        cls,
        where: str,
        observations: Array,
        actions: Array,
        rewards: Array,
        success: Array | None = None,
        continues: bool = False,
    ) -> SourceEpisode:
        """From arrays [T + 1, …], [T, …], [T] and [T]. StoreError says where they came from, and what is wrong."""
        try:
            content = CheckedEpisode.of(observations, actions, rewards, success)
        except InputError as error:
            raise StoreError(f"{where}: {error}") from error
        known = digest(content.observations, content.actions, content.rewards)
        return cls(where, content, known, continues)


def digest(*columns: npt.NDArray[np.float32]) -> tuple[int, ...]:
    """What tells columns apart from others."""
    return tuple(zlib.crc32(np.ascontiguousarray(column).data.cast("B")) for column in columns)


@dataclass(frozen=True)
class Content:
    """What was read at once: episodes, and what was odd about them."""

    episodes: list[SourceEpisode]
    # What was cut where the next observation is not the next row, although no episode ends there, and how often.
    split: list[str] = field(default_factory=list)
    shortened: list[str] = field(
        default_factory=list
    )  # what lost last steps, which nothing says the result of


def columns_of(where: str, arrays: Mapping[str, Any]) -> dict[str, Array]:
    """The columns of an episode file by their usual names, checked against one another. StoreError names the file."""
    for name in ("observations", "actions", "rewards"):
        if name not in arrays:
            names = sorted(known for known in arrays if isinstance(known, str))
            raise StoreError(f"{where}: expected the column {name!r}, got {names!r:.200}")
    observations = _column(where, "observations", arrays, (None, None))
    steps, width = observations.shape
    if steps == 0:
        raise StoreError(f"{where}: column 'observations': expected at least one step, got none")
    result = {"observations": observations}
    result["actions"] = _column(where, "actions", arrays, (steps, None))
    for name, column in result.items():
        if column.shape[1] == 0:
            raise StoreError(f"{where}: column {name!r}: expected at least one value per step, got none")
    result["rewards"] = _column(where, "rewards", arrays, (steps,))
    if "next_observations" in arrays:
        result["next_observations"] = _column(where, "next_observations", arrays, (steps, width))
    ends = next((name for name in ("terminals", "dones") if name in arrays), None)
    found = np.zeros(steps, bool) if ends is None else _column(where, ends, arrays, (steps,))
    result["ends"] = found.astype(bool)
    return result


def _column(where: str, name: str, arrays: Mapping[str, Any], shape: tuple[int | None, ...]) -> Array:
    """A column of numbers; None stands for any size, and columns of one number per step may have a second axis."""
    try:
        column = np.asarray(arrays[name])
    # Lists of unequal lengths become no array.
    except (TypeError, ValueError) as error:
        raise StoreError(f"{where}: column {name!r}: expected an array of numbers: {error}") from error
    flat = column.reshape(-1) if len(shape) == 1 else column
    fits = flat.ndim == len(shape) and all(w in (None, g) for w, g in zip(shape, flat.shape, strict=True))
    if column.dtype.kind not in "fiub" or not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise StoreError(
            f"{where}: column {name!r}: expected numbers of shape [{wanted}], "
            f"got dtype {column.dtype} and shape {list(column.shape)}"
        )
    return flat


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
            continues = begin > 0 and not ends[begin - 1]
            episodes.append(SourceEpisode.of(where, states, actions, rewards, continues=continues))
        begin = end
    further = int(cuts.sum()) - regular
    return Content(
        episodes,
        [f"{where}: {further} times"] if further else [],
        [where] if following is None else [],
    )
