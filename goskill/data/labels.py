"""Label columns: one class per step of a store, and the index of where each class occurs."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill import _core
from goskill.data.layout import VERSION, check_format
from goskill.data.store_files import (
    MANIFEST,
    ColumnWriter,
    column_entries,
    count_field,
    field,
    open_lock,
    publish_folder,
    read_manifest,
    remove_temporaries,
    storage_errors,
    temporary_folder,
    write_manifest,
)
from goskill.errors import InputError, StoreError

LABELS = "labels"  # the folder of labels in that of a store
LABEL_FORMAT = "goskill-labels"
_LOCK = ".lock"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CLASS_LIMIT = 1 << 24
_BLOCK = 1 << 20


def label_folder(root: Path, name: str) -> Path:
    """Where the labels of a name lie in a folder of labels. InputError for a name that is no plain file name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"labels: expected a name of letters, digits, '.', '_' and '-', got {name!r:.80}")
    return root / name


def label_names(root: Path) -> list[str]:
    """The names of the label columns in a folder of labels."""
    return (
        sorted(entry.name for entry in root.iterdir() if _NAME.fullmatch(entry.name)) if root.is_dir() else []
    )


def label_lock(root: Path, name: str) -> io.FileIO:
    """A file to be locked in a folder of labels, which is made if there is none. Raises as ``open_lock``."""
    root.mkdir(parents=True, exist_ok=True)
    return open_lock(root / name)


def may_hold_labels(root: Path) -> bool:
    """Whether this process may write into a folder of labels, or make it."""
    there = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    return os.access(there, os.W_OK | os.X_OK, effective_ids=True)


def check_labels_writable(root: Path) -> None:
    """Raise StoreError, before anything is computed, if labels cannot be written into a folder."""
    with storage_errors(root):
        label_lock(root, _LOCK).close()


def _blocks(labels: npt.ArrayLike | Iterable[npt.ArrayLike], num_steps: int) -> Iterable[npt.NDArray[Any]]:
    whole = isinstance(labels, (np.ndarray, list, tuple)) or hasattr(labels, "__array__")
    total = 0
    for block in [labels] if whole else labels:  # type: ignore[union-attr]
        array = np.asarray(block)
        if array.dtype.kind not in "iu" or array.ndim != 1:
            raise InputError(
                f"labels: expected integers [steps], got dtype {array.dtype} and shape {list(array.shape)}"
            )
        total += len(array)
        if total > num_steps:
            break
        yield from (array[begin : begin + _BLOCK] for begin in range(0, len(array), _BLOCK))
    if total != num_steps:
        got = "more" if total > num_steps else total
        raise InputError(f"labels: expected one for each of {num_steps} steps, got {got}")


@contextlib.contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """A temporary folder for new labels, which an exception removes, and the next writer if this one is killed.

    Writers of labels share a lock; whoever can have it alone knows that all temporaries there are left over.
    """
    with label_lock(folder, _LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_temporaries(folder)
        except BlockingIOError:
            pass
        fcntl.flock(lock, fcntl.LOCK_SH)
        temporary = temporary_folder(folder)
        try:
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def label_dtype(num_classes: int) -> np.dtype[Any]:
    """The least unsigned integers that hold so many classes. InputError for a number that is not supported."""
    if not 1 <= num_classes <= _CLASS_LIMIT:
        raise InputError(f"num_classes: expected 1 to {_CLASS_LIMIT}, got {num_classes}")
    return np.dtype("|u1" if num_classes <= 1 << 8 else "<u2" if num_classes <= 1 << 16 else "<u4")


def write_labels(
    root: Path,
    data_checksum: str,
    num_steps: int,
    name: str,
    labels: npt.ArrayLike | Iterable[npt.ArrayLike],
    num_classes: int,
    threads: int,
) -> None:
    """Write a label column and its class index; they appear, or replace those of the name, as a whole."""
    target = label_folder(root, name)
    if num_steps == 0:
        raise InputError("labels: the store has no steps")
    dtype = label_dtype(num_classes)
    with storage_errors(target), _unfinished(target.parent) as folder:
        column = ColumnWriter(folder, "labels", dtype.str)
        for block in _blocks(labels, num_steps):
            outside = block[(block < 0) | (block >= num_classes)]
            if len(outside):
                raise InputError(f"labels: expected values in [0, {num_classes}), got {outside[0]}")
            column.write(block)
        columns = {"labels": column.finish()}
        mapped = np.load(folder / "labels.npy", mmap_mode="r")
        order, offsets = _core.class_index(np.asarray(mapped), num_classes, threads)
        for part, values in (("order", order), ("offsets", offsets)):
            writer = ColumnWriter(folder, part, values.dtype.str)
            writer.write(values)
            columns[part] = writer.finish()
        content = {
            "format": LABEL_FORMAT,
            "version": VERSION,
            "steps": num_steps,
            "classes": num_classes,
            "width": dtype.itemsize,
            "data": data_checksum,
            "columns": columns,
        }
        write_manifest(folder / MANIFEST, content)
        if target.exists():
            replaced = temporary_folder(target.parent)
            os.rename(target, replaced / name)
            publish_folder(folder, target)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            publish_folder(folder, target)


def read_label_manifest(folder: Path, data_checksum: str, num_steps: int) -> dict[str, Any]:
    """The checked manifest of a label column. StoreError if it is damaged or of other data."""
    path = folder / MANIFEST
    content = read_manifest(path)
    check_format(path, content, LABEL_FORMAT)
    if count_field(path, content, "steps", 1) != num_steps or content.get("data") != data_checksum:
        raise StoreError(
            f"{folder}: the labels were made for other data or before episodes were added; label again"
        )
    count_field(path, content, "classes", 1)
    columns = column_entries(path, content)
    for part in ("labels", "order", "offsets"):
        if part not in columns:
            raise StoreError(f"{path}: expected the column {part!r}, got {', '.join(columns) or 'none':.80}")
    if field(path, content, "width", int) not in (1, 2, 4) or content["classes"] > _CLASS_LIMIT:
        raise StoreError(
            f"{path}: expected labels of 1, 2 or 4 bytes and at most {_CLASS_LIMIT} classes, "
            f"got {content['width']} bytes and {content['classes']} classes"
        )
    return content
