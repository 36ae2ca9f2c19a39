"""What the runner of benchmarks keeps."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from goskill.bench import runner


def test_no_row_is_lost_when_several_write_one_file(tmp_path: Path) -> None:
    file = tmp_path / "results" / "rows.jsonl"

    def write(writer: int) -> None:
        for number in range(20):
            runner.append([{"writer": writer, "number": number}], file)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert sorted((row["writer"], row["number"]) for row in rows) == [
        (writer, number) for writer in range(4) for number in range(20)
    ]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


TOY = """
import os, signal
import pytest

@pytest.mark.gpu
@pytest.mark.parametrize("name", ["compiled peer", "peer", "goskill"])
def test_toy(benchmark, name):
    if name == "compiled peer":
        os.kill(os.getpid(), signal.SIGINT)
    benchmark.pedantic(int)
"""


def test_a_suite_that_is_interrupted_keeps_what_was_chosen_ours_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU. The name of the folder, which is that of ours, chooses nothing."""
    folder, file = tmp_path / "goskill", tmp_path / "rows.jsonl"
    folder.mkdir()
    (folder / "toy.py").write_text(TOY, encoding="utf-8")
    monkeypatch.setattr(runner, "FOLDER", folder)
    rows, fault = runner.run("toy", gpu=True, select="goskill or compiled", file=file)
    assert [row["name"] for row in rows] == ["test_toy[goskill]"]
    assert fault == "benchmark suite 'toy' failed with pytest's exit status 2"
    assert [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] == rows


def test_a_row_tells_the_time_of_one_call_of_many() -> None:
    measured = {
        "stats": dict.fromkeys(("min", "q1", "median", "q3", "max"), 3.0) | {"rounds": 5},
        "group": "g",
        "name": "n",
        "extra_info": {"calls": 100},
    }
    assert runner.row("toy", measured)["seconds"]["median"] == 0.03
