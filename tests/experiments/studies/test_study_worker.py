"""A run of a study in its own process, with the real training and evaluation."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from goskill.data import StoreWriter
from goskill.evaluation.rows import append_rows, read_rows
from goskill.evaluation.study import parse_study
from goskill.experiments.studies import worker
from goskill.experiments.studies.finished import rows_of, training_seconds
from goskill.experiments.studies.plan import jobs_of, open_data
from goskill.experiments.studies.processes import WORKER, Place, Process

STUDY = """
preset = "quickstart"
seeds = [3]
[data.near]
store = "replaced"
[families.go_skill]
encoder_width = 16
decoder_width = 16
decoder_layers = 1
decoder_heads = 2
policy_width = 16
policy_layers = 1
policy_heads = 2
codebook_size = 4
skill_batch_per_task = 4
policy_batch_per_task = 2
extraction_iterations = 20
policy_iterations = 5
[training]
log_every = 1
checkpoint_every = 1000
[evaluation]
episodes = 1
[[contenders]]
method = "go_skill"
"""


HELD_WORKER = (sys.executable, str(Path(__file__).parents[2] / "held_run.py"), "9", worker.__file__)


def write_store(path: Path) -> Path:
    random = np.random.default_rng(0)
    with StoreWriter(path, observation_dim=39, action_dim=4, tasks=["reach"]) as writer:
        for _ in range(4):
            writer.append(
                task="reach",
                observations=random.normal(size=(61, 39)).cumsum(0),
                actions=random.uniform(-1, 1, (60, 4)),
                rewards=random.uniform(0, 10, 60),
            )
    return path


def wait_for(condition, process: Process) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.status() is None, process.last_words()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_whose_owner_is_gone_leaves_a_checkpoint_and_goes_on_later(tmp_path: Path) -> None:
    data = open_data("near", write_store(tmp_path / "store"))
    (job,) = jobs_of(parse_study(STUDY, "s"), {"near": data})
    run = tmp_path / "runs" / "seed-3"
    job.save(run.with_name("seed-3.json"))
    process = Process(job, run, Place(1, None), HELD_WORKER)
    metrics = run / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and b"\n" in metrics.read_bytes(), process)
    process.ask_to_end()
    process.wait(600)
    assert process.status() == 143
    assert not (run / "results.json").exists()
    done = len(metrics.read_text().splitlines())
    assert 0 < done < job.iterations
    process = Process(job, run, Place(1, None), WORKER)
    process.wait(600)
    assert process.status() == 0, process.last_words()
    assert f"step-{done:08d}" in process.log.read_text()
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, job.iterations + 1))
    assert all(training_seconds(metrics)[clock] > 0 for clock in ("wall", "cpu"))
    settings = json.loads((run / "settings.json").read_text())
    assert (settings["training"]["seed"], settings["training"]["threads"]) == (3, 1)
    results = json.loads((run / "results.json").read_text())
    assert (results["protocol"]["seed"], results["overall"]["episodes"]) == (3, 1)
    (row,) = rows_of(run, job, data, {}, {"commit": None, "machine": {}})
    assert row["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert sum(row["skills"]["in_data"]) == 4 * 60
    assert sum(row["skills"]["in_evaluation"]) == sum(results["skills"]["usage"]["reach"]) > 0
    assert append_rows(tmp_path / "rows.jsonl", [row]) == read_rows(tmp_path / "rows.jsonl")
