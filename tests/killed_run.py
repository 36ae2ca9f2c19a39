"""Trains through the command line, killed again and again, and says whether the end is the one without kills.

``python killed_run.py FOLDER --kills 20 --seed 0`` kills itself before file operations and iterations drawn from all
those of a whole run: the same ones in every call. Processes are forks of this one, which has loaded everything.
``--clock`` starts every attempt as a command of its own and kills it from outside after a random time: slower, and
other moments in every call. The last line is JSON: ``same`` (whether everything is bit-identical) and ``killed`` (how
often in which part).
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch.utils.tensorboard  # noqa: F401 (loaded once, for all forks)
from small_run import SMALL, write_store

from goskill import cli, pipeline  # noqa: F401
from goskill.data import label_blocks
from goskill.methods import registry  # noqa: F401
from goskill.training import Trainer  # noqa: F401
from goskill.training.step import IterationStep

Moment = tuple[int, int]  # iterations begun, operations since then
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
PARTS = ("extraction", "labelling", "policy", "checkpoint", "other files")


class Done(NamedTuple):
    """Something that an attempt did: in which part, and the file that came about, if one did."""

    now: Moment
    part: str
    file: str


def command(data: Path, run: Path) -> list[str]:
    if (run / "settings.json").exists():
        return ["train", "--resume", "--out", str(run)]
    changes = [argument for change in SMALL for argument in ("--set", change)]
    return ["train", "--preset", "quickstart", "--data", str(data), "--out", str(run), *changes]


class Moments:
    """Counts what an attempt does, notes it in ``log``, and ends the process at the moment ``last``."""

    def __init__(self, folder: Path, log: Path, begun_at: Moment, last: Moment | None) -> None:
        self._folder = str(folder)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._now = begun_at
        self._last = last
        self._part = PARTS[-1]  # of the last file
        sys.addaudithook(self._hear)
        run = IterationStep.run

        def counted(step: IterationStep, iteration: int, left: int) -> None:
            skill = next(one for one in step.steps if one.objective.name == "skill")
            self._now = (skill.optimizer.steps + 1, 0)
            self._note("extraction" if len(step.steps) == 1 else "policy")
            run(step, iteration, left)

        IterationStep.run = counted  # type: ignore[method-assign]

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        writes = arguments[2] & (os.O_WRONLY | os.O_RDWR) if event == "open" else event in CHANGES
        path = str(arguments[0]) if arguments else ""
        if not writes or "tensorboard" in path or (os.path.isabs(path) and not path.startswith(self._folder)):
            return
        if os.path.isabs(path):
            self._part = "checkpoint" if "step-" in path else "labelling" if "/labels" in path else PARTS[-1]
        self._note(self._part, Path(arguments[1]).name if event == "os.rename" else "")

    def _note(self, part: str, file: str = "") -> None:
        os.write(self._log, f"{json.dumps([self._now, part, file])}\n".encode())
        if self._last is not None and self._now >= self._last:
            os.kill(os.getpid(), signal.SIGKILL)
        self._now = (self._now[0], self._now[1] + 1)


def attempt(
    folder: Path, last: Moment | None = None, made: Mapping[str, Moment] = MappingProxyType({})
) -> tuple[int, list[Done]]:
    """One process that trains in ``folder`` until ``last``. Returns its status and what it did.

    ``made`` are the moments at which a whole run makes its files: a resumed one counts on from its checkpoint's.
    """
    log, run = folder.with_suffix(".log"), folder / "run"
    begun_at = max((made[path.name] for path in run.glob("checkpoints/step-*")), default=(0, 0))
    process = os.fork()
    if process == 0:
        label_blocks.BLOCK_STEPS = 64
        sys.argv = ["goskill", *command(folder / "data", run)]
        Moments(folder, log, begun_at, last)
        try:
            cli.main()
        except SystemExit as done:
            sys.stdout.flush()
            os._exit(done.code if isinstance(done.code, int) else 1)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return status, [Done((now[0], now[1]), part, file) for now, part, file in lines]


def draw(whole: list[Done], kills: int, seed: int) -> list[Moment]:
    """So many different moments of a whole run, from all parts alike, in their order."""
    generator = random.Random(seed)
    chosen: set[Moment] = set()
    while len(chosen) < kills:
        left = [done for done in whole if done.now not in chosen]
        of_part = [done for done in left if done.part == PARTS[len(chosen) % len(PARTS)]]
        chosen.add(generator.choice(of_part or left).now)
    return sorted(chosen)


def killed_at(folder: Path, targets: list[Moment], whole: list[Done]) -> collections.Counter[str]:
    killed: collections.Counter[str] = collections.Counter()
    made = {done.file: done.now for done in whole}
    for target in [*targets, None]:
        status, did = attempt(folder, target, made)
        if status == -signal.SIGKILL:
            killed[did[-1].part] += 1
        elif status:
            raise SystemExit(f"an attempt ended with status {status}, see above")
    return killed


def killed_by_the_clock(folder: Path, kills: int, seconds: float) -> collections.Counter[str]:
    killed: collections.Counter[str] = collections.Counter()
    run = folder / "run"
    for count in range(kills + 1):
        process = subprocess.Popen([sys.executable, "-m", "goskill", *command(folder / "data", run)])
        try:
            status = process.wait(random.uniform(0, seconds) if count < kills else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            newest = max((run / "checkpoints").glob("step-*"), key=os.path.getmtime, default=Path("-start"))
            killed[newest.name.rpartition("-")[2]] += 1
        else:
            if status:
                raise SystemExit(f"an attempt ended with status {status}, see above")
    return killed


def ended(folder: Path) -> dict[str, Any]:
    """Everything that must not depend on kills: weights, optimisers, labels, prompts, metrics, events, counts."""
    run = folder / "run"
    files = [
        *(run / "checkpoints").glob("*-finished/*.safetensors"),
        *(run / "prompts").glob("*/*.npy"),
        *(folder / "data" / "labels").glob("*/*.npy"),
        run / "data_skills.json",
        run / "events.jsonl",
    ]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{name: value for name, value in line.items() if "second" not in name} for line in lines]
    metrics = [{name: value for name, value in line.items() if "time/" not in name} for line in kept]
    return {**{str(file.relative_to(folder)): file.read_bytes() for file in files}, "metrics": metrics}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", action="store_true")
    arguments = parser.parse_args()
    whole, broken = arguments.folder / "whole", arguments.folder / "broken"
    write_store(whole / "data", ["reach", "door-close"])
    shutil.copytree(whole / "data", broken / "data")
    if arguments.clock:
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "goskill", *command(whole / "data", whole / "run")], check=True)
        killed = killed_by_the_clock(broken, arguments.kills, time.monotonic() - began)
    else:
        status, did = attempt(whole)
        assert status == 0
        killed = killed_at(broken, draw(did, arguments.kills, arguments.seed), did)
    expected, found = ended(whole), ended(broken)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            print(f"{name} differs")
    print(json.dumps({"same": expected == found, "killed": dict(killed)}))


if __name__ == "__main__":
    main()
