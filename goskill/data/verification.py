"""Reading every byte of a store, and holding it to the checksums of the manifests."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goskill.data.store_files import column_digest, size_of, storage_errors
from goskill.errors import StoreError

if TYPE_CHECKING:
    from goskill.data.store import EpisodeStore

Progress = Callable[[int, int], None]


def verify(store: EpisodeStore, progress: Progress | None = None) -> dict[str, Any]:
    """See :meth:`EpisodeStore.verify`."""
    faults: list[str] = []
    stores = [store]
    with _noted(faults):
        prompts = store.prompts
        stores += [] if prompts is None else [prompts]
    expected: dict[Path, str] = {}
    found: set[Path] = set()
    for part in stores:
        listed, there = _columns(part, faults)
        expected |= listed
        found |= there
    faults += [f"{file}: is not listed in the manifest" for file in sorted(found - set(expected))]
    faults += [f"{file}: is missing" for file in sorted(set(expected) - found)]
    files = _with_sizes(sorted(found & set(expected)), faults)
    _read(files, expected, faults, progress)
    for part in stores:
        _open_again(part, faults)
    if faults:
        raise StoreError("; ".join(dict.fromkeys(faults)))
    return {"files": len(files), "bytes": sum(files.values())}


@contextlib.contextmanager
def _noted(faults: list[str]) -> Iterator[None]:
    """What is wrong with one thing is noted, and the next one is looked at."""
    try:
        yield
    except StoreError as error:
        faults.append(str(error))


def _columns(store: EpisodeStore, faults: list[str]) -> tuple[dict[Path, str], set[Path]]:
    """The checksums of the columns that the manifests list, and the files that are there."""
    expected, found = store.shard_checksums(), set(store.shard_files())
    for name in store.label_names:
        # Of a label without a manifest nothing says which files belong to it.
        with _noted(faults):
            expected |= store.label_checksums(name)
            found |= set(store.label_files(name))
    return expected, found


def _with_sizes(files: list[Path], faults: list[str]) -> dict[Path, int]:
    """The bytes of those files that can be reached."""
    sizes = {}
    for file in files:
        with _noted(faults):
            sizes[file] = size_of(file)
    return sizes


def _read(
    sizes: dict[Path, int], expected: dict[Path, str], faults: list[str], progress: Progress | None
) -> None:
    """Note those files that cannot be read, or whose checksum does not hold."""
    end, total = 0, sum(sizes.values())
    for file, size in sizes.items():
        done, digest = end, hashlib.sha256()
        end += size  # with the header, which opening checks
        with _noted(faults), storage_errors(file):
            for block in column_digest(file):
                digest.update(block)
                done += len(block)
                if progress is not None:
                    progress(done, total)
            if digest.hexdigest() != expected[file]:
                faults.append(f"{file}: the checksum does not hold, the data is damaged")
        if progress is not None:
            progress(end, total)


def _open_again(store: EpisodeStore, faults: list[str]) -> None:
    """What lies on disk now may differ from what was opened: sizes, headers and manifests are checked again."""
    with _noted(faults):
        again = type(store).open(store.path, labels=store.labels_folder)
        for name in again.label_names:
            with _noted(faults):
                again.label_column(name)
