"""From flat arrays of transitions to whole episodes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.convert.ends import FLAGS, Flags
from goskill.data.episode import CheckedBlock, CheckedEpisode
from goskill.errors import InputError, StoreError

try:  # several times as fast
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

Array = npt.NDArray[Any]
# A value that was computed twice, or stored in another type, differs by a few units in the last place.
_ROUNDING = 8


@dataclass(frozen=True, eq=False)
class SourceEpisode:
    """One checked episode and ``where`` it came from, for messages. Equal ``digest`` (96 bits): equal columns.

    ``continues``: in the source it is one episode with the one before it, which was cut there. ``task``: where what
    is read at once holds several.
    """

    where: str
    content: CheckedEpisode
    digest: int
    continues: bool = False
    task: str | None = None

    @classmethod
    def of(
        cls,
        where: str,
        observations: Array,
        actions: Array,
        rewards: Array,
        success: Array | None = None,
        continues: bool = False,
        columns: Mapping[str, Array] | None = None,
        task: str | None = None,
    ) -> SourceEpisode:
        """From arrays [T + 1, …], [T, …], [T] and [T]. StoreError says where they came from, and what is wrong."""
        with named(where):
            content = CheckedEpisode.of(observations, actions, rewards, success, columns=columns)
        known = digest(content.observations, content.actions, content.rewards)
        return cls(where, content, known, continues, task)


@dataclass(frozen=True, eq=False)
class SourceBlock:
    """Checked episodes of one length: the file they came from, their numbers there, and their tasks."""

    file: str
    numbers: Sequence[int]
    tasks: Sequence[str]
    content: CheckedBlock

    @property
    def where(self) -> str:
        return f"{self.file}: episodes {self.numbers[0]} to {self.numbers[-1]}"

    def digests(self) -> Iterator[tuple[str, int]]:
        """Where each episode came from, and what it is known by: its :func:`digest`."""
        block = self.content
        columns = [_bytes(rows) for rows in (block.observations, block.actions, block.rewards)]
        sizes = [len(column) // len(self.numbers) for column in columns]
        for place, number in enumerate(self.numbers):
            known = 0
            for column, size in zip(columns, sizes, strict=True):
                known = known << 32 | crc32(column[place * size : (place + 1) * size])
            yield f"{self.file}: episode {number}", known


@contextlib.contextmanager
def named(where: str) -> Iterator[None]:
    """An InputError becomes a StoreError that says where."""
    try:
        yield
    except StoreError:
        raise
    except InputError as error:
        raise StoreError(f"{where}: {error}") from error


def digest(observations: Array, actions: Array, rewards: Array) -> int:
    """What tells an episode apart from others: three checksums of 32 bits."""
    known = 0
    for column in (observations, actions, rewards):
        known = known << 32 | crc32(_bytes(column))
    return known


def _bytes(column: Array) -> memoryview:
    return np.ascontiguousarray(column).data.cast("B")


@dataclass(frozen=True)
class Content:
    """What was read at once: episodes, and what was odd about them."""

    episodes: list[SourceEpisode]
    # What was cut where the next observation is not the next row, although no episode ends there, and how often.
    split: list[str] = field(default_factory=list)
    # What lost last steps, since nothing says what followed them.
    shortened: list[str] = field(default_factory=list)
    # What has next observations that are the next rows but for rounding, and by how much they differ at most.
    rounded: list[str] = field(default_factory=list)
    # Names of the columns that the ends of episodes were read from.
    ends: list[str] = field(default_factory=list)
    # Episodes of one length, where reading them one by one would take too long.
    blocks: list[SourceBlock] = field(default_factory=list)


def joined(contents: Sequence[Content], ends: list[str]) -> Content:
    """What was read piece by piece, with ends from the columns of those names."""
    return Content(
        [episode for content in contents for episode in content.episodes],
        [what for content in contents for what in content.split],
        [what for content in contents for what in content.shortened],
        [what for content in contents for what in content.rounded],
        ends,
    )


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
    for name in FLAGS:
        if name in arrays:
            result[name] = _column(where, name, arrays, (steps,))
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


def content_of(
    where: str,
    columns: Mapping[str, Array],
    ends: Flags,
    success: Array | None = None,
    declared: Mapping[str, Array] | None = None,
    task: str | None = None,
) -> Content:
    """Cut transitions into episodes at ``ends``, and wherever the next observation is not the next row.

    Next observations are the next row if they differ by rounding alone (:func:`jumps`); the row is kept then. Without
    next observations the last step of every episode is dropped, since nothing says what follows it; the one before
    has its success. ``declared``: further values of each step, for the columns that the store declares.
    StoreError names where the transitions came from.
    """
    observations, following = columns["observations"], columns.get("next_observations")
    cuts = ends.copy()
    cuts[-1] = True
    regular, rounded = int(cuts.sum()), []
    if following is not None:
        # What follows an end is another episode's first observation.
        inside = ~cuts[:-1]
        found, differing, largest = jumps(
            observations[:-1][inside], following[:-1][inside], observations[1:][inside]
        )
        cuts[:-1][inside] = found
        if differing:
            rounded = [f"{where}: {differing} values by at most {largest:.2g}"]
    episodes, begin = [], 0
    for end in (np.flatnonzero(cuts) + 1).tolist():
        if following is not None:
            states, last = np.concatenate([observations[begin:end], following[end - 1 : end]]), end
        else:
            states, last = observations[begin:end], end - 1
        if last > begin:
            actions, rewards = columns["actions"][begin:last], columns["rewards"][begin:last]
            known = None if success is None else _success(success[begin:end], last - begin)
            continues = begin > 0 and not ends[begin - 1]
            further = {name: values[begin:last] for name, values in (declared or {}).items()}
            episode = SourceEpisode.of(where, states, actions, rewards, known, continues, further, task)
            episodes.append(episode)
        begin = end
    jumped = int(cuts.sum()) - regular
    return Content(
        episodes,
        [f"{where}: {jumped} times"] if jumped else [],
        [where] if following is None else [],
        rounded,
    )


def _success(success: Array, steps: int) -> Array:
    """Success after each of the first ``steps``, at least one; what later ones did is told of the last."""
    known: Array = success[:steps].copy()
    known[-1] = success[steps - 1 :].max()
    return known


def jumps(rows: Array, following: Array, next_rows: Array) -> tuple[Flags, int, float]:
    """Which next observations are not the next rows, and how much the others differ. All arrays are [N, D].

    Values are the same if they differ by at most eight units in the last place of the coarsest of their types and
    float32, as which they are stored: of the values themselves, of the row before (to which a difference may have
    been added), or of what is usual in the dimension (whose mean may have been taken off).
    Returns the jumps [N], and of the other rows the number of values that differ and the largest difference.
    """
    unequal = following != next_rows
    result = unequal.any(axis=1)
    if not result.any():
        return result, 0, 0.0
    floats = [column.dtype for column in (rows, following) if column.dtype.kind == "f"]
    precision = max(float(np.finfo(kind).eps) for kind in (np.dtype(np.float32), *floats))
    sizes = [np.abs(column.astype(np.float64)) for column in (rows, following, next_rows)]
    scale = np.maximum(np.maximum.reduce(sizes), np.median(sizes[2], axis=0))
    with np.errstate(invalid="ignore"):  # infinities are refused later, by name
        difference = np.abs(np.subtract(following, next_rows, dtype=np.float64))
        result = ~(difference <= _ROUNDING * precision * scale).all(axis=1)
    same = unequal & ~result[:, None]
    return result, int(same.sum()), float(difference[same].max(initial=0.0))
