"""Runs that go on from the end of extraction in another precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_run import SMALL, write_store

from goskill.bench import precision as whole
from goskill.bench import precision_crossed as crossed

KEPT = [*SMALL, crossed.KEEP_ALL]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write_store(tmp_path / "data", ["reach", "door-close"])
    return tmp_path


def test_a_branch_in_the_same_precision_ends_as_the_run_did(work: Path) -> None:
    run, branch = work / "run", work / "branch"
    own = whole.train(work / "data", run, "float32", 1, KEPT)
    crossed.branch_off(run, branch, "float32")
    assert len(list(branch.glob("checkpoints/*"))) < len(list(run.glob("checkpoints/*")))
    assert whole.train(work / "data", branch, "float32", 1, KEPT)["curves"] == own["curves"]


def test_the_other_precision_goes_on_from_the_same_weights_and_labels(work: Path) -> None:
    exact = whole.train(work / "data", work / "exact", "float32", 1, SMALL)
    for labels, precision in (whole.PRECISIONS, whole.PRECISIONS[::-1]):
        row = crossed.cross(work, labels, 1, SMALL)
        assert (row["extraction"], row["precision"], row["seed"]) == (labels, precision, 1)
        run, branch = work / f"{labels}-1", work / f"{labels}-1-then-{precision}"
        used = [json.loads((folder / "data_skills.json").read_text())["labels"] for folder in (run, branch)]
        assert used[0] == used[1]
        for name, curve in row["own"].items():
            assert labels == "bfloat16" or curve == exact["curves"][name]
            assert curve["iteration"] == row["curves"][name]["iteration"]
            assert curve["loss"] != row["curves"][name]["loss"]
            np.testing.assert_allclose(curve["loss"], row["curves"][name]["loss"], rtol=0.1)
    again = crossed.cross(work, labels, 1, SMALL)  # nothing is left to train
    assert (again["own"], again["curves"]) == (row["own"], row["curves"])


def row_of(labels: str, seed: int, own: float, other: float) -> dict[str, Any]:
    def curves(level: float) -> dict[str, Any]:
        return {name: {"iteration": [20, 40], "loss": [level, level]} for name in crossed.CURVES}

    return {"extraction": labels, "seed": seed, "own": curves(own), "curves": curves(other)}


def test_what_is_told_tells_labels_and_precisions_apart() -> None:
    rows = [row_of("float32", seed, 2.0 + seed, 2.0 + 0.5 * seed) for seed in whole.SEEDS]
    rows += [row_of("bfloat16", seed, 1.0, 3.0) for seed in whole.SEEDS]
    lines = crossed.table(rows[::-1]).splitlines()[2:]  # in any order
    outside = {tuple(line.strip("| ").split(" | ")[:3]): line.strip("| ").split(" | ")[3] for line in lines}
    assert outside["float32", "float32", "5"] == "100%"  # 7 is above the 2 to 6 of seeds 0 to 4
    assert outside["float32", "bfloat16", "5"] == "0%"
    assert outside["bfloat16", "bfloat16", "0"] == "100%"
    assert outside["bfloat16", "float32", "0"] == "0%"
    # float32 is at 4.5 and 3 on average; bfloat16 1.25 below over its labels' mean, and 2 below.
    told = crossed.comparison(rows).splitlines()
    assert f"mean over windows: {(-1.25 - 2) / 2 / 3.75:+.2%}" in told[0]
