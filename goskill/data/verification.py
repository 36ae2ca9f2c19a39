"""Reading every byte of a store, and holding it to the checksums of the manifests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goskill.data.files import column_digest, storage_errors
from goskill.errors import StoreError

if TYPE_CHECKING:
    from goskill.data.store import EpisodeStore

Progress = Callable[[int, int], None]


def verify(store: EpisodeStore, progress: Progress | None = None) -> dict[str, Any]:
    """See :meth:`EpisodeStore.verify`."""
    stores, faults = [store], []
    try:
        stores += [] if store.prompts is None else [store.prompts]
    except StoreError as error:
        faults.append(str(error))
    expected: dict[Path, str] = {}
    found: set[Path] = set()
    for part in stores:
        expected |= part.column_checksums()
        found |= set(part.column_files())
    faults += [f"{file}: is not listed in the manifest" for file in sorted(found - set(expected))]
    faults += [f"{file}: is missing" for file in sorted(set(expected) - found)]
    files = sorted(found & set(expected))
    total = sum(file.stat().st_size for file in files)
    faults += _damaged({file: expected[file] for file in files}, total, progress)
    for part in stores:
        faults += _changed_since(part)
    if faults:
        raise StoreError("; ".join(faults))
    return {"files": len(files), "bytes": total}


def _damaged(expected: dict[Path, str], total: int, progress: Progress | None) -> list[str]:
    faults, done = [], 0
    for file, checksum in expected.items():
        digest, end = hashlib.sha256(), done + file.stat().st_size
        with storage_errors(file):
            for block in column_digest(file):
                digest.update(block)
                done += len(block)
                if progress is not None:
                    progress(done, total)
        done = end  # with the header, which opening checks
        if progress is not None:
            progress(done, total)
        if digest.hexdigest() != checksum:
            faults.append(f"{file}: the checksum does not hold, the data is damaged")
    return faults


def _changed_since(store: EpisodeStore) -> list[str]:
    """What lies on disk now may differ from what was opened: sizes, headers and manifests are checked again."""
    try:
        again = type(store).open(store.path)
        for name in again.label_names:
            again.label_column(name)
    except StoreError as error:
        return [str(error)]
    return []
