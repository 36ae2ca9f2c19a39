"""Compiled MuJoCo models, shared between the environments of a task and kept on disk between runs."""

from __future__ import annotations

import contextlib
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from goskill.envs.metaworld.fast_data import Snapshot


class SharedModel:
    """A compiled model for all environments of one task in one thread, and the state after a hand reset.

    MetaWorld moves bodies and sites in the model at a reset, so each environment keeps its own positions and
    puts them in when its turn comes.
    """

    def __init__(self, path: str, textures: bool) -> None:
        self.model = mujoco.MjModel.from_xml_path(path) if textures else load_without_textures(path)
        self.body_pos: npt.NDArray[np.float64] = self.model.body_pos
        self.site_pos: npt.NDArray[np.float64] = self.model.site_pos
        self.compiled = (self.body_pos.copy(), self.site_pos.copy())
        self.user: object = None
        self.hand_reset: tuple[Any, Snapshot] | None = None


class Models:
    """The compiled models of a set of environments that are used from one thread."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, bool], SharedModel] = {}

    def get(self, path: str, textures: bool) -> SharedModel:
        """The model of an XML file, compiled at first use; ``textures`` are only needed for pictures."""
        key = path, textures
        if key not in self._models:
            self._models[key] = SharedModel(path, textures)
        return self._models[key]


def load_without_textures(path: str) -> mujoco.MjModel:
    """The model of an XML file, from the cache on disk (`cache_folder`) or compiled and put there.

    Compiling takes ten times as long as loading, nearly all of it spent on meshes.
    """
    cached = (
        cache_folder() / f"mujoco-models-{_fingerprint(str(_assets_of(path)))}" / f"{Path(path).stem}.mjb"
    )
    if os.path.exists(cached):
        with contextlib.suppress(ValueError):
            return mujoco.MjModel.from_binary_path(str(cached))
    specification = mujoco.MjSpec.from_file(path)
    for texture in list(specification.textures):
        texture.delete()
    for material in specification.materials:
        material.textures = [""] * len(material.textures)
    model = specification.compile()
    # The cache saves time; where it cannot be written, work goes on without it.
    with contextlib.suppress(OSError):
        _write(cached, model)
    return model


def cache_folder() -> Path:
    """Where compiled models are kept: ``$GOSKILL_CACHE``, or ``goskill`` in the user's cache folder.

    About 15 MB per task. The folder can be deleted at any time.
    """
    chosen = os.environ.get("GOSKILL_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "goskill"


def _assets_of(path: str) -> Path:
    return next((parent for parent in Path(path).parents if parent.name == "assets"), Path(path).parent)


@cache
def _fingerprint(folder: str) -> str:
    """Changes with MuJoCo's version and with any file in a folder."""
    digest = hashlib.sha256(mujoco.__version__.encode())
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            status = os.stat(os.path.join(place, name))
            digest.update(f"{place}/{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _write(target: Path, model: mujoco.MjModel) -> None:
    """Put a model's bytes where no reader ever sees a part of them."""
    content = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, content)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.tobytes())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
