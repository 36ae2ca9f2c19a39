"""Where metrics and events of a run are written."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from goskill.errors import optional
from goskill.files import open_to_append, read_text, write_atomically
from goskill.training.run import RunFolder


class Logs:
    """Appends lines to ``metrics.jsonl`` and ``events.jsonl``, and scalars to TensorBoard and W&B.

    A line of metrics is one JSON object: ``step`` (iterations of the whole run), ``phase``, ``iteration``
    (of the phase), ``<objective>/<metric>`` (means since the line before; a list for a vector), rates,
    ``time/<part>`` (shares), ``seconds`` and ``cpu_seconds`` (since the line before; their sums are what the run
    took, however often it was resumed). A line of events has ``step``, ``phase``, ``event`` and ``message``.
    """

    def __init__(self, run: RunFolder, sizes: Mapping[str, int], step: int, wandb_project: str = "") -> None:
        """Continue files that were ``sizes`` bytes long after ``step`` iterations and drop what is beyond.

        Raises InputError if ``wandb_project`` is given and the package is missing.
        """
        self._files = {}
        self._wandb = _open_wandb(run, wandb_project) if wandb_project else None
        for name, path in (("metrics", run.metrics_file), ("events", run.events_file)):
            file = open_to_append(path)
            file.seek(0, os.SEEK_END)
            if file.tell() > sizes.get(name, 0):
                file.truncate(sizes.get(name, 0))
            self._files[name] = file
        from torch.utils.tensorboard import SummaryWriter

        _await_next_second(run.tensorboard)
        self._tensorboard: Any = SummaryWriter(str(run.tensorboard), purge_step=step + 1)

    def metrics(self, line: Mapping[str, Any]) -> None:
        """One line of metrics."""
        self._append("metrics", line)
        scalars: dict[str, float] = {}
        for name, value in line.items():
            if isinstance(value, list):
                scalars |= {f"{name}/{index}": entry for index, entry in enumerate(value)}
            elif name not in ("step", "phase", "device"):
                scalars[name] = value
        for name, value in scalars.items():
            self._tensorboard.add_scalar(name, value, line["step"])
        if self._wandb is not None:
            self._wandb.log(scalars, step=line["step"])

    def event(self, line: Mapping[str, Any]) -> None:
        """One thing that happened."""
        self._append("events", line)

    def sizes(self) -> dict[str, int]:
        """Bytes in each file now, all of them safely on disk."""
        for file in self._files.values():
            os.fsync(file.fileno())
        return {name: file.tell() for name, file in self._files.items()}

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        self._files[name].write((json.dumps(line) + "\n").encode())


class SilentLogs:
    """The logs of a rank that does not write."""

    def metrics(self, line: Mapping[str, Any]) -> None: ...

    def event(self, line: Mapping[str, Any]) -> None: ...

    def sizes(self) -> dict[str, int]:
        return {}

    def close(self) -> None: ...


def _await_next_second(folder: Path) -> None:
    """Give a resumed run's events the last name, in whose order TensorBoard reads: names begin with a second."""
    names = [file.name.split(".") for file in folder.glob("events.out.tfevents.*")]
    begun = max((int(parts[3]) for parts in names if parts[3].isdecimal()), default=0)
    while begun <= time.time() < begun + 1:
        time.sleep(0.01)


def _open_wandb(run: RunFolder, project: str) -> Any:
    wandb = optional("wandb", "training.wandb needs", "'goskill[wandb]'")
    return wandb.init(
        project=project,
        name=run.path.name,
        id=_wandb_identity(run),
        dir=run.path,
        config=run.settings,
        resume="allow",
    )


def _wandb_identity(run: RunFolder) -> str:
    """What a resumed run is known by: drawn once, kept in the folder. Folders of the same name are different runs."""
    file = run.path / "wandb-id.txt"
    if file.exists():
        return read_text(file).strip()
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", run.path.name)[:40]
    identity = f"{plain}-{secrets.token_hex(6)}"
    write_atomically(file, f"{identity}\n")
    return identity
