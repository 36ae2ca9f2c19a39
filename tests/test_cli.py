"""The command line: help everywhere, and one clear line with exit status 2 for wrong input."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from goskill import cli, files
from goskill.bench import runner
from goskill.envs.process import WorkerProcess

COMMANDS = (
    *("quickstart", "collect", "info", "verify", "train", "eval"),
    *(
        "finetune",
        "diagnose",
        "label",
        "figures",
        "compare",
        "study",
        "bench",
        "doctor",
        "convert",
        "merge",
        "download",
    ),
)


def goskill(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "goskill", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = goskill(command, "--help")
    assert result.returncode == 0
    assert "Example" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["trian"], "trian"),
        (["collect", "--out", "data"], "--suite or --tasks: expected one of them, got none"),
        (["collect", "--out", "data", "--tasks", ""], "tasks: expected at least one task, got none"),
        (["collect", "--out", "data", "--suite", "mt11"], "did you mean 'mt10'"),
        (
            ["collect", "--out", "data", "--suite", "nowhere:suite"],
            "'nowhere:suite': nowhere:suite cannot be loaded",
        ),
        (["collect", "--out", "data", "--suite", "json:dumps"], "suite 'json:dumps': "),
        (["collect", "--out", "data", "--suite", "maze", "--tasks", "reach"], "task: "),
        (
            ["collect", "--out", "data", "--suite", "mt10", "--policy", "expert"],
            "policy: expected one of scripted, random, sac",
        ),
        (["collect", "--out", "data", "--tasks", "reech"], "reach"),
        (["collect", "--out", "data", "--tasks", "reach", "--quality", "best"], "best"),
        (["collect", "--out", "data", "--tasks", "reach", "--episodes", "0"], "--episodes"),
        (["convert", "zip", "nowhere", "data"], "mtdiff"),
        (["collect", "--out", "data", "--tasks", "reach,reach"], "'reach' twice"),
        (
            ["convert", "hdf5", "nowhere", "data", "--suite", "mt10"],
            "tasks: expected none for the layout hdf5",
        ),
        (["convert", "goskill", "nowhere", "data", "--tasks", "door-opn"], "did you mean 'door-open'"),
        (["convert", "hdf5", "nowhere", "data"], "nowhere: there is no such file"),
        (
            ["convert", "hdf5", "nowhere", "data", "--ends", "terminals"],
            "ends: expected 'marked', 'file' or the number",
        ),
        (
            ["convert", "tdmpc2", "nowhere", "data", "--task", "reach"],
            "task: expected none for the layout tdmpc2",
        ),
        (
            ["convert", "ogbench", "nowhere", "data", "--missing-rewards", "0"],
            "missing_rewards: expected None or 'zero'",
        ),
        (["merge", "nowhere", "--out", "data"], "stores: expected at least two, got 1"),
        (["download", "mt80"], "did you mean 'tdmpc2-mt80'"),
        (["download", "tdmpc2-mt80", "--discard"], "keep: expected a store"),
        (["info", "nowhere"], "nowhere"),
        (["verify", "nowhere"], "nowhere"),
        (["train", "--data", "nowhere", "--out", "run"], "nowhere"),
        (["train", "--data", "nowhere", "--out", "run", "--preset", "mt60"], "mt60"),
        (["train", "--data", "nowhere", "--out", "run", "--set", "horizon=5"], "horizon=5"),
        (["train", "--data", "nowhere", "--out", "run", "--method", "go_skil"], "did you mean 'go_skill'?"),
        (["train", "--data", "nowhere", "--out", "run", "--ablation", "no-vq,no-fokal"], "'no-focal'?"),
        (["quickstart", "--out", "run", "--set", "method.horizn=5"], "did you mean 'horizon'?"),
        (["quickstart", "--out", "run", "--set", "method.horizon=0"], "horizon"),
        (["train", "--preset", "quickstart", "--out", "run", "--set", "data.episodes=3"], "data.episodes=3"),
        (["eval", "nowhere"], "nowhere"),
        (["finetune", "nowhere", "--data", "nowhere", "--out", "run"], "nowhere"),
        (["finetune", "nowhere", "--out", "run"], "--data"),
        (["diagnose", "nowhere", "nowhere"], "nowhere"),
        (["diagnose", "nowhere", "nowhere", "--episodes", "-1"], "--episodes"),
        (["finetune", "nowhere", "--out", "run", "--resume"], "run"),
        (["finetune", "nowhere", "--out", "run", "--resume", "--preset", "ml45"], "--preset"),
        (["figures", "nowhere"], "nowhere"),
        (["compare", "nowhere"], "nowhere"),
        (["study", "small-mt10", "--into", "README.md"], "--into: expected only with --table"),
        (["study", "small-mt10", "--json"], "--json: expected only with --table"),
        (["bench", "nothing"], "nothing"),
    ],
)
def test_wrong_input_is_one_line_that_names_it(arguments: list[str], named: str, tmp_path: Path) -> None:
    result = goskill(*arguments, folder=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert named in result.stderr
    assert not result.stdout
    assert not any(tmp_path.iterdir()), "wrong input must leave nothing behind"


def test_ctrl_c_while_modules_load_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    command = [sys.executable, "-m", "goskill", "info", "data"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


def test_work_that_raised_in_a_worker_is_one_line_without_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker = WorkerProcess("environment worker 1", "pickle:loads", (b"not a pickle",))
    worker.request(b"")
    try:
        assert cli._status(worker.reply) == 1
    finally:
        worker.kill()
    assert re.fullmatch(
        r"error: environment worker 1 failed: \S*UnpicklingError: .*\n", capsys.readouterr().err
    )


def test_the_module_is_the_command_as_torchrun_starts_it() -> None:
    command = [sys.executable, "-m", "goskill.cli", "train"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, "--out" in result.stderr) == (2, True)


def test_doctor_prints_json() -> None:
    facts = json.loads(goskill("doctor", "--json").stdout)
    assert facts["torch"]
    assert facts["native core"].endswith(".so")
    assert facts["native instructions"] in ("avx512", "avx2", "baseline")


def test_importing_goskill_loads_nothing_heavy() -> None:
    code = "import sys, goskill; print([m for m in ('torch', 'triton', 'metaworld', 'mujoco') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_rows_of_benchmarks_that_cannot_be_written_leave_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    rows = tmp_path / "rows.jsonl"
    runner.append([{"name": "first"}], rows)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as caught:
            runner.append([{"name": "second"}], rows)
    assert caught.value.filename == str(rows)
    runner.append([{"name": "third"}], rows)
    assert [json.loads(line)["name"] for line in rows.read_text().splitlines()] == ["first", "third"]
