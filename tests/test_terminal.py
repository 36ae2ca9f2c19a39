"""What is printed: narrow terminals, ASCII, readers that go away, small numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_run import SMALL
from small_store import small_store

from goskill.data import StoreWriter
from goskill.terminal import amount

LONG = "a-task-of-the-user-with-a-name-longer-than-forty-columns-[bold]"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    with StoreWriter(path, 3, 2, [LONG, "déjà"]) as writer:
        for task, reward in ((LONG, 0.000123), ("déjà", 0.25)):
            writer.append(
                task=task, observations=np.zeros((5, 3)), actions=np.zeros((4, 2)), rewards=np.full(4, reward)
            )
    return path


def goskill(*arguments: str | Path, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "goskill", *map(str, arguments)], **options)  # type: ignore[call-overload,no-any-return]


def test_tables_survive_ascii_and_forty_columns(store: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "40"}
    with goskill("info", store, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    lines = out.decode("ascii").splitlines()
    assert max(map(len, lines)) <= 40
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("| ")]
    assert "".join(row[1] for row in cells) == f"task{LONG}d?j?"
    assert "".join(row[4] for row in cells) == "meanreturn0.0004921"


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_reader_that_has_seen_enough_ends_a_command_quietly(option: list[str], store: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with goskill("info", store, *option, stdout=write, stderr=subprocess.PIPE) as process:
        os.close(write)
        _, err = process.communicate()
    assert err == b""
    assert process.returncode in (0, 1, 141)  # 1 is typer's


def test_a_run_outlives_those_who_watch_it(tmp_path: Path) -> None:
    data = small_store(tmp_path / "data").path
    changes = [part for one in SMALL for part in ("--set", one)]
    read, write = os.pipe()
    os.close(read)
    command = ("train", "--data", data, "--out", tmp_path / "run", *changes)
    with goskill(*command, stdout=write, stderr=write) as process:
        os.close(write)
        assert process.wait() == 0
    assert list((tmp_path / "run" / "checkpoints").glob("*-finished"))


@pytest.mark.parametrize(
    ("value", "text", "signed"),
    [
        (4123.4, "4123", "+4123"),
        (-99.96, "-100", "-100"),
        (30.21, "30.2", "+30.2"),
        (0.0004, "0.0004", "+0.0004"),
        (0, "0", "+0"),
        (float("nan"), "nan", "+nan"),
    ],
)
def test_returns_keep_three_digits(value: float, text: str, signed: str) -> None:
    assert (amount(value), amount(value, "+")) == (text, signed)
