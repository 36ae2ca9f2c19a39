"""The shell scripts for a machine with a GPU, with stand-ins for what they call."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"

# Does what each stage would leave; hangs in the stage that HANG names, fails in the one that FAIL names.
PYTHON = """#!/usr/bin/env bash
hang() { touch "$OUT/hanging"; exec sleep 600; }
case "$*" in
  *pip*) echo "$*" >> "$OUT/pip"; for word in "$@"; do case $word in */site) mkdir -p "$word/goskill" ;; esac; done ;;
  *bench.device*) echo '{"device": "one"}'; [ "$HANG" = device ] && hang; exit 0 ;;
  *"-m pytest"*) [ "$HANG" = tests ] && hang; echo "5 passed" ;;
  *bench.steps*) [ "$HANG" = profile ] && hang; echo profile; [ "$FAIL" = profile ] && exit 3; exit 0 ;;
  *"bench kernels"*|*"bench training"*)
    while [ "$1" != --json ]; do [ "$1" = -k ] && select=$2; shift; done
    echo "{\\"row\\": \\"$select\\"}" >> "$2"
    [ "$HANG" = "$select" ] && hang
    [ "$FAIL" = "$select" ] && echo "error: broken" && exit 2
    exit 0 ;;
  -*) shift 2; cat "$@" ;;
esac
"""


def run_gpu_script(
    folder: Path, hang: str, end: signal.Signals | None = signal.SIGTERM, **options: str
) -> tuple[int, str]:
    """Its exit status and what it printed; ended by ``end`` when a stage hangs, or by itself."""
    stub, out = folder / "python", folder / "out"
    stub.write_text(PYTHON, encoding="utf-8")
    stub.chmod(0o755)
    environment = {
        **os.environ,
        "PYTHON": str(stub),
        "OUT": str(out),
        "HANG": hang,
        "GOSKILL_COMMIT": "abc",
        **options,
    }
    command = ["bash", str(BENCH / "gpu.sh")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        while hang and not (out / "hanging").exists() and process.poll() is None:
            pass
        if hang and end is not None:
            process.send_signal(end)
        printed = process.communicate()[0]
    return process.returncode, printed


def test_all_stages_come_in_order_and_are_reported(tmp_path: Path) -> None:
    status, printed = run_gpu_script(tmp_path, hang="")
    assert status == 0, printed
    stages = (
        "device reported",
        "tested",
        "kernels after",
        "training after",
        "profiled",
        "kernel-peers",
        "training-peers",
    )
    places = [printed.index(stage) for stage in stages]
    assert places == sorted(places)
    assert "not reached or not ended: nothing" in printed
    assert "GPU tests: 5 passed" in printed


@pytest.mark.parametrize(
    ("hang", "missing", "rows"),
    [
        ("device", "device tests kernels training profile kernel-peers training-peers", []),
        ("tests", "tests kernels training profile kernel-peers training-peers", []),
        ("goskill", "kernels training profile kernel-peers training-peers", ["goskill"]),
        ("profile", "profile kernel-peers training-peers", ["goskill", "goskill and fused"]),
        (
            "not goskill",
            "kernel-peers training-peers",
            ["goskill", "goskill and fused", "not goskill"],
        ),
        (
            "not (goskill and fused)",
            "training-peers",
            ["goskill", "goskill and fused", "not (goskill and fused)", "not goskill"],
        ),
    ],
)
def test_rows_and_a_table_are_there_when_it_is_cut(
    hang: str, missing: str, rows: list[str], tmp_path: Path
) -> None:
    status, printed = run_gpu_script(tmp_path, hang)
    assert status == 143
    assert f"not reached or not ended: {missing}\n" in printed
    table = (tmp_path / "out" / "gpu-table.txt").read_text(encoding="utf-8")
    assert table in printed
    assert '{"device": "one"}' in table
    kept = [json.loads(line)["row"] for file in (tmp_path / "out").glob("*.jsonl") for line in file.open()]
    assert sorted(kept) == sorted(rows)
    assert table.count('{"row"') == len(rows)


def test_a_stage_that_outlasts_its_time_or_fails_stops_no_other(tmp_path: Path) -> None:
    status, printed = run_gpu_script(tmp_path, hang="", FAIL="goskill")
    assert status == 1
    assert "trouble: kernels: status 2: error: broken" in printed
    assert "not reached or not ended: kernels\n" in printed
    assert (tmp_path / "out" / "gpu-training.jsonl").exists()
    status, printed = run_gpu_script(tmp_path, hang="device", end=None, LIMIT="12")
    assert status == 1
    assert "trouble: no whole device report: cut when its time was over" in printed
    assert '{"device": "one"}' in printed


def test_a_table_is_there_even_if_nothing_can_be_said_at_the_end(tmp_path: Path) -> None:
    status, _ = run_gpu_script(tmp_path, hang="profile", end=signal.SIGKILL)
    assert status == -signal.SIGKILL
    table = (tmp_path / "out" / "gpu-table.txt").read_text(encoding="utf-8")
    assert '{"device": "one"}' in table
    assert "not reached or not ended: profile kernel-peers training-peers\n" in table
    assert "5 passed" in (tmp_path / "out" / "gpu.log").read_text(encoding="utf-8")


def test_a_wheel_is_installed_instead_of_built(tmp_path: Path) -> None:
    """A machine may have no compiler."""
    wheel = tmp_path / "wheels" / "goskill-0.1.0-cp312-cp312-linux_x86_64.whl"
    wheel.parent.mkdir()
    wheel.touch()
    assert run_gpu_script(tmp_path, hang="", WHEELS=str(wheel.parent))[0] == 0
    (installed,) = (tmp_path / "out" / "pip").read_text(encoding="utf-8").splitlines()
    assert str(wheel) in installed
    assert "--no-build-isolation" not in installed


TRAINING = """#!/usr/bin/env bash
mkdir -p "$WORK/run"; echo '{}' > "$WORK/run/settings.json"
echo '{"step": 1200, "phase": "extraction", "iteration": 1200, "skill/loss": 0.5}' >> "$WORK/run/metrics.jsonl"
echo "$@" >> "$WORK/calls"
exit $STATUS
"""


def test_the_mt50_training_says_how_far_it_got_and_goes_on(tmp_path: Path) -> None:
    stub = tmp_path / "goskill"
    stub.write_text(TRAINING, encoding="utf-8")
    stub.chmod(0o755)

    def train(status: int) -> subprocess.CompletedProcess[str]:
        work = {"GOSKILL": str(stub), "WORK": str(tmp_path / "work"), "OUT": str(tmp_path / "out")}
        environment = {**os.environ, **work, "STATUS": str(status)}
        command = ["bash", str(BENCH / "mt50.sh"), "train"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    cut = train(143)
    assert cut.returncode == 75
    assert "trained up to step 1200: iteration 1200 of extraction" in cut.stdout
    ended = train(0)
    assert ended.returncode == 0
    assert "going on: step 1200: iteration 1200 of extraction" in ended.stdout
    first, second = (tmp_path / "work" / "calls").read_text(encoding="utf-8").splitlines()
    assert "--resume" not in first
    assert second.endswith("--resume")
    assert train(2).returncode == 2
