"""What settings make of scripted data: one change at a time, at the same data, episodes and seeds.

``python -P -m goskill.bench.recipes run quickstart`` collects the stage's episodes once, trains and evaluates every
recipe of it that has no row yet, and adds a row for each to ``results/recipes.jsonl``. Stopped, it goes on where it
was. ``report`` runs ``goskill quickstart`` as a newcomer does, once for each seed. ``tell`` prints the tables of the
docs from the rows, and ``draw`` makes their figure. Seeds from 1000 on belong to the search: presets are reported with
others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from goskill.bench.precision import FORMER_QUICKSTART
from goskill.bench.runner import append
from goskill.data import EpisodeStore
from goskill.evaluation import Results
from goskill.experiments import pipeline
from goskill.experiments.quickstart import run_quickstart
from goskill.experiments.run_prompts import prompts_of
from goskill.experiments.runs import load_method, read_settings
from goskill.experiments.studies import provenance
from goskill.experiments.studies.finished import training_seconds
from goskill.files import parse_json
from goskill.rollouts import Policy, Prompts, evaluate
from goskill.settings import to_mapping
from goskill.training import RunFolder

ROWS = Path(__file__).parent / "results" / "recipes.jsonl"
DOCS = Path(__file__).resolve().parents[1] / "docs"
SEARCH_SEED = 1_000
REPORT = "preset quickstart"  # the stage of the rows that no search saw
ONE_THREAD = ("training.threads=1", "training.checkpoint_every=200", "training.keep_checkpoints=1")


@dataclass(frozen=True)
class Recipe:
    """A method with changes to a stage's common settings, and what it is called in tables."""

    method: str
    about: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """Recipes that are compared: the same episodes, evaluation and common settings."""

    tasks: str  # comma-separated, or a suite
    episodes: int  # of data per task
    evaluated: int  # new episodes per task and run
    steps: int  # of each: nearly all that succeed do so by then
    preset: str
    recipes: Mapping[str, Recipe]
    common: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # changes by method


def run(stage_name: str, work: Path, names: Sequence[str], seeds: Sequence[int]) -> None:
    """Train and evaluate what has no row yet."""
    stage = STAGES[stage_name]
    data = work / f"{stage_name}-data"
    tasks = pipeline.choose_tasks(*((None, stage.tasks) if "," in stage.tasks else (stage.tasks, None)))
    pipeline.collect(data, tasks=tasks, episodes=stage.episodes, workers=1, seed=SEARCH_SEED)
    for seed in seeds:
        for name in names or stage.recipes:
            there = [(row["stage"], row["recipe"], row["seed"]) for row in read_rows()]
            if (stage_name, name, seed) not in there:
                row = _run(stage, stage.recipes[name], data, work / f"{stage_name}-{name}-{seed}", seed)
                append([{"stage": stage_name, "recipe": name, "seed": seed, **row}], ROWS)


def report(work: Path, seeds: Sequence[int]) -> None:
    """Collect, train and evaluate preset quickstart for each seed that has no row yet."""
    for seed in seeds:
        there = [(row["stage"], row["recipe"], row["seed"]) for row in read_rows()]
        if (REPORT, "preset", seed) not in there:
            out = work / f"report-{seed}"
            run_folder = RunFolder(out)
            if not run_folder.figures.exists():
                run_quickstart(out, seed=seed, workers=1, overrides=ONE_THREAD)
            row = _reported(run_folder, work / f"report-{seed}-data", seed)
            append([{"stage": REPORT, "recipe": "preset", "seed": seed, **row}], ROWS)


def _reported(run_folder: RunFolder, data: Path, seed: int) -> dict[str, Any]:
    results, settings = Results.load(run_folder.results_file), run_folder.settings
    episodes = settings["evaluation"]["episodes"]
    return {
        "about": "preset quickstart",
        "method": settings["method"]["name"],
        "changes": list(ONE_THREAD),
        "settings": {section: settings[section] for section in ("method", "training")},
        "data": {"seed": seed, "fingerprint": _fingerprint(data)},
        "evaluation": {"episodes": episodes, "steps": 500, "seed": seed},
        **_measured(results, run_folder.path),
    }


def _run(stage: Stage, recipe: Recipe, data: Path, folder: Path, seed: int) -> dict[str, Any]:
    changes = (
        *stage.common.get(recipe.method, ()),
        *recipe.changes,
        *ONE_THREAD,
        f"training.seed={seed}",
    )
    settings = read_settings(stage.preset, changes, method=recipe.method)
    pipeline.train(
        data,
        folder,
        method=recipe.method,
        preset=stage.preset,
        overrides=changes,
        resume=(folder / "settings.json").exists(),
    )
    policy, prompts = _trained(folder)
    results = evaluate(
        policy, list(prompts), stage.evaluated, prompts=prompts, seed=seed, workers=1, max_steps=stage.steps
    )
    return {
        "about": recipe.about,
        "method": recipe.method,
        "changes": list(recipe.changes),
        "settings": {"method": to_mapping(settings.method), "training": asdict(settings.training)},
        "data": {"episodes": stage.episodes, "seed": SEARCH_SEED, "fingerprint": _fingerprint(data)},
        "evaluation": {"episodes": stage.evaluated, "steps": stage.steps, "seed": seed},
        **_measured(results, folder),
    }


def _measured(results: Results, folder: Path) -> dict[str, Any]:
    return {
        "seconds": training_seconds(folder / "metrics.jsonl"),
        "tasks": {task: _numbers(results, task) for task in results.tasks},
        "commit": provenance.commit(),
        "machine": provenance.machine(),
        "versions": dict(results.versions),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _trained(folder: Path) -> tuple[Policy, Prompts]:
    run = RunFolder.open(folder)
    method = load_method(run)
    return method.policy(), prompts_of(EpisodeStore.open(run.prompts), method.prompt_episodes)


def _fingerprint(data: Path) -> str:
    return EpisodeStore.open(data).fingerprint


def _numbers(results: Results, task: str) -> dict[str, Any]:
    summary = results.summary(task).to_json()
    return {name: summary[name] for name in ("return_mean", "success", "success_last")}


def read_rows() -> list[dict[str, Any]]:
    """The rows that are there."""
    if not ROWS.exists():
        return []
    return [parse_json(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]


def table(stage_name: str) -> Iterator[str]:
    """The lines of a Markdown table of a stage: means over seeds, and of the seeds' own means the least and most."""
    rows = [row for row in read_rows() if row["stage"] == stage_name]
    names = dict.fromkeys(row["recipe"] for row in rows)
    hardest = _hardest(rows)
    yield "| " + " | ".join(["", "seeds", "processor seconds", "return", "success", *hardest]) + " |"
    yield "|" + "---|" + "--:|" * (4 + len(hardest))
    for name in names:
        own = [row for row in rows if row["recipe"] == name]
        success = [_mean(row, "success") for row in own]
        spread = f" ({min(success):.2f} to {max(success):.2f})" if len(own) > 1 else ""
        yield (
            "| "
            + " | ".join(
                [
                    own[0]["about"],
                    str(len(own)),
                    f"{np.mean([row['seconds']['cpu'] for row in own]):.0f}",
                    f"{np.mean([_mean(row, 'return_mean') for row in own]):.0f}",
                    f"{np.mean(success):.2f}{spread}",
                    *(f"{np.mean([row['tasks'][task]['success'] for row in own]):.2f}" for task in hardest),
                ]
            )
            + " |"
        )


def _hardest(rows: Sequence[Mapping[str, Any]], count: int = 4) -> list[str]:
    """The tasks that fail most."""
    tasks = list(dict.fromkeys(task for row in rows for task in row["tasks"]))
    success = {task: np.mean([row["tasks"][task]["success"] for row in rows]) for task in tasks}
    return sorted((task for task in tasks if success[task] < 0.99), key=lambda task: success[task])[:count]


def draw(folder: Path) -> list[Path]:
    """Success of every recipe, its mean over tasks and on the task that fails most; a panel per stage."""
    from matplotlib import pyplot as plt

    from goskill.evaluation.colours import PALETTE
    from goskill.figures.style import save, style

    stages = {name: [row for row in read_rows() if row["stage"] == name] for name in STAGES}
    stages = {name: rows for name, rows in stages.items() if rows}
    recipes = {name: list(dict.fromkeys(row["about"] for row in rows)) for name, rows in stages.items()}
    heights = [len(names) for names in recipes.values()]
    with style():
        figure, axes = plt.subplots(
            len(stages),
            1,
            figsize=(7.5, 1.2 * len(stages) + 0.36 * sum(heights)),
            height_ratios=heights,
            squeeze=False,
        )
        for axis, (stage, rows) in zip(axes[:, 0], stages.items(), strict=True):
            names, hardest = recipes[stage], _hardest(rows, 1)
            for place, name in enumerate(names):
                own = [row for row in rows if row["about"] == name]
                mean = np.mean([_mean(row, "success") for row in own])
                axis.barh(place, mean, 0.7, color=PALETTE[0], label="all tasks" if place == 0 else None)
                for task in hardest:
                    there = np.mean([row["tasks"][task]["success"] for row in own])
                    axis.plot(there, place, "D", color=PALETTE[1], label=task if place == 0 else None)
            axis.set_yticks(range(len(names)), names)
            axis.invert_yaxis()
            axis.set_xlim(0, 1.02)
            axis.set_title(f"{stage}: success", loc="left")
            axis.legend(loc="lower right", bbox_to_anchor=(1.02, 1.0), ncols=2)
        return save(figure, folder, "recipes")


def _mean(row: Mapping[str, Any], name: str) -> float:
    return float(np.mean([numbers[name] for numbers in row["tasks"].values()]))


QUICKSTART = "reach,door-close,drawer-close,button-press-topdown,window-close"
BC_RATE = (
    *("training.learning_rate=1e-3", "training.warmup_iterations=500"),
    "training.decay_iterations=7500",
)
HALF = "method.best_share=0.5"
MLP = ("method.decoder=mlp", "method.decoder_width=256", "method.decoder_layers=3")
LONG = (
    *(HALF, *MLP, "method.reached_goal=false", "method.skill_noise=0.3"),
    *("method.policy_every=4", "method.policy_batch_per_task=4"),
    *("method.extraction_iterations=1000", "method.policy_iterations=4000"),
    "training.decay_iterations=2000",
)
SWAP = (
    *(*LONG, "method.skill_noise=0.6", "method.policy_every=2", "method.table_std=0.02"),
    *("method.extraction_iterations=800", "method.policy_iterations=3500"),
    "training.decay_iterations=1800",
)
LONG_DECAY = (
    *(*SWAP, "method.policy_every=4"),
    *("method.extraction_iterations=600", "method.policy_iterations=5000"),
    "training.decay_iterations=4500",
)
SMALL_BATCHES = (
    *(*SWAP, "method.skill_batch_per_task=8", "method.dead_code_threshold=0.3"),
    "method.policy_every=4",
    *("method.policy_iterations=8000", "training.decay_iterations=4000"),
)

THREE_TIMES = (
    *("method.extraction_iterations=2000", "method.policy_iterations=24000"),
    "training.decay_iterations=22000",
)
STAGES = {
    "quickstart-80": Stage(
        QUICKSTART,
        episodes=80,
        evaluated=20,
        steps=500,
        preset="quickstart",
        recipes={
            "preset": Recipe("go_skill", "GO-Skill, the preset: best half of 80 episodes"),
            "quarter": Recipe(
                "go_skill", "GO-Skill, best quarter of 80 episodes", ("method.best_share=0.25",)
            ),
            "bc-half": Recipe("bc", "BC, best half of 80 episodes", BC_RATE),
        },
    ),
    "mt10-80": Stage(
        "mt10",
        episodes=80,
        evaluated=20,
        steps=500,
        preset="mt10",
        common={"bc": BC_RATE},
        recipes={
            "preset": Recipe("go_skill", "GO-Skill, the preset, 80 episodes"),
            "long": Recipe("go_skill", "GO-Skill, the preset, 80 episodes, three times as long", THREE_TIMES),
            "bc-half": Recipe("bc", "BC, best half of 80 episodes"),
        },
    ),
    "quickstart": Stage(
        QUICKSTART,
        episodes=40,
        evaluated=20,
        steps=250,
        preset="quickstart",
        common={
            "bc": BC_RATE,
            "go_skill": (
                *FORMER_QUICKSTART,
                *("method.policy_width=64", "method.policy_heads=2", "method.dropout=0"),
                *("method.extraction_iterations=800", "method.policy_iterations=1200"),
                "training.decay_iterations=600",
            ),
        },
        recipes={
            "bc-all": Recipe("bc", "BC, all episodes", ("method.best_share=1.0",)),
            "bc-half": Recipe("bc", "BC, best half"),
            "all": Recipe("go_skill", "GO-Skill, all episodes"),
            "half": Recipe("go_skill", "GO-Skill, best half", (HALF,)),
            "mlp-all": Recipe("go_skill", "decoder without a memory, all episodes", MLP),
            "mlp-half": Recipe("go_skill", "decoder without a memory, best half", (HALF, *MLP)),
            "mlp-no-resampling": Recipe(
                "go_skill", "the same, no resampling", (HALF, *MLP, "method.resampling=false")
            ),
            "mlp-noise-0.3": Recipe(
                "go_skill", "the same, 30 % uniformly random skills", (HALF, *MLP, "method.skill_noise=0.3")
            ),
            "long": Recipe("go_skill", "the same, longer, no reached goal", LONG),
            "swap": Recipe("go_skill", "the same, 60 % swapped skills instead, small tables", SWAP),
            "rescaled": Recipe(
                "go_skill", "the same, Kaiming initialisation, longer, slower decay", LONG_DECAY
            ),
            "small-batches": Recipe(
                "go_skill", "the same, twice the iterations, half the batch", SMALL_BATCHES
            ),
            "swap-wide-tables": Recipe(
                "go_skill", "the same, tables as released", (*SWAP, "method.table_std=1.0")
            ),
            "swap-none": Recipe(
                "go_skill", "small tables, no swapped skills", (*SWAP, "method.skill_noise=0")
            ),
            "long-no-noise": Recipe(
                "go_skill", "the same, no random skills", (*LONG, "method.skill_noise=0")
            ),
            "long-no-resampling": Recipe(
                "go_skill", "longer, no resampling", (*LONG, "method.resampling=false")
            ),
            "mlp-codes-4": Recipe("go_skill", "the same, 4 codes", (HALF, *MLP, "method.codebook_size=4")),
            "mlp-codes-32": Recipe("go_skill", "the same, 32 codes", (HALF, *MLP, "method.codebook_size=32")),
            "mlp-horizon-5": Recipe("go_skill", "the same, horizon 5", (HALF, *MLP, "method.horizon=5")),
            "mlp-no-reached": Recipe(
                "go_skill", "the same, no reached goal", (HALF, *MLP, "method.reached_goal=false")
            ),
            "mlp-hand": Recipe(
                "go_skill",
                "the same, goal of hand and object",
                (HALF, *MLP, "method.goal_dimensions=[0,1,2,3,4,5,6]"),
            ),
        },
    ),
    "mt10": Stage(
        "mt10",
        episodes=40,
        evaluated=10,
        steps=500,
        preset="quickstart",
        common={
            "bc": BC_RATE,
            "go_skill": (
                *(*FORMER_QUICKSTART, *SWAP, "method.policy_width=64", "method.policy_heads=2"),
                *("method.skill_batch_per_task=4", "method.extraction_iterations=1000"),
                "method.dead_code_threshold=0.3",
                *("method.policy_iterations=8000", "method.policy_every=6", "training.decay_iterations=4000"),
            ),
        },
        recipes={
            "bc-half": Recipe("bc", "BC, best half"),
            "recipe": Recipe("go_skill", "GO-Skill, 60 % swapped skills, small tables, no memory"),
            "told": Recipe(
                "go_skill",
                "GO-Skill, decoder told the task, Kaiming initialisation, longer decay",
                ("method.tell_task=true", "training.decay_iterations=7500"),
            ),
        },
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("stage", choices=sorted(STAGES))
    running.add_argument("--work", type=Path, default=Path("runs/recipes"))
    running.add_argument("--recipes", nargs="*", default=[])
    running.add_argument("--seeds", nargs="*", type=int, default=[SEARCH_SEED + 1])
    reporting = commands.add_parser("report")
    reporting.add_argument("--work", type=Path, default=Path("runs/recipes"))
    reporting.add_argument("--seeds", nargs="*", type=int, default=range(5))
    commands.add_parser("tell")
    commands.add_parser("draw")
    chosen = parser.parse_args(arguments)
    if chosen.command == "run":
        run(chosen.stage, chosen.work, chosen.recipes, chosen.seeds)
    elif chosen.command == "report":
        report(chosen.work, chosen.seeds)
    elif chosen.command == "draw":
        draw(DOCS)
    else:
        there = {row["stage"] for row in read_rows()}
        for stage in (name for name in (*STAGES, REPORT) if name in there):
            print(f"\n{stage}\n")
            print("\n".join(table(stage)))


if __name__ == "__main__":
    main()
