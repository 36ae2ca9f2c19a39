"""Benchmark rows become tables and plots that say what the rows say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from goskill.bench import report, runner
from goskill.errors import InputError


def a_row(label: str, size: int, median: float, **facts: Any) -> dict[str, Any]:
    return {
        "suite": "kernels",
        "group": f"lookup {size}",
        "name": f"test_lookup[{size}-{label}]",
        "date": "2026-01-01T00:00:00Z",
        "seconds": {"min": median, "q1": median * 0.9, "median": median, "q3": median * 1.1, "max": median},
        "facts": {"label": label, "series": "lookup", "axis": "rows", "size": size, **facts},
    }


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> Path:
    results = folder / "results"
    results.mkdir()
    (results / "kernels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return results


def test_one_command_writes_the_table_and_the_plot_with_the_byte_floor(tmp_path: Path) -> None:
    rows = [a_row("ours", size, size * 1e-6, byte_floor=size * 5e-7) for size in (10, 1000)]
    rows += [a_row("theirs", size, size * 3e-6, peer=True) for size in (10, 1000)]
    newer = a_row("ours", 10, 1.5e-5, byte_floor=5e-6) | {"date": "2026-02-01T00:00:00Z"}
    results = write_rows(tmp_path, [*rows, newer])
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench: kernels -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    report.update(readme, results)
    text = readme.read_text(encoding="utf-8")
    assert "| lookup 10: ours | 15 µs | theirs **2.0x** |" in text
    assert "| lookup 1000: ours | 1 ms | theirs **3.0x** |" in text
    assert "![kernels: time against size](docs/bench-kernels.png)" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    drawn = (tmp_path / "docs" / "bench-kernels.svg").read_text(encoding="utf-8")
    for word in ("ours", "theirs", "bytes alone", "rows", "lookup"):
        assert f">{word}<" in drawn
    report.update(readme, results)
    assert readme.read_text(encoding="utf-8") == text


def test_a_peer_timed_in_turn_needs_no_row_of_its_own(tmp_path: Path) -> None:
    results = write_rows(tmp_path, [a_row("ours", 10, 1e-5, in_turn={"theirs": 2.5})])
    readme = tmp_path / "README.md"
    readme.write_text("<!-- bench: kernels --><!-- end -->", encoding="utf-8")
    report.update(readme, results)
    assert "| lookup 10: ours | 10 µs | theirs, timed in turn **2.5x** |" in readme.read_text(
        encoding="utf-8"
    )


def test_peers_of_another_commit_or_machine_are_left_out(tmp_path: Path) -> None:
    old = [
        a_row(name, 10, 1e-6, peer=name != "ours") | {"commit": "a"} for name in ("ours", "gone", "theirs")
    ]
    new = [
        a_row(name, 10, median, peer=name != "ours") | {"commit": "b", "date": "2026-02-01T00:00:00Z"}
        for name, median in (("ours", 1e-6), ("theirs", 4e-6))
    ]
    readme = tmp_path / "README.md"
    readme.write_text("<!-- bench: kernels -->\n<!-- end -->\n", encoding="utf-8")
    report.update(readme, write_rows(tmp_path, [*old, *new]))
    text = readme.read_text(encoding="utf-8")
    assert "| lookup 10: ours | 1 µs | theirs **4.0x** |" in text
    assert "gone" not in text


def test_rows_without_sizes_are_not_drawn(tmp_path: Path) -> None:
    rows = [a_row("ours", 10, 1e-6), a_row("theirs", 10, 2e-6, peer=True)]
    results = write_rows(tmp_path, rows)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- bench: kernels -->\n<!-- end -->\n", encoding="utf-8")
    report.update(readme, results)
    assert "![" not in readme.read_text(encoding="utf-8")
    assert not (tmp_path / "docs").exists()


def test_a_marker_without_rows_is_refused(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- bench: nothing -->\n<!-- end -->\n", encoding="utf-8")
    with pytest.raises(InputError, match="nothing"):
        report.update(readme, tmp_path)


SUITE = """
import time


def test_fine(benchmark):
    benchmark.pedantic(int, rounds=1)


def test_wrong(benchmark):
    assert int() == 1
    benchmark.pedantic(int, rounds=1)


def test_endless(benchmark):
    def endless():
        open("begun", "w").close()
        time.sleep(1000)

    benchmark.pedantic(endless, rounds=1, warmup_rounds=1)
"""


def test_a_benchmark_that_fails_is_reported_and_the_others_keep_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half.py").write_text(SUITE, encoding="utf-8")
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    rows, fault = runner.run("half", select="not endless")
    assert [row["name"] for row in rows] == ["test_fine"]
    assert fault is not None
    assert "failed" in fault


def test_a_suite_that_is_interrupted_keeps_the_rows_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half.py").write_text(SUITE, encoding="utf-8")
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    wait = subprocess.Popen.wait

    def wait_for_the_endless_test(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout != 7.0:
            return wait(process, timeout)
        while not list(Path(process.args[process.args.index("--rows") + 1]).parent.glob("begun")):  # type: ignore[union-attr,index,arg-type]
            pass
        raise subprocess.TimeoutExpired("pytest", timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait_for_the_endless_test)
    rows, fault = runner.run("half", select="not wrong", limit=7.0, file=tmp_path / "kept.jsonl")
    assert [row["name"] for row in rows] == ["test_fine"]
    assert [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()] == rows
    assert fault == "benchmark suite 'half' was interrupted after 7 seconds"


ORDERED = """
import pytest


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["compiled peer", "peer", "goskill"])
@pytest.mark.parametrize("size", [1, 2])
def test_it(benchmark, size, name):
    benchmark.extra_info["calls"] = 10
    benchmark.pedantic(int, rounds=1)
"""


def test_on_a_gpu_ours_come_first_and_what_is_compiled_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "goskill" / "bench"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    (folder / "ordered.py").write_text(ORDERED, encoding="utf-8")
    monkeypatch.setattr(runner, "FOLDER", folder)
    monkeypatch.setenv("GOSKILL_COMMIT", "abc")
    rows, fault = runner.run("ordered", gpu=True)
    assert fault is None
    assert [row["name"][8:-1] for row in rows] == [
        f"{size}-{name}" for name in ("goskill", "peer", "compiled peer") for size in (1, 2)
    ]
    assert {row["commit"] for row in rows} == {"abc"}
    # The folder of the suite is called goskill, too: that selects nothing.
    rows, _ = runner.run("ordered", gpu=True, select="goskill and 2")
    assert [row["name"] for row in rows] == ["test_it[2-goskill]"]


def test_the_seconds_of_a_row_are_those_of_one_call() -> None:
    stats = dict.fromkeys(("min", "q1", "median", "q3", "max", "rounds"), 3.0)
    benchmark = {"name": "one", "group": None, "stats": stats, "extra_info": {"calls": 6}}
    assert runner.row("suite", benchmark)["seconds"]["median"] == 0.5


def test_the_gpu_suites_are_collected_without_a_gpu() -> None:
    """What a GPU machine runs cannot fail to be found there."""
    command = [sys.executable, "-m", "pytest", str(runner.FOLDER / "kernels.py"), "-m", "gpu", "-q"]
    command += ["--collect-only", "-p", "no:cacheprovider", "-c", "/dev/null", "--import-mode=importlib"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    for name in ("test_nearest_code_on_gpu", "test_focal_loss_on_gpu", "test_cross_entropy_on_gpu"):
        assert name in result.stdout
