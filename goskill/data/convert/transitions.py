"""From flat arrays of transitions to whole episodes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.writer import StoreWriter
from goskill.errors import InputError, StoreError

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class SourceEpisode:
    """One episode: ``observations`` [T + 1, …] with the final one, ``actions`` [T, …], ``rewards`` [T]."""

    observations: Array
    actions: Array
    rewards: Array

    def digest(self) -> bytes:
        """Equal for episodes that are equal in float32."""
        digest = hashlib.blake2b(digest_size=16)
        with np.errstate(over="ignore"):
            for array in (self.observations, self.actions, self.rewards):
                digest.update(np.ascontiguousarray(array, dtype=np.float32).data)
        return digest.digest()


def columns_of(where: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The columns of an episode file by their usual names, checked against one another. StoreError names the file."""
    for name in ("observations", "actions", "rewards"):
        if name not in arrays:
            raise StoreError(f"{where}: expected the column {name!r}, got {sorted(arrays)}")
    result = {name: np.asarray(arrays[name]) for name in ("observations", "actions", "rewards")}
    if "next_observations" in arrays:
        result["next_observations"] = np.asarray(arrays["next_observations"])
    ends = next((arrays[name] for name in ("terminals", "dones") if name in arrays), None)
    length = len(result["observations"]) if result["observations"].ndim else 0
    result["ends"] = np.zeros(length, bool) if ends is None else np.asarray(ends).reshape(-1).astype(bool)
    result["rewards"] = result["rewards"].reshape(-1)
    for name, column in result.items():
        wanted = 1 if name in ("rewards", "ends") else 2
        if column.dtype.kind not in "fiub" or column.ndim != wanted or len(column) != length or length == 0:
            raise StoreError(
                f"{where}: column {name!r} has dtype {column.dtype} and shape {list(column.shape)}"
            )
    if "next_observations" in result and result["next_observations"].shape != result["observations"].shape:
        raise StoreError(f"{where}: observations and next_observations have different shapes")
    return result


def episodes_of(columns: Mapping[str, Array], ends: Array) -> tuple[list[SourceEpisode], int, int]:
    """Cut transitions into episodes at ``ends``, and wherever the next observation is not the next row.

    Returns the episodes, the number of such further cuts, and the number of steps dropped because nothing
    says what follows them (a source without next observations).
    """
    observations, following = columns["observations"], columns.get("next_observations")
    length = len(observations)
    cuts = ends.copy()
    cuts[-1] = True
    regular = int(cuts.sum())
    if following is not None:
        cuts[:-1] |= (following[:-1] != observations[1:]).any(axis=1)
    episodes, dropped, begin = [], 0, 0
    for end in (np.flatnonzero(cuts) + 1).tolist():
        if following is not None:
            states = np.concatenate([observations[begin:end], following[end - 1 : end]])
            episodes.append(
                SourceEpisode(states, columns["actions"][begin:end], columns["rewards"][begin:end])
            )
        else:
            dropped += 1
            if end - begin > 1:
                steps = slice(begin, end - 1)
                states = observations[begin:end]
                episodes.append(SourceEpisode(states, columns["actions"][steps], columns["rewards"][steps]))
        begin = end
    assert begin == length
    return episodes, int(cuts.sum()) - regular, dropped


def append_episode(writer: StoreWriter, where: str, task: str, episode: SourceEpisode) -> None:
    """Write an episode; what is wrong with it becomes a StoreError that says where it came from."""
    try:
        writer.append(
            task=task, observations=episode.observations, actions=episode.actions, rewards=episode.rewards
        )
    except StoreError:
        raise
    except InputError as error:
        raise StoreError(f"{where}: {error}") from error
