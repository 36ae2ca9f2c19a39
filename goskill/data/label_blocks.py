"""Labels in the making: a store's steps in blocks, each found once and kept on disk until all are there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from goskill.data.labels import label_dtype, label_folder, label_lock
from goskill.data.store_files import read_whole, storage_errors
from goskill.errors import StoreError
from goskill.files import write_atomically

if TYPE_CHECKING:
    from goskill.data.store import EpisodeStore

BLOCK_STEPS = 1 << 18  # at most so much work is lost with a process
_UNFINISHED = ".unfinished-"
_JOINING = ".joining"
_DIGEST = hashlib.sha256().digest_size  # bytes behind a block's array
_BLOCK_HEADER = 4096  # more than what is in a block's file beside labels
Labels = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class LabelBlock:
    """Consecutive whole episodes of a store, whose ``steps`` begin with its step ``first_step``."""

    episodes: range
    first_step: int
    steps: int


class LabelBlocks:
    """The labels ``name`` of a store while they are being found.

    Any number of processes, at once or one after another, :meth:`write` blocks in any order, and one of them calls
    :meth:`join` in the end. How the store is divided depends on the store alone, so what a killed process has
    written is of use to the next. Blocks lie beside the label columns under a name that readers do not see; they
    are of this very data, and blocks of data that has since grown are removed.
    """

    def __init__(self, store: EpisodeStore, name: str, num_classes: int) -> None:
        self.blocks = _divide(store)
        self._store = store
        self._name = name
        self._num_classes = num_classes
        self._dtype = label_dtype(num_classes)
        self._labels = label_folder(store.labels_root, name).parent
        self._folder = self._labels / f"{_UNFINISHED}{name}-{store.data_checksum[:16]}"

    def joined(self) -> bool:
        """Whether the labels are there as a whole already."""
        try:
            self._store.labels(self._name)
        except StoreError:
            return False
        return True

    def read(self, block: LabelBlock) -> Labels | None:
        """The labels of a block, or None if nobody has written them or they are damaged."""
        limit = block.steps * self._dtype.itemsize + _BLOCK_HEADER
        try:
            contents = read_whole(self._file(block), limit, "labels")
            array, checksum = contents[:-_DIGEST], contents[-_DIGEST:]
            if hashlib.sha256(array).digest() != checksum:
                return None
            labels = np.load(io.BytesIO(array), allow_pickle=False)
        except (OSError, ValueError, EOFError):  # a StoreError is a ValueError
            return None
        fits = isinstance(labels, np.ndarray) and labels.dtype == self._dtype
        return labels if fits and labels.shape == (block.steps,) else None

    def write(self, block: LabelBlock, labels: npt.NDArray[np.integer[Any]]) -> None:
        """Keep the labels [steps] of a block. Raises StoreError if they cannot be written."""
        contents = io.BytesIO()
        np.save(contents, labels.astype(self._dtype))
        with storage_errors(self._folder):
            array = contents.getvalue()
            write_atomically(self._file(block), array + hashlib.sha256(array).digest())

    def join(self) -> None:
        """Make one column of all blocks, unless another process has done so, and remove them.

        Raises StoreError if a block is missing or the column cannot be written.
        """
        if self.joined() and not any(self._labels.glob(f"{_UNFINISHED}*")):
            return  # the folder may be one to read only
        with self._alone():
            if not self.joined():
                self._store.write_labels(self._name, self._in_order(), self._num_classes)
            shutil.rmtree(self._folder, ignore_errors=True)
            for folder in self._labels.glob(f"{_UNFINISHED}*"):
                if not folder.name.endswith(self._store.data_checksum[:16]):
                    shutil.rmtree(folder, ignore_errors=True)

    def _in_order(self) -> Iterator[Labels]:
        for block in self.blocks:
            labels = self.read(block)
            if labels is None:
                raise StoreError(f"{self._file(block)}: is missing or damaged; label again")
            yield labels

    def _file(self, block: LabelBlock) -> Path:
        return self._folder / f"{block.first_step:012d}.npy"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with storage_errors(self._labels):
            lock = label_lock(self._labels, _JOINING)
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _divide(store: EpisodeStore) -> list[LabelBlock]:
    block = store.episode_start // BLOCK_STEPS
    bounds = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), store.num_episodes]
    return [
        LabelBlock(
            range(first, last), int(store.episode_start[first]), int(store.episode_length[first:last].sum())
        )
        for first, last in pairwise(bounds)
        if last > first
    ]
