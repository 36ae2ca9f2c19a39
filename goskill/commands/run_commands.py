"""Commands about one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from goskill.commands.options import Device, Labels, Overrides, Seed, Suite, Tasks, Workers
from goskill.errors import InputError


def quickstart(
    out: Annotated[Path, typer.Option(help="The run folder to write.")] = Path("runs/quickstart"),
    seed: Seed = 0,
    workers: Workers = None,
    overrides: Overrides = None,
) -> None:
    """Go the whole way on five MetaWorld tasks: collect, train, evaluate, draw. Minutes on two cores.

    Example: `goskill quickstart --out runs/first --seed 1`
    """
    from goskill.experiments.quickstart import run_quickstart

    run_quickstart(out, seed=seed, workers=workers, overrides=overrides or ())


def train(
    out: Annotated[Path, typer.Option(help="The run folder to write.", metavar="RUN")],
    data: Annotated[Path | None, typer.Option(help="The episode store to learn from.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="A name (`goskill settings --methods` lists them; default: go_skill) or module:Class.",
            metavar="NAME",
        ),
    ] = None,
    ablations: Annotated[
        list[str] | None,
        typer.Option("--ablation", help="Leave a part of the method out, such as no-focal.", metavar="NAME"),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="quickstart, mt10 (default), mt50, maze, kitchen; mt30-paper, mt50-paper, ml45-paper."
        ),
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in RUN, or begin it if there is none.")
    ] = False,
    suite: Annotated[
        str | None,
        typer.Option(
            help="For methods that learn in environments: the suite, or module:attribute.", metavar="NAME"
        ),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks of the suite to learn in. Default: all.", metavar="A,B")
    ] = None,
    workers: Workers = None,
    labels: Labels = None,
    device: Device = None,
    precision: Annotated[str | None, typer.Option(help="float32, tf32 (on a GPU), bfloat16 or auto.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Decides every random choice.", min=0, max=2**60 - 1)
    ] = None,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Also write a trace of a few iterations of each phase to RUN/profile, for Perfetto.",
        ),
    ] = False,
) -> None:
    """Train on an episode store.

    Examples: `goskill train --preset mt10 --data data/mt10 --out runs/mt10`; after an interruption
    `goskill train --resume --out runs/mt10`; `goskill train --data data/mt10 --out runs/short --set method.horizon=5`;
    `goskill train --data data/mt10 --out runs/plain --ablation no-focal,no-resampling`;
    `goskill train --data data/mt10 --out runs/baseline --method prompt_dt`
    """
    from goskill.experiments import pipeline

    changes = list(overrides or ())
    for name, value in (
        ("device", device),
        ("precision", precision),
        ("seed", seed),
        ("profile", profile or None),
    ):
        if value is not None:
            changes.append(f"training.{name}={json.dumps(value)}")
    left_out = [name.strip() for names in ablations or () for name in names.split(",") if name.strip()]
    pipeline.train(
        data,
        out,
        method=method,
        preset=preset,
        ablations=left_out,
        overrides=changes,
        resume=resume,
        suite=suite,
        tasks=[name.strip() for name in (tasks or "").split(",") if name.strip()],
        workers=workers,
        labels=labels,
    )


def settings(
    method: Annotated[str, typer.Argument(help="A method's name or module:Class.")] = "go_skill",
    methods: Annotated[bool, typer.Option("--methods", help="List the names of all methods.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference page of all settings.")
    ] = False,
) -> None:
    """Print every setting of a run with its default and meaning.

    Examples: `goskill settings prompt_dt`, `goskill settings --methods`
    """
    from goskill.experiments import setting_reference
    from goskill.methods import method_names

    if methods or markdown:
        typer.echo("\n".join(method_names()) if methods else setting_reference.markdown(), nl=methods)
        return
    for section, found in setting_reference.sections(method):
        for one in found:
            typer.echo(f"{section}.{one.name} = {one.default}\n    {one.description}")


def finetune(
    run: Annotated[Path, typer.Argument(help="The run folder to start from.", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="The run folder to write.", metavar="RUN2")],
    data: Annotated[Path | None, typer.Option(help="An episode store of the new tasks.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="ml45 (its five new tasks) or mt10 (two new tasks).")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Default: 3000, or the preset's.", min=1)] = None,
    evaluate_every: Annotated[
        int | None,
        typer.Option(help="Also evaluate on the way, into evaluations.jsonl. Default: as the preset says."),
    ] = None,
    overrides: Overrides = None,
    suite: Suite = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted RUN2.")] = False,
    workers: Workers = None,
    labels: Labels = None,
) -> None:
    """Train a finished run on with other tasks. GO-Skill keeps its skills, other methods train everything.

    Examples: `goskill collect --suite ml45-test --out data/new`,
    `goskill finetune runs/ml45 --preset ml45 --data data/new --out runs/new`, after an interruption
    `goskill finetune runs/ml45 --out runs/new --resume`, then `goskill eval runs/new`
    """
    from goskill.experiments import finetuning

    if not resume:
        if data is None:
            raise InputError("--data: expected an episode store of the new tasks, got none")
        finetuning.finetune(
            run,
            data,
            out,
            preset=preset,
            iterations=iterations,
            evaluate_every=evaluate_every,
            overrides=overrides or (),
            workers=workers,
            suite=suite,
            labels=labels,
        )
        return
    for name, value in (
        ("--preset", preset),
        ("--iterations", iterations),
        ("--evaluate-every", evaluate_every),
    ):
        if value is not None:
            raise InputError(f"{name}: --resume goes on as {out} was started, leave it out")
    finetuning.resume(
        out, data, path=run, overrides=overrides or (), workers=workers, suite=suite, labels=labels
    )


def evaluate(
    run: Annotated[Path | None, typer.Argument(help="A run folder.", metavar="RUN")] = None,
    episodes: Annotated[
        int | None, typer.Option(help="New episodes per task. Default: as the run's settings say.", min=1)
    ] = None,
    suite: Suite = None,
    tasks: Tasks = None,
    data: Annotated[
        Path | None,
        typer.Option(help="An episode store with demonstrations of tasks that the run never saw."),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Which of its demonstrations: best, successful, shortest, a column, or a .json file of indices.",
            metavar="RULE",
        ),
    ] = None,
    workers: Workers = None,
    seed: Seed = 0,
    device: Device = None,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    video: Annotated[bool, typer.Option("--video", help="Also write a short film of each task.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where the results go, instead of RUN/results.json.", metavar="FILE")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="A checkpoint's name, or newest, which a run under way has too. Results go to RUN/results-NAME.json.",
            metavar="NAME",
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            help="A policy that comes with goskill, such as quickstart, in place of RUN; it is copied to "
            "runs/pretrained-NAME.",
            metavar="NAME",
        ),
    ] = None,
) -> None:
    """Evaluate a run in its suite: mean return and success, per task and overall.

    Examples: `goskill eval runs/mt10`, `goskill eval runs/mt10 --tasks reach,push --episodes 10 --out two.json`,
    `goskill eval runs/mine --suite my_module:suite`, `goskill eval --pretrained quickstart --episodes 2 --video`
    """
    from goskill.experiments import pipeline
    from goskill.experiments.pretrained import copy_pretrained

    if (run is None) == (pretrained is None):
        raise InputError("RUN: expected a run folder or --pretrained NAME, one of them")
    if pretrained is not None:
        run = copy_pretrained(pretrained, Path("runs") / f"pretrained-{pretrained}")
    assert run is not None
    pipeline.evaluate(
        run,
        episodes=episodes,
        suite=suite,
        tasks=tasks,
        data=data,
        prompts=prompts,
        workers=workers,
        seed=seed,
        device=device,
        precision=precision,
        video=video,
        out=out,
        checkpoint=checkpoint,
    )


def export(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.", metavar="RUN")],
    folder: Annotated[Path, typer.Argument(help="The folder to write.", metavar="FOLDER")],
    full: Annotated[bool, typer.Option("--full", help="Keep weights in 32 bits instead of 16.")] = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="A checkpoint's name, or newest.", metavar="NAME")
    ] = None,
    commit: Annotated[
        str | None, typer.Option(help="The commit that trained it. Default: this checkout's.", metavar="HASH")
    ] = None,
) -> None:
    """Write a run as a small folder to hand on: weights, demonstrations, where they come from, a model card.

    Example: `goskill export runs/mt10 mt10-policy`, then anywhere `goskill eval mt10-policy`
    """
    from goskill.experiments import pipeline

    pipeline.export(run, folder, half=not full, checkpoint=checkpoint, commit=commit)


def push(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.", metavar="RUN")],
    repository: Annotated[str, typer.Argument(help="The model repository.", metavar="USER/NAME")],
    full: Annotated[bool, typer.Option("--full", help="Keep weights in 32 bits instead of 16.")] = False,
    private: Annotated[bool, typer.Option("--private", help="A repository made now is private.")] = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="A checkpoint's name, or newest.", metavar="NAME")
    ] = None,
) -> None:
    """Put a run on huggingface.co with a model card, for `goskill.load_policy("hf://USER/NAME")`.

    Needs `pip install 'goskill[hub]'` and `hf auth login`. Example: `goskill push runs/mt10 me/goskill-mt10`
    """
    from goskill.experiments import pipeline

    pipeline.push(run, repository, half=not full, private=private, checkpoint=checkpoint)


def diagnose(
    run: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    data: Annotated[Path, typer.Argument(help="An episode store of the run's tasks.", metavar="DATA")],
    episodes: Annotated[
        int, typer.Option(help="Demonstrations per task to follow in the suite. 0: none.", min=0)
    ] = 5,
    suite: Suite = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    workers: Workers = None,
    labels: Labels = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Find where return is lost: action errors, skill accuracy, codebook use, rollouts with a demonstration's skills.

    Examples: `goskill diagnose runs/mt10 data/mt10`, `goskill diagnose runs/mt10 data/mt10 --episodes 0 --json`
    """
    from goskill.experiments import pipeline

    pipeline.diagnose(
        run,
        data,
        suite=suite,
        episodes=episodes,
        as_json=as_json,
        workers=workers,
        labels=labels,
        seed=seed,
        device=device,
    )
