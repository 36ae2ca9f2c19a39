"""The trained policies that come with the package: a folder each, as ``goskill export`` writes them."""

from __future__ import annotations

import shutil
from pathlib import Path

from goskill.errors import InputError, closest
from goskill.experiments.export import ORIGIN
from goskill.files import read_bytes

FOLDER = Path(__file__).parent


def pretrained_names() -> list[str]:
    """Their names."""
    return sorted(file.parent.name for file in FOLDER.glob(f"*/{ORIGIN}"))


def copy_pretrained(name: str, folder: str | Path) -> Path:
    """Copy one to ``folder``, where results can lie beside it; a copy of it that is there already is left alone.

    Raises InputError for an unknown name, and for a folder that holds something else or an older one.
    """
    if name not in pretrained_names():
        raise InputError(f"unknown pretrained policy {name!r}: {closest(name, pretrained_names())}")
    source, target = FOLDER / name, Path(folder)
    if target.exists():
        there = target / ORIGIN
        if not there.is_file() or read_bytes(there) != read_bytes(source / ORIGIN):
            raise InputError(
                f"{target} exists already and is not this policy: remove it, or give another folder"
            )
        return target
    unfinished = target.parent / f".copying-{target.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(
        source, unfinished, copy_function=shutil.copyfile
    )  # without the modes of what was installed
    unfinished.rename(target)
    return target
