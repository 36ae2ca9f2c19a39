"""The CPU operations of two versions of goskill, a process each, asked in turn: ``python -P -m
goskill.bench.paired_operations BEFORE --commit NAME``.

BEFORE is a folder that holds the other version's package, built. Each process has one thread and counts the seconds of
CPU time that it takes, so that the machine's other work matters little; every round asks both, the later one first in
every other round. Where a process's memory lies changes its times by some per cent, so each case is asked of several
pairs of processes. A row per operation and size goes to ``bench/results/paired-operations.jsonl``: ``speed`` is the
median over the rounds of before's time divided by after's, 1.1 where it became a tenth faster; ``speed_fastest`` is the
same of each one's fastest round, which other processes disturbed least.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROWS = Path("bench/results/paired-operations.jsonl")
PAIRS = 9  # of processes
ROUNDS = 9  # a pair
LEAST_SECONDS = 0.02  # of a block that is timed as one
CASES: tuple[tuple[str, tuple[int, ...]], ...] = (
    *(("nearest code", (rows, 64, 16)) for rows in (1_000, 10_000, 100_000)),
    ("nearest code", (100_000, 64, 1024)),
    *(("nearest code far from zero", (rows, 64, 16)) for rows in (1_000, 10_000, 100_000)),
    ("nearest code far from zero", (100_000, 64, 1024)),
    *(("vector quantisation step", (rows, 64, 16)) for rows in (800, 8_000, 80_000)),
    ("vector quantisation step", (16_384, 64, 1024)),
    *(
        ("focal loss forward+backward", size)
        for size in ((8192, 16), (2048, 64), (2048, 1024), (2048, 32_768))
    ),
)


def operation(name: str, size: tuple[int, ...]) -> Callable[[], Any]:
    """What a process of either version runs: only names that both have."""
    import torch

    from goskill import ops
    from goskill.nn import VectorQuantize

    torch.manual_seed(0)
    if name.startswith("nearest code"):
        offset = 100 if name == "nearest code far from zero" else 0
        rows, codebook = torch.randn(size[:2]) + offset, torch.randn(size[2], size[1]) + offset
        return lambda: ops.nearest_code(rows, codebook)
    if name == "vector quantisation step":
        module, x = VectorQuantize(size[1], size[2]), torch.randn(1, *size[:2], requires_grad=True)

        def step() -> None:
            x.grad = None
            quantized, _, loss = module(x)
            (quantized.sum() + loss).backward()

        return step
    logits, target = torch.randn(size, requires_grad=True), torch.arange(size[0]) % size[1]

    def loss() -> None:
        logits.grad = None
        ops.focal_loss(logits, target, gamma=2.0).backward()

    return loss


def serve() -> None:
    """Answers each line of stdin, a case and how often, with the CPU seconds of one call."""
    import torch

    torch.set_num_threads(1)
    made: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        name, size, calls = json.loads(line)
        key = f"{name} {size}"
        if key not in made:
            made.clear()
            made[key] = operation(name, tuple(size))
            for _ in range(3):
                made[key]()
        begin = time.process_time()
        for _ in range(calls):
            made[key]()
        print((time.process_time() - begin) / calls, flush=True)


class Version:
    """A process with one version of the package."""

    def __init__(self, folder: Path) -> None:
        # Memory that is freed stays with the process: giving it back takes longer than some operations.
        memory = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
        environment = {**os.environ, **memory, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", __file__, "--serve"]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def seconds(self, name: str, size: tuple[int, ...], calls: int) -> float:
        """CPU seconds of one call, over so many."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, size, calls]) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def rounds_of(folders: list[Path], name: str, size: tuple[int, ...]) -> list[list[float]]:
    """Seconds of a call before and after, ROUNDS times, of one pair of processes."""
    versions = [Version(folder) for folder in folders]
    try:
        calls = 1 + int(LEAST_SECONDS / max(version.seconds(name, size, 3) for version in versions))
        rounds = []
        for number in range(ROUNDS):
            order = versions if number % 2 else versions[::-1]
            times = [version.seconds(name, size, calls) for version in order]
            rounds.append(times if number % 2 else times[::-1])
        return rounds
    finally:
        for version in versions:
            version.close()


def compare(folders: list[Path], name: str, size: tuple[int, ...]) -> dict[str, Any]:
    """A row's facts: times and the median of the rounds' quotients, with its quartiles."""
    rounds = [pair for _ in range(PAIRS) for pair in rounds_of(folders, name, size)]
    low, speed, high = statistics.quantiles([first / second for first, second in rounds], n=4)
    medians = [statistics.median(times) for times in zip(*rounds, strict=True)]
    fastest = [min(times) for times in zip(*rounds, strict=True)]
    return {
        "kind": "paired operations",
        "operation": name,
        "size": list(size),
        "pairs": PAIRS,
        "rounds": len(rounds),
        "cpu_seconds": dict(zip(("before", "after"), medians, strict=True)),
        "speed": speed,
        "speed_quartiles": [low, high],
        "speed_fastest": fastest[0] / fastest[1],
    }


def main() -> None:
    """Compares all cases, prints them and keeps the rows."""
    import goskill
    from goskill.bench import runner

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="the folder that holds the other version's package")
    parser.add_argument("--commit", required=True, help="what the other version is")
    parser.add_argument("--rows", type=Path, default=ROWS)
    chosen = parser.parse_args()
    folders = [chosen.before, Path(goskill.__file__).parents[1]]
    for name, size in CASES:
        facts = compare(folders, name, size)
        shape = "x".join(map(str, size))
        print(f"{name} {shape}: {facts['speed']:.3f}, fastest {facts['speed_fastest']:.3f}", flush=True)
        runner.append([{**facts, "before": chosen.commit, **runner.provenance()}], chosen.rows)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
