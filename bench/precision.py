"""bfloat16 against float32: loss curves of quickstart's training, and the band that float32's seeds span.

``python -m goskill.bench.precision train`` collects quickstart's episodes once, trains what is missing of six seeds
in each precision, and keeps their curves as rows; ``python -m goskill.bench.precision draw`` draws them and prints
tables. Seeds decide initial weights and the order of the data; all runs learn from the same episodes.
``python -m goskill.bench.precision labels`` then trains extraction alone with six more seeds in each precision, and
keeps what each run's labels make of the enhancement loss, which averages over the classes that a run found itself.

The band is what the first five float32 seeds span in each window of iterations. It is narrow: of six curves that
differ by nothing but chance, each lies outside of what the other five span in a third of the windows. So the sixth
float32 seed stands beside bfloat16's, and bfloat16's seeds also against the five float32 seeds that are not their own.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.bench.runner import append, provenance

PRESET = "quickstart"
# Quickstart's settings when the rows were made.
FORMER_QUICKSTART = (
    *("method.best_share=1.0", "method.skill_noise=0.0", "method.policy_every=1", "method.dropout=0"),
    "method.table_std=1.0",
    *("method.decoder=transformer", "method.reached_goal=true", "method.encoder_width=128"),
    *("method.decoder_width=128", "method.decoder_layers=2", "method.decoder_heads=4"),
    *("method.policy_width=128", "method.policy_layers=2", "method.policy_heads=4"),
    *("method.context=10", "method.prompt_length=5", "method.skill_batch_per_task=16"),
    *("method.policy_batch_per_task=8", "method.extraction_iterations=800", "method.policy_iterations=1000"),
    *("training.learning_rate=1e-3", "training.warmup_iterations=100", "training.decay_iterations=400"),
)
PRECISIONS = ("float32", "bfloat16")
SEEDS = range(6)
IN_BAND = 5
MORE_SEEDS = range(6, 12)
JUDGES = range(3)
WINDOWS = 200  # batches of windows that labels are judged on
WORK = Path("runs/precision")
ROWS = Path("bench/results/precision.jsonl")
LABEL_ROWS = Path("bench/results/precision-labels.jsonl")
PICTURE = Path("docs/precision.png")
CURVES = {
    "extraction, skill loss": ("extraction", "skill/loss"),
    "enhancement, skill loss": ("policy", "skill/loss"),
    "policy, policy loss": ("policy", "policy/loss"),
}

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]


def collect(data: Path) -> None:
    """Quickstart's episodes, the same for all runs; a collection that was stopped goes on."""
    from goskill.experiments import pipeline
    from goskill.experiments.runs import read_settings

    wanted = read_settings(PRESET).data
    pipeline.collect(data, tasks=wanted.tasks, episodes=wanted.episodes, quality=wanted.quality, seed=0)


def train(data: Path, run: Path, precision: str, seed: int, overrides: Sequence[str] = ()) -> Row:
    """One run, on one thread, or what is left of it. Returns its row."""
    from goskill.data import EpisodeStore
    from goskill.experiments import pipeline
    from goskill.training import RunFolder

    chosen = [*FORMER_QUICKSTART, f"training.seed={seed}", f"training.precision={precision}"]
    chosen += ["training.threads=1", *overrides]
    pipeline.train(data, run, preset=PRESET, overrides=chosen, resume=(run / "settings.json").exists())
    store = EpisodeStore.open(data)
    return {
        "preset": PRESET,
        "precision": precision,
        "seed": seed,
        "threads": 1,
        "data": {"fingerprint": store.fingerprint, "tasks": list(store.tasks), "scripted": True},
        "curves": read_curves(RunFolder.open(run).metrics_file),
        **provenance(),
    }


def read_curves(metrics: Path) -> dict[str, dict[str, list[float]]]:
    """Every loss of ``CURVES``: means over the iterations since the read before, and where these end."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    curves = {}
    for name, (phase, metric) in CURVES.items():
        mine = [line for line in lines if line["phase"] == phase]
        curves[name] = {
            "iteration": [line["iteration"] for line in mine],
            "loss": [round(line[metric], 7) for line in mine],
        }
    return curves


def train_all(work: Path, rows: Path) -> None:
    """Train what has no row yet, one run per core at a time, and keep each as it ends."""
    collect(work / "data")
    keep_missing(_train_one, work, rows, SEEDS)


def _train_one(work: Path, precision: str, seed: int) -> Row:
    return train(work / "data", work / f"{precision}-{seed}", precision, seed)


def keep_missing(
    job: Callable[[Path, str, int], Row], work: Path, rows: Path, seeds: Iterable[int], key: str = "precision"
) -> None:
    """Append ``job(work, precision, seed)`` for what has no row yet, one per core at a time, each as it ends.

    ``key`` names the precision in the rows.
    """
    there = {(row[key], row["seed"]) for row in read_rows(rows)} if rows.exists() else set()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=spawn) as pool:
        left = [
            pool.submit(job, work, precision, seed)
            for seed in seeds
            for precision in PRECISIONS
            if (precision, seed) not in there
        ]
        for row in left:
            append([row.result()], rows)


def judge_all_labels(work: Path, rows: Path) -> None:
    """Train extraction of ``MORE_SEEDS``, and keep a row for the labels of every run that has none yet."""
    keep_missing(judge_labels, work, rows, (*SEEDS, *MORE_SEEDS))


def judge_labels(work: Path, precision: str, seed: int) -> Row:
    """The error of the judges' decoders, and of the run's own, on windows drawn by the labels of one run."""
    import torch

    torch.set_num_threads(1)
    run = work / f"{precision}-{seed}"
    if seed in MORE_SEEDS:
        run = work / "extraction" / run.name
        # Labels are the work of the phase after extraction; the next is as short as it can be.
        train(work / "data", run, precision, seed, ["method.policy_iterations=1"])
    deciding = [work / f"float32-{judge}" for judge in JUDGES] + [run] * (seed in SEEDS)
    errors = _errors(work / "data", run, [_decoder(one) for one in deciding])
    own = {"own": errors[-1]} if seed in SEEDS else {}
    return {
        "precision": precision,
        "seed": seed,
        "judges": errors[: len(JUDGES)],
        **own,
        **provenance(),
    }


def _decoder(run: Path) -> Any:
    """The trained networks' action error, as a function of a batch."""
    from goskill.experiments.runs import load_method
    from goskill.methods.go_skill.losses import SkillLoss
    from goskill.training import RunFolder

    return SkillLoss(load_method(RunFolder.open(run)).networks, frozen=True).eval()


def _errors(data: Path, run: Path, decoders: Sequence[Any]) -> list[float]:
    """Mean action error, in float32, of each decoder on windows drawn as enhancement draws them by a run's labels."""
    import torch

    from goskill.data import EpisodeStore, SegmentSampler

    labels = json.loads((run / "data_skills.json").read_text(encoding="utf-8"))["labels"]
    store = EpisodeStore.open(data)
    sampler = SegmentSampler(store, horizon=10, batch_size=80, balance="skill", labels=labels, seed=0)
    with torch.no_grad():
        errors = [
            [float(decoder(batch)[0]) for decoder in decoders]
            for batch, _ in zip(sampler, range(WINDOWS), strict=False)
        ]
    return [round(float(error), 6) for error in np.mean(errors, axis=0)]


def read_rows(rows: Path) -> list[Row]:
    return [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]


def losses(rows: Sequence[Row], precision: str, curve: str) -> Floats:
    """The curves [seeds, windows] of a precision, in the order of their seeds."""
    mine = sorted((row for row in rows if row["precision"] == precision), key=lambda row: row["seed"])
    return np.array([row["curves"][curve]["loss"] for row in mine])


def span(runs: Floats) -> tuple[Floats, Floats]:
    """The band: lowest and highest [windows] of runs [n, windows]."""
    return runs.min(axis=0), runs.max(axis=0)


def prediction(runs: Floats, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Where one more run would lie: Student's t prediction interval [windows] from runs [n, windows]."""
    from scipy import stats

    n = len(runs)
    reach = stats.t.ppf((1 + confidence) / 2, n - 1) * np.sqrt(1 + 1 / n)
    half = reach * runs.std(axis=0, ddof=1)
    return runs.mean(axis=0) - half, runs.mean(axis=0) + half


def outside(curve: Floats, ends: tuple[Floats, Floats]) -> Floats:
    """Whether each window of a curve lies outside of a band, bool [windows]."""
    return (curve < ends[0]) | (curve > ends[1])


def table(rows: Sequence[Row]) -> str:
    """Shares of windows outside of the band, as Markdown; in brackets, outside of the prediction interval."""
    lines = [_line("outside", [*CURVES, "all"]), "|---|" + "--:|" * (len(CURVES) + 1)]
    for precision in PRECISIONS:
        for seed in SEEDS[IN_BAND:] if precision == "float32" else SEEDS:
            found = []
            for name in CURVES:
                band, curve = losses(rows, "float32", name)[:IN_BAND], losses(rows, precision, name)[seed]
                found.append(np.stack([outside(curve, span(band)), outside(curve, prediction(band))]))
            shares = [part.mean(axis=1) for part in (*found, np.concatenate(found, axis=1))]
            cells = [f"{inner:.0%} ({outer:.0%})" for inner, outer in shares]
            lines.append(_line(f"{precision}, seed {seed}", cells))
    return "\n".join(lines) + "\n"


def table_of_others(rows: Sequence[Row]) -> str:
    """Shares of windows in which a seed lies outside of what the float32 seeds but its own span, as Markdown.

    Means over the seeds (float32's is a third whatever the numbers are), in brackets the lowest and highest seed.
    """
    lines = [_line("outside of the five others", [*CURVES, "all"]), "|---|" + "--:|" * (len(CURVES) + 1)]
    for precision in PRECISIONS:
        found = []
        for name in CURVES:
            exact, curves = losses(rows, "float32", name), losses(rows, precision, name)
            bands = [span(np.delete(exact, seed, axis=0)) for seed in SEEDS]
            found.append(np.stack([outside(curves[seed], bands[seed]) for seed in SEEDS]))
        shares = [part.mean(axis=1) for part in (*found, np.concatenate(found, axis=1))]
        cells = [f"{share.mean():.0%} ({share.min():.0%} to {share.max():.0%})" for share in shares]
        lines.append(_line(f"{precision}, each seed", cells))
    return "\n".join(lines) + "\n"


def differences(rows: Sequence[Row]) -> str:
    """By how much bfloat16's loss differs from float32's with the same seed, a line per curve."""
    lines = []
    for name in CURVES:
        exact, rounded = (losses(rows, precision, name) for precision in PRECISIONS)
        per_seed = ((rounded - exact) / exact.mean(axis=0)).mean(axis=1)
        spread = (exact.std(axis=0, ddof=1) / exact.mean(axis=0)).mean()
        error = per_seed.std(ddof=1) / np.sqrt(len(per_seed))
        lines.append(
            f"{name}: bfloat16 minus float32, same seed, mean over windows: {per_seed.mean():+.2%} "
            f"(standard error over seeds {error:.2%}; {', '.join(f'{one:+.1%}' for one in per_seed)}); "
            f"deviation between float32 seeds in a window: {spread:.2%}"
        )
    return "\n".join(lines) + "\n"


def label_levels(rows: Sequence[Row], curves: Sequence[Row]) -> str:
    """What each precision's labels make of the enhancement loss, and whether that tells the precisions apart."""
    from scipy import stats

    lines, levels, judged, trained = [], [], [], []
    for precision in PRECISIONS:
        mine = sorted((row for row in rows if row["precision"] == precision), key=lambda row: row["seed"])
        level = np.array([np.mean(row["judges"]) for row in mine])
        full = np.array(["own" in row for row in mine])
        gains = np.array([row["own"] for row in mine if "own" in row]) - level[full]
        lines.append(
            f"{precision}: the judges' error on windows by the labels of {len(level)} runs: {level.mean():.4f}, "
            f"deviation {level.std(ddof=1):.4f}, {level.min():.4f} to {level.max():.4f} "
            f"({', '.join(f'{one:.4f}' for one in level)}); the run's own decoder: {gains.mean():+.4f}"
        )
        levels.append(level)
        judged += level[full].tolist()
        trained += losses(curves, precision, "enhancement, skill loss").mean(axis=1).tolist()
    ratio = (levels[1].std(ddof=1) / levels[0].std(ddof=1)) ** 2
    freedom = len(levels[1]) - 1, len(levels[0]) - 1
    deviations = 2 * min(stats.f.sf(ratio, *freedom), stats.f.cdf(ratio, *freedom))
    lines.append(
        f"correlation with the enhancement losses: {np.corrcoef(judged, trained)[0, 1]:.2f}; equal means: "
        f"p = {stats.ttest_ind(*levels, equal_var=False).pvalue:.2f}, equal deviations: p = {deviations:.2f}"
    )
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], picture: Path) -> None:
    """The curves and the band, as PNG."""
    from PIL import Image

    from goskill.figures.bands import Band, draw_bands
    from goskill.figures.style import style

    panels = {}
    for name in CURVES:
        exact, rounded = (losses(rows, precision, name) for precision in PRECISIONS)
        runs = exact[:IN_BAND]
        curves = {f"float32, seed {IN_BAND}": exact[IN_BAND]}
        curves |= {f"bfloat16, seed {seed}": curve for seed, curve in enumerate(rounded)}
        iterations = np.array(rows[0]["curves"][name]["iteration"])
        panels[name] = Band(iterations, runs, prediction(runs), curves)
    with style():
        figure = draw_bands(
            panels, f"float32, seeds 0 to {IN_BAND - 1}", "where a sixth would lie (95 %, Student's t)"
        )
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=90, metadata={"Software": None})
    picture.parent.mkdir(parents=True, exist_ok=True)
    # A palette takes a third of the space of true colours.
    Image.open(drawn).convert("RGB").quantize(64).save(picture, optimize=True)


def _line(what: str, cells: Sequence[str]) -> str:
    return f"| {what} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "labels", "draw"))
    parser.add_argument("--work", type=Path, default=WORK, help="folder of episodes and runs")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--label-rows", type=Path, default=LABEL_ROWS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    if arguments.what == "train":
        train_all(arguments.work, arguments.rows)
    elif arguments.what == "labels":
        judge_all_labels(arguments.work, arguments.label_rows)
    else:
        rows = read_rows(arguments.rows)
        draw(rows, arguments.picture)
        told = [table(rows), table_of_others(rows), differences(rows)]
        if arguments.label_rows.exists():
            told.append(label_levels(read_rows(arguments.label_rows), rows))
        print(*told, sep="\n", end="")


if __name__ == "__main__":
    main()
