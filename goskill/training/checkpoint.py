"""Checkpoints: folders of safetensors and one JSON file, made whole by a rename.

A checkpoint ``step-00001000-extraction`` is named after the iterations done and the phase that it continues
in. It holds ``<network>.safetensors`` for every network of the method, ``optimizers.safetensors``,
``state-<name>.safetensors`` for what else the method keeps (a replay buffer), and
``state.json`` (position, samplers, random states, versions, checksums of the other files and of itself).
Nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from goskill.errors import CheckpointError
from goskill.files import parse_json, read_bytes, sync_folder

FORMAT = 1
OPTIMIZERS = "optimizers"
STATE_PREFIX = "state-"  # of the files that hold the arrays of ``Method.state``
_NAME = re.compile(r"step-(\d{8,})-(.+)")
_FILE = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files all have their checksums. ``state`` is what ``state.json`` holds."""

    path: Path
    state: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether all phases of the run are done."""
        return bool(self.state["phase"] >= len(self.state["phases"]))

    def load_modules(self, modules: Mapping[str, nn.Module]) -> None:
        """Copy the networks' weights and buffers into ``modules``, which decide the device.

        Raises CheckpointError naming the network and the tensor when they do not fit.
        """
        for name, module in modules.items():
            tensors = self._tensors(name)
            expected = module.state_dict()
            for key in [*expected, *(key for key in tensors if key not in expected)]:
                there = tuple(tensors[key].shape) if key in tensors else "absent"
                wanted = tuple(expected[key].shape) if key in expected else "absent"
                if there != wanted:
                    raise CheckpointError(
                        f"checkpoint {self.path} does not fit network {name!r}: "
                        f"{key} is {there} in the checkpoint and {wanted} in the network"
                    )
            module.load_state_dict(tensors)

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """State of all optimisers, on the CPU, as ``Checkpoints.save`` was given it."""
        return self._tensors(OPTIMIZERS)

    def networks(self) -> dict[str, dict[str, Tensor]]:
        """Weights and buffers of every network by name, on the CPU."""
        names = [Path(file).stem for file in self.state["files"]]
        return {
            name: self._tensors(name)
            for name in names
            if name != OPTIMIZERS and not name.startswith(STATE_PREFIX)
        }

    def arrays(self, names: Iterable[str]) -> dict[str, dict[str, Tensor]]:
        """The arrays of ``Method.state`` by name, on the CPU; nothing for names without any."""
        there = {name for name in names if f"{STATE_PREFIX}{name}.safetensors" in self.state["files"]}
        return {name: self._tensors(f"{STATE_PREFIX}{name}") for name in there}

    def _tensors(self, name: str) -> dict[str, Tensor]:
        path = self.path / f"{name}.safetensors"
        try:
            return safetensors.torch.load(read_bytes(path))
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"checkpoint file {path} cannot be read: {error}") from None


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run, in ``folder``."""

    folder: Path

    def save(
        self,
        step: int,
        phase: str,
        modules: Mapping[str, nn.Module],
        optimizer_tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        keep: int,
        arrays: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({}),
    ) -> Path:
        """Write a checkpoint and delete all but the newest ``keep``.

        Until the final rename nothing that was there is touched, so an error (OSError, as of a full disk)
        leaves the older checkpoints as they were and nothing half-written that looks whole.
        """
        final = self.folder / f"step-{step:08d}-{phase}"
        temporary = self.folder / f".writing-{final.name}"
        self._remove_unfinished()
        try:
            temporary.mkdir(parents=True)
            contents = {name: module.state_dict() for name, module in modules.items()}
            contents[OPTIMIZERS] = dict(optimizer_tensors)
            contents |= {f"{STATE_PREFIX}{name}": dict(tensors) for name, tensors in arrays.items()}
            checksums = {
                f"{name}.safetensors": _write(temporary / f"{name}.safetensors", _serialize(tensors))
                for name, tensors in contents.items()
            }
            record = {"format": FORMAT, "step": step, **state, "files": checksums}
            record["checksum"] = state_checksum(record)
            _write(temporary / "state.json", json.dumps(record, indent=1).encode())
            sync_folder(temporary)
            # Saving the same position again (a resume that ends at once) replaces what has the same contents.
            shutil.rmtree(final, ignore_errors=True)
            os.rename(temporary, final)
            sync_folder(self.folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        # What is newer than this is damaged: the run went on from an older one.
        paths = self._newest_first()
        place = paths.index(final)
        for path in paths[:place] + paths[place + max(keep, 1) :]:
            shutil.rmtree(path, ignore_errors=True)
        return final

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, if any; damaged ones are skipped with a warning."""
        for path in self._newest_first():
            try:
                return read_checkpoint(path)
            except CheckpointError as error:  # noqa: PERF203 (a handful of folders)
                _log.warning("skipped a damaged checkpoint: %s", error)
        return None

    def newest_path(self) -> Path | None:
        """Where the newest checkpoint is, if there is any; it is not read."""
        return next(iter(self._newest_first()), None)

    def _newest_first(self) -> list[Path]:
        return sorted(self._paths(), key=_order, reverse=True)

    def _paths(self) -> Iterator[Path]:
        if self.folder.is_dir():
            yield from (path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))

    def _remove_unfinished(self) -> None:
        for path in self.folder.glob(".writing-*"):
            shutil.rmtree(path, ignore_errors=True)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint in a folder, its checksums verified.

    Raises CheckpointError naming the file that is missing, damaged or of another format.
    """
    folder = Path(path)
    state_file = folder / "state.json"
    try:
        state = parse_json(read_bytes(state_file))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint file {state_file} cannot be read: {error}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint file {state_file} is not of format {FORMAT}")
    if state.get("checksum") != state_checksum(state):
        raise CheckpointError(f"checkpoint file {state_file} is damaged: its checksum does not match")
    for name in ("phase", "iteration", "step"):
        if type(state.get(name)) is not int:
            raise CheckpointError(
                f"checkpoint file {state_file}: expected {name!r} to be a whole number, got {state.get(name)!r:.80}"
            )
    files = state.get("files")
    if not isinstance(files, dict) or not all(_FILE.fullmatch(name) for name in files):
        raise CheckpointError(
            f"checkpoint file {state_file}: expected 'files' to be checksums by plain names, got {files!r:.80}"
        )
    for name, checksum in files.items():
        try:
            contents = read_bytes(folder / name)
        except OSError as error:
            raise CheckpointError(f"checkpoint file {folder / name} cannot be read: {error}") from None
        if hashlib.sha256(contents).hexdigest() != checksum:
            raise CheckpointError(f"checkpoint file {folder / name} is damaged: its checksum does not match")
    return Checkpoint(folder, state)


def _order(path: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    try:
        phase = int(parse_json(read_bytes(path / "state.json"))["phase"])
    except (OSError, ValueError, TypeError, KeyError):
        phase = -1
    return int(match[1]), phase


def _serialize(tensors: Mapping[str, Tensor]) -> bytes:
    # Copies: safetensors refuses tensors that are strided or share memory.
    copies = {
        key: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for key, value in tensors.items()
    }
    return safetensors.torch.save(copies)


def _write(path: Path, contents: bytes) -> str:
    with open(path, "wb") as file:
        file.write(contents)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(contents).hexdigest()


def state_checksum(state: Mapping[str, Any]) -> str:
    """Of what ``state.json`` holds beside it."""
    rest = {key: value for key, value in state.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
