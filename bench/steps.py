"""One training step of each objective, taken apart: ``python -m goskill.bench.steps [OBJECTIVE ...]``.

On a GPU, the kernels of a replayed step by the time they take. Everywhere, what PyTorch's operations of a step read and
write (:class:`Traffic`), for which no device is needed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from goskill.bench.traffic import Traffic
from goskill.bench.training import OBJECTIVES, Subject, step_of
from goskill.training.graphs import EAGER_ITERATIONS
from goskill.training.step import IterationStep
from goskill.training.timing import StepTimer

REPLAYS = 5
LONGEST_NAME = 90
RUN = {"precision": "bfloat16", "data": "device"}  # as a run on a GPU chooses


def traffic(subject: Subject, name: str, **settings: Any) -> dict[str, Any]:
    """Operations and gigabytes of one step, by kind."""
    device = torch.device("cuda", 0)
    options = {**RUN, **settings}
    step = step_of(subject, name, StepTimer(device), device, cuda_graphs="off", **options)
    step.run(0, 1)
    with Traffic() as counted:
        step.run(0, 1)
    return counted.summary()


def captured_step(subject: Subject, name: str, **settings: Any) -> IterationStep:
    """The step as a run has it, captured and replayed once or twice."""
    device, options = torch.device("cuda", 0), {**RUN, **settings}
    step = step_of(subject, name, StepTimer(device), device, cuda_graphs="on", **options)
    for _ in range(EAGER_ITERATIONS + 2):
        step.run(0, 1)
    return step


def profiled(subject: Subject, name: str, **settings: Any) -> list[dict[str, Any]]:
    """The kernels of a replayed step, those that take longest first: name, calls, microseconds."""
    step = captured_step(subject, name, **settings)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        for _ in range(REPLAYS):
            step.run(0, 1)
        torch.cuda.synchronize()
    kernels = [
        {
            "kernel": event.key[:LONGEST_NAME],
            "calls": event.count / REPLAYS,
            "us": event.device_time_total / REPLAYS,
        }
        for event in trace.key_averages()
        if event.device_time_total > 0
    ]
    return sorted(kernels, key=lambda kernel: -kernel["us"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("objectives", nargs="*", default=[name for name in OBJECTIVES if name != "prompt-dt"])
    parser.add_argument("--kernels", default="auto", choices=("auto", "off"))
    parser.add_argument("--json", type=Path, help="file that gets all of it")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(Path(folder) / "store")
        for name in options.objectives:
            rows = profiled(subject, name, kernels=options.kernels)
            total = sum(row["us"] for row in rows)
            print(
                f"\n{name}: {sum(row['calls'] for row in rows):.0f} kernels, {total / 1000:.2f} ms on the device"
            )
            for row in rows[:15]:
                print(f"  {row['us']:8.0f} us {row['calls']:5.0f} x {row['kernel']}")
            found[name] = {"kernels": rows, "traffic": traffic(subject, name, kernels=options.kernels)}
            print(f"  {json.dumps(found[name]['traffic'])}", flush=True)
            if options.json:  # after each: what follows may be cut off
                options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
