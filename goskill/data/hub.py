"""Public datasets by name, from huggingface.co. Needs huggingface_hub."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from goskill.data.convert.converters import check_options, convert
from goskill.data.convert.copying import Member, finished_members
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.tdmpc2 import chosen_tasks
from goskill.data.store import EpisodeStore
from goskill.data.store_files import MANIFEST, open_regular, storage_errors
from goskill.errors import InputError, StoreError, closest, optional

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PublicDataset:
    """Where a dataset lies: its repository, which files hold episodes, and which further ones describe them."""

    repository: str
    files: str
    layout: str
    about: str
    further: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)  # of its conversion


def _robomimic() -> dict[str, PublicDataset]:
    released = {
        "ph": ("lift", "can", "square", "transport", "tool_hang"),
        "mh": ("lift", "can", "square", "transport"),
    }
    people = {"ph": "one proficient human", "mh": "several humans"}
    return {
        f"robomimic-{task.replace('_', '-')}-{kind}": PublicDataset(
            "robomimic/robomimic_datasets",
            f"v1.5/{task}/{kind}/low_dim_v15.hdf5",
            "robomimic",
            f"robomimic {task}, demonstrations by {people[kind]} (MIT)",
        )
        for kind, tasks in released.items()
        for task in tasks
    }


DATASETS: Mapping[str, PublicDataset] = {
    "tdmpc2-mt30": PublicDataset(
        "nicklashansen/tdmpc2", "mt30/*.pt", "tdmpc2", "TD-MPC2, 345M steps of 30 DMControl tasks (MIT)"
    ),
    "tdmpc2-mt80": PublicDataset(
        "nicklashansen/tdmpc2",
        "mt80/*.pt",
        "tdmpc2",
        "TD-MPC2, 545M steps of 30 DMControl and MetaWorld's 50 tasks (MIT)",
    ),
    "metaworld-mt50": PublicDataset(
        "lerobot/metaworld_mt50",
        "data/chunk-*/file-*.parquet",
        "lerobot",
        "LeRobot, 50 scripted episodes of each of MetaWorld's 50 tasks (Apache 2.0)",
        "meta/*",
    ),
    **_robomimic(),
}


def download(
    name: str,
    folder: str | os.PathLike[str],
    store: str | os.PathLike[str] | None = None,
    keep: bool = True,
    tasks: Sequence[str] | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> ConversionReport | None:
    """Download a dataset of :data:`DATASETS` into a folder, and convert it into a store if one is given.

    An interrupted call goes on, in the middle of a file as well. Files are held to the checksums that the repository
    lists. With a store, each file is converted before the next one comes; without ``keep`` it is removed then, so that
    one file at a time takes room. The store remembers the repository's revision, and goes on with that one.
    ``tasks``: only these are converted, where the layout has such an option. ``progress`` is called with (files done,
    files).

    Returns the conversion's report, if there is a store. Raises InputError without huggingface_hub, for an unknown
    name and when the Hub cannot be reached; StoreError for a file whose checksum does not hold, and as the conversion
    does.
    """
    if name not in DATASETS:
        raise InputError(
            f"name: expected a dataset that is known here, got {name!r:.80}; {closest(name, DATASETS)}"
        )
    if not keep and store is None:
        raise InputError("keep: expected a store to convert into when the files are not kept, got none")
    dataset, target = DATASETS[name], Path(folder)
    _check_tasks(dataset, tasks, store)
    hub = _Hub(name, dataset, target, None if store is None else _revision(name, Path(store)))
    for file in hub.matching(dataset.further):
        hub.fetch(file)
    report, files = None, hub.matching(dataset.files)
    if not files:
        raise InputError(f"{name}: found no files {dataset.files} in {dataset.repository}")
    done = finished_members(store) if store is not None else set()
    if store is not None and done and EpisodeStore.open(store).unfinished:
        done -= {files[-1]}  # which takes back that the store is unfinished
    for number, file in enumerate(files, start=1):
        if file not in done:
            local = hub.fetch(file)
            if store is not None:
                member = Member(file, number == len(files), _origin(name, dataset, hub.revision))
                source = target if dataset.further else local
                options = {**dataset.options, "tasks": tasks, "member": member}
                report = convert(dataset.layout, source, store, workers, **options)
            if not keep:
                local.unlink()
        if progress is not None:
            progress(number, len(files))
    if not keep:
        hub.remove()
    return report if report is not None or store is None else ConversionReport.read(Path(store))


def _check_tasks(
    dataset: PublicDataset, tasks: Sequence[str] | None, store: str | os.PathLike[str] | None
) -> None:
    """InputError for tasks that the conversion would refuse: before anything is downloaded."""
    if tasks is None:
        return
    if store is None:
        raise InputError("tasks: expected a store to convert them into, got none: all files are downloaded")
    check_options(dataset.layout, {"tasks": tasks})
    if dataset.layout == "tdmpc2":
        chosen_tasks(tasks)


def _origin(name: str, dataset: PublicDataset, revision: str) -> dict[str, Any]:
    return {"source": f"hf://datasets/{dataset.repository}", "dataset": name, "revision": revision}


def _revision(name: str, store: Path) -> str | None:
    """The revision that a store was begun with. StoreError if it holds something else."""
    if not (store / MANIFEST).exists():
        return None
    origins = EpisodeStore.open(store).provenance
    revisions = {origin.get("revision") for origin in origins if origin.get("dataset") == name}
    if not origins:
        return None
    if len(revisions) != 1 or len(origins) != 1 or not isinstance(revision := revisions.pop(), str):
        raise StoreError(f"{store}: holds other data than {name}")
    return revision


class _Hub:
    """The files of one revision of a repository, and their checksums."""

    def __init__(self, name: str, dataset: PublicDataset, folder: Path, revision: str | None) -> None:
        self._name, self._dataset, self._folder = name, dataset, folder
        self._hub = optional("huggingface_hub", "downloads need", "'goskill[hub]'")
        with self._reaching():
            info = self._hub.HfApi().dataset_info(dataset.repository, revision=revision, files_metadata=True)
        self.revision = str(info.sha)
        self._files = {str(file.rfilename): file for file in info.siblings or []}
        self._fetched: list[Path] = []

    def matching(self, pattern: str) -> list[str]:
        """Names of files, by the numbers in them."""
        return sorted(fnmatch.filter(self._files, pattern), key=_by_numbers) if pattern else []

    def fetch(self, name: str) -> Path:
        """Download a file unless it is there; its path. StoreError if it is not what the repository lists."""
        with self._reaching():
            path = Path(
                self._hub.hf_hub_download(
                    self._dataset.repository,
                    name,
                    repo_type="dataset",
                    revision=self.revision,
                    local_dir=self._folder,
                )
            )
        if not self._holds(path, self._files[name]):
            path.unlink(missing_ok=True)
            raise StoreError(
                f"{path}: its checksum is not what {self._dataset.repository} lists: removed, run again"
            )
        self._fetched.append(path)
        return path

    def remove(self) -> None:
        """Remove all files that were fetched, and the folders that are empty then."""
        for path in self._fetched:
            path.unlink(missing_ok=True)
        shutil.rmtree(self._folder / ".cache" / "huggingface", ignore_errors=True)
        folders = {
            parent for path in self._fetched for parent in path.parents if self._folder in parent.parents
        }
        for folder in sorted({*folders, self._folder / ".cache", self._folder}, reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _holds(self, path: Path, listed: Any) -> bool:
        """Whether a file has the listed SHA-256, or that of git for files that lie in the repository itself."""
        lfs = listed.lfs
        expected = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
        with storage_errors(path), open_regular(path) as file:
            if expected is not None:
                digest = hashlib.sha256()
            else:
                digest, expected = hashlib.sha1(usedforsecurity=False), listed.blob_id
                digest.update(f"blob {os.fstat(file.fileno()).st_size}\0".encode())
            while block := file.read(1 << 20):
                digest.update(block)
        return bool(digest.hexdigest() == expected)

    def _reaching(self) -> AbstractContextManager[None]:
        return reaching(f"{self._name}: cannot be downloaded from")


@contextlib.contextmanager
def reaching(what: str) -> Iterator[None]:
    """Whatever goes wrong within becomes an InputError that begins with ``what``."""
    try:
        yield
    except InputError:
        raise
    # Which errors there are changes with the library beneath, and not all are OSErrors.
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"{what} huggingface.co: {reason}") from error


def _by_numbers(name: str) -> str:
    """Sorts chunk_2 before chunk_10."""
    return re.sub("[0-9]+", lambda found: found.group().zfill(12), name)
