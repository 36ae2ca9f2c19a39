"""bfloat16 against float32 where both learn from the same labels.

Enhancement averages over the classes that extraction found, and codes part by rounding alone; so curves of whole runs
differ by their labels, too. ``python -m goskill.bench.precision_crossed train`` goes on from the end of each run's
extraction in the other precision, with the same weights, labels and order of the data, and keeps the curves as rows;
``python -m goskill.bench.precision_crossed tell`` prints how they compare. Seeds, data and the band are those of
``goskill.bench.precision``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from goskill.bench import precision as whole
from goskill.bench.precision import IN_BAND, PRECISIONS, SEEDS, Floats, Row

ROWS = Path("bench/results/precision-crossed.jsonl")
CURVES = ("enhancement, skill loss", "policy, policy loss")
KEEP_ALL = "training.keep_checkpoints=1000"


def cross(work: Path, precision: str, seed: int, overrides: Sequence[str] = ()) -> Row:
    """Train a run, then from the end of its extraction in the other precision. Returns the row of that."""
    run, other = work / f"{precision}-{seed}", PRECISIONS[precision == PRECISIONS[0]]
    own = whole.train(work / "data", run, precision, seed, [*overrides, KEEP_ALL])
    branch = work / f"{run.name}-then-{other}"
    if not branch.exists():
        branch_off(run, branch, other)
    row = whole.train(work / "data", branch, other, seed, [*overrides, KEEP_ALL])
    return {**row, "extraction": precision, "own": {name: own["curves"][name] for name in CURVES}}


def branch_off(run: Path, branch: Path, precision: str) -> None:
    """A copy of a run as it was at the end of extraction, to go on in another precision."""
    begun = sorted(run.glob("checkpoints/step-*-policy"))[0]
    later = {path.name for path in (run / "checkpoints").iterdir() if path.name > begun.name}
    unfinished = branch.with_name(f".{branch.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(run, unfinished, ignore=lambda _, names: later.intersection(names))
    settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    settings["training"]["precision"] = precision
    (unfinished / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    unfinished.rename(branch)


def cross_all(work: Path, rows: Path) -> None:
    """Cross every run that has no row yet, one per core at a time."""
    whole.collect(work / "data")
    whole.keep_missing(cross, work, rows, SEEDS, key="extraction")


def curves_by(rows: Sequence[Row], curve: str, labels: str, precision: str) -> Floats:
    """Losses [seeds, windows] over the labels of one precision's extraction, learned in one precision."""
    mine = sorted((row for row in rows if row["extraction"] == labels), key=lambda row: row["seed"])
    key = "own" if labels == precision else "curves"
    return np.array([row[key][curve]["loss"] for row in mine])


def table(rows: Sequence[Row]) -> str:
    """Shares of windows outside of the band of the float32 runs of seeds 0 to 4, as Markdown, a line per run."""
    bands = [whole.span(curves_by(rows, curve, "float32", "float32")[:IN_BAND]) for curve in CURVES]
    lines = ["| labels of | learned in | seed | " + " | ".join(CURVES) + " |", "|---|---|--:|--:|--:|"]
    for labels in PRECISIONS:
        for precision in PRECISIONS:
            for seed in SEEDS:
                cells = [
                    f"{whole.outside(curves_by(rows, curve, labels, precision)[seed], band).mean():.0%}"
                    for curve, band in zip(CURVES, bands, strict=True)
                ]
                lines.append(f"| {labels} | {precision} | {seed} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def comparison(rows: Sequence[Row]) -> str:
    """Per curve: how far bfloat16 lies from float32 over the same labels, and how far labels part the runs."""
    lines = []
    for curve in CURVES:
        exact, rounded = (
            np.stack([curves_by(rows, curve, labels, precision) for labels in PRECISIONS])
            for precision in PRECISIONS
        )
        scale = exact.mean()
        seeds = ((rounded - exact).mean(axis=2) / scale).ravel()
        error = seeds.std(ddof=1) / np.sqrt(len(seeds))
        window = np.abs(rounded - exact).mean() / scale
        levels = exact.mean(axis=2).ravel()
        lines.append(
            f"{curve}: bfloat16 minus float32 over the same labels, mean over windows: {seeds.mean():+.2%} "
            f"(standard error over {len(seeds)} runs {error:.2%}; from {seeds.min():+.2%} to {seeds.max():+.2%}), "
            f"in a window {window:.2%}; deviation between float32's own levels over these labels: "
            f"{levels.std(ddof=1) / scale:.2%}"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "tell"))
    parser.add_argument("--work", type=Path, default=whole.WORK, help="folder of episodes and runs")
    parser.add_argument("--rows", type=Path, default=ROWS)
    arguments = parser.parse_args()
    if arguments.what == "train":
        cross_all(arguments.work, arguments.rows)
    else:
        rows = whole.read_rows(arguments.rows)
        print(table(rows), comparison(rows), sep="\n", end="")


if __name__ == "__main__":
    main()
