"""A run folder: everything about one run, on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import goskill.training.distributed as distributed
from goskill.errors import CheckpointError, InputError
from goskill.files import open_to_append, parse_json, read_text, write_atomically
from goskill.training.checkpoint import Checkpoint, Checkpoints

# Settings that cannot change what is learned (beyond rounding), so a run may be continued with other ones.
FREE_ON_RESUME = {"data.path", "data.suite", "data.fingerprint"} | frozenset(
    f"training.{name}"
    for name in ("device", "threads", "log_every", "checkpoint_every", "keep_checkpoints", "profile", "wandb")
)

# Settings that older runs and rows know nothing of, each with the value that gives the same bits as they got without
# it. With "auto", data may lie on the GPU, where it was in host memory; the batches are the same.
SINCE_ADDED: Mapping[str, Any] = {
    "training.decay_iterations": 0,
    "training.data": "auto",
    "training.kernels": "auto",
    "method.best_share": 1.0,
    "method.decoder": "transformer",
    "method.skill_noise": 0.0,
    "method.policy_every": 1,
    "method.table_std": 1.0,
    "method.prompts": "best",
    "method.tell_task": False,
    "method.told_tasks": [],
    "method.keep_experience": False,
    "method.skill_decay_iterations": 0,
    "method.temperature_falls": True,
    "method.sample_embedding": True,
    "method.small_embedding_divergence": None,
    "method.large_embedding_divergence": None,
    "method.shared_embedding": True,
    "evaluation.max_steps": None,
}


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Names the parts of a run folder. Use ``create`` for a run to train and ``open`` for one to read."""

    path: Path

    @property
    def settings_file(self) -> Path:
        return self.path / "settings.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def prompts(self) -> Path:
        return self.path / "prompts"

    @property
    def made(self) -> Path:
        """What a method makes of its data, such as further episodes."""
        return self.path / "made"

    @property
    def labels(self) -> Path:
        """Where labels of data go that cannot be written to."""
        return self.path / "labels"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    @property
    def results_file(self) -> Path:
        return self.path / "results.json"

    def results_of(self, checkpoint: str) -> Path:
        """Where the results of one of the run's checkpoints go, that are not those of the run."""
        return self.path / f"results-{checkpoint}.json"

    def results_found(self, checkpoint: Checkpoint) -> Path | None:
        """The results of one of the run's checkpoints, for the one that the run ended with its own; None without."""
        last = checkpoint.finished and checkpoint.path == Checkpoints(self.checkpoints).newest_path()
        files = [self.results_file] if last else []
        return next((file for file in [*files, self.results_of(checkpoint.path.name)] if file.exists()), None)

    @property
    def evaluations_file(self) -> Path:
        return self.path / "evaluations.jsonl"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @classmethod
    def create(
        cls,
        path: str | Path,
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        may_grow: Collection[str] = (),
    ) -> RunFolder:
        """The folder of a new run with these settings, or with ``resume`` of the run that is there already.

        ``settings`` is a nested mapping of plain values and dataclasses, written to ``settings.json``. Of the settings
        ``may_grow``, such as ``method.iterations``, a run to be resumed may get larger values than it had.

        Raises:
            InputError: ``path`` holds something and is not to be resumed, or is to be and holds no run.
            CheckpointError: the run there was made with other settings; the message names the first one.
            OSError: the folder cannot be written; what was made of it is gone again.
        """
        run = cls(Path(path))
        if distributed.rank() > 0:
            return run  # rank 0 looks and writes
        wanted = json.loads(json.dumps(settings, default=_plain))
        if resume:
            there = cls.open(path).settings
            difference = _first_difference(there, wanted, may_grow)
            if difference is not None:
                name, was, given = difference
                raise CheckpointError(
                    f"{run.path} cannot be resumed: setting {name} was {was} in that run and is {given} now"
                )
            if _first_difference(there, wanted) is not None:
                run._set_results_aside()
                write_atomically(run.settings_file, json.dumps(wanted, indent=2) + "\n")
            return run
        if not run.is_free():
            raise InputError(
                f"output folder {run.path} exists already: give another folder, or resume the run in it"
            )
        for left_over in run.path.glob(f"{_unfinished(run.settings_file)}*"):
            left_over.unlink()
        made = [folder for folder in (run.path, *run.path.parents) if not folder.exists()]
        try:
            write_atomically(run.settings_file, json.dumps(wanted, indent=2) + "\n")
            run.checkpoints.mkdir()
        except BaseException:
            run.settings_file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                for folder in made:
                    folder.rmdir()
            raise
        return run

    def _set_results_aside(self) -> None:
        """A run that becomes longer has no results yet: those it has are of the checkpoint it ended with."""
        newest = Checkpoints(self.checkpoints).newest_path()
        aside = self.results_of("before" if newest is None else newest.name)
        for file in (self.results_file, self.results_file.with_suffix(".csv")):
            with contextlib.suppress(FileNotFoundError):
                file.rename(aside.with_suffix(file.suffix))

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run folder. Raises InputError if there is none."""
        run = cls(Path(path))
        if not run.settings_file.exists():
            raise InputError(f"{run.path} is not a run folder: it has no settings.json")
        return run

    def is_free(self) -> bool:
        """Whether a run can be begun here: there is nothing but what one left that was killed at its first file."""
        if not self.path.exists():
            return True
        begun = _unfinished(self.settings_file)
        return self.path.is_dir() and all(entry.name.startswith(begun) for entry in self.path.iterdir())

    @property
    def settings(self) -> dict[str, Any]:
        """What ``settings.json`` holds. Raises CheckpointError if it cannot be read."""
        try:
            settings = parse_json(read_text(self.settings_file))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.settings_file} cannot be read: {error}") from None
        if not isinstance(settings, dict):
            raise CheckpointError(
                f"{self.settings_file} must hold a JSON object, not {type(settings).__name__}"
            )
        return settings

    def sections(self, *names: str) -> dict[str, Any]:
        """``settings`` that hold these sections. Raises CheckpointError that names the first one missing."""
        settings = self.settings
        for name in names:
            if not isinstance(settings.get(name), dict):
                raise CheckpointError(f"{self.settings_file}: section {name!r} is missing")
        return settings

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against other trainers; the lock goes with the process, however it ends.

        Raises InputError if another process holds it, OSError for a lock that is no regular file.
        """
        with open_to_append(self.path / ".lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().decode("ascii", "replace").strip() or "unknown"
                raise InputError(f"{self.path} is being trained by another process (pid {holder})") from None
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            yield


def _unfinished(file: Path) -> str:
    """How the names begin under which ``write_atomically`` writes a file."""
    return f".{file.name}."


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def _first_difference(
    there: Mapping[str, Any], given: Mapping[str, Any], may_grow: Collection[str] = ()
) -> tuple[str, str, str] | None:
    new = _flatten(given)
    before = _flatten(there)
    old = before | {name: value for name, value in SINCE_ADDED.items() if name in new and name not in before}
    for name in [*old, *(name for name in new if name not in old)]:
        if name in FREE_ON_RESUME or (name in may_grow and old.get(name, 0) <= new.get(name, 0)):
            continue
        if name not in old or name not in new or old[name] != new[name]:
            shown = [json.dumps(side[name]) if name in side else "absent" for side in (old, new)]
            return name, shown[0], shown[1]
    return None
