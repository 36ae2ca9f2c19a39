"""The command line: each command is one call into the rooms below."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from goskill.errors import InputError, WorkerDied

app = typer.Typer(
    name="goskill",
    help="Learn robot skills from mixed offline data: GO-Skill on MetaWorld and your own episodes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Tasks = Annotated[str | None, typer.Option(help="Task names, separated by commas.", metavar="A,B")]
Workers = Annotated[int | None, typer.Option(help="Worker processes. Default: one per core.", min=0)]
Seed = Annotated[int, typer.Option(help="Decides every random choice.", min=0, max=2**60 - 1)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting: section.key=value.", metavar="KEY=VALUE"),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
_CONTENDERS = "Run folders that were evaluated; NAME=RUN,RUN for the training seeds of one contender."


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="The run folder to write.")] = Path("runs/quickstart"),
    seed: Seed = 0,
    workers: Workers = None,
    overrides: Overrides = None,
) -> None:
    """Go the whole way on five MetaWorld tasks: collect, train, evaluate, draw. Minutes on two cores.

    Example: `goskill quickstart --out runs/first --seed 1`
    """
    from goskill import pipeline

    pipeline.quickstart(out, seed=seed, workers=workers, overrides=overrides or ())


@app.command()
def collect(
    out: Annotated[Path, typer.Option(help="The episode store to write.", metavar="DATA")],
    suite: Annotated[str | None, typer.Option(help="mt10, mt30, mt50, ml45-train or ml45-test.")] = None,
    tasks: Tasks = None,
    episodes: Annotated[int, typer.Option(help="Episodes per task, from random to expert.", min=1)] = 40,
    policy: Annotated[str, typer.Option(help="Who acts: scripted.")] = "scripted",
    quality: Annotated[
        str, typer.Option(help="near-optimal: all episodes; sub-optimal: the first half.")
    ] = "near-optimal",
    workers: Workers = None,
    seed: Seed = 0,
) -> None:
    """Collect episodes with MetaWorld's scripted policies. Run it again to go on after an interruption.

    Examples: `goskill collect --suite mt10 --out data/mt10`,
    `goskill collect --tasks reach,push --out data/two`
    """
    from goskill import pipeline

    pipeline.collect(
        out,
        tasks=pipeline.choose_tasks(suite, tasks),
        episodes=episodes,
        policy=policy,
        quality=quality,
        workers=workers,
        seed=seed,
    )


@app.command()
def convert(
    layout: Annotated[str, typer.Argument(help="mtdiff, goskill, harmodt, minari or hdf5.")],
    source: Annotated[str, typer.Argument(help="A folder, a file, or a Minari dataset's id.", metavar="SRC")],
    data: Annotated[Path, typer.Argument(help="The episode store to write.", metavar="DATA")],
    quality: Annotated[
        str, typer.Option(help="npz layouts: near-optimal, or sub-optimal (the first half).")
    ] = "near-optimal",
    workers: Workers = None,
) -> None:
    """Convert another dataset into an episode store. What was odd about it is printed.

    Examples: `goskill convert goskill downloads/metaworld data/mt50`, `goskill convert hdf5 episodes.hdf5 data/mine`
    """
    from goskill import pipeline

    pipeline.convert(layout, source, data, quality=quality, workers=workers)


@app.command()
def info(
    data: Annotated[Path, typer.Argument(help="An episode store.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what an episode store holds: tasks, counts, returns, where it came from.

    Example: `goskill info data/mt10`
    """
    from goskill import pipeline

    pipeline.show_store(data, as_json=as_json)


@app.command()
def verify(data: Annotated[Path, typer.Argument(help="An episode store.")]) -> None:
    """Read every byte of an episode store and check it against its checksums.

    Example: `goskill verify data/mt10`
    """
    from goskill import pipeline

    pipeline.verify(data)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="The run folder to write.", metavar="RUN")],
    data: Annotated[Path | None, typer.Option(help="The episode store to learn from.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="go_skill (the default), prompt_dt, mtdt, or one of them with several heads: mh_go_skill, "
            "mh_prompt_dt, mh_mtdt.",
            metavar="NAME",
        ),
    ] = None,
    ablations: Annotated[
        list[str] | None,
        typer.Option("--ablation", help="Leave a part of the method out, such as no-focal.", metavar="NAME"),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="quickstart, mt10 (the default), mt30, mt50 or ml45.")
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    device: Device = None,
    precision: Annotated[str | None, typer.Option(help="float32, bfloat16 or auto.")] = None,
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
    from goskill import pipeline

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
        data, out, method=method, preset=preset, ablations=left_out, overrides=changes, resume=resume
    )


@app.command()
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
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted RUN2.")] = False,
    workers: Workers = None,
) -> None:
    """Train a finished run on with other tasks. GO-Skill keeps its skills, other methods train everything.

    Examples: `goskill collect --suite ml45-test --out data/new`,
    `goskill finetune runs/ml45 --preset ml45 --data data/new --out runs/new`, after an interruption
    `goskill finetune runs/ml45 --out runs/new --resume`, then `goskill eval runs/new`
    """
    from goskill import finetuning

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
        )
        return
    for name, value in (
        ("--preset", preset),
        ("--iterations", iterations),
        ("--evaluate-every", evaluate_every),
    ):
        if value is not None:
            raise InputError(f"{name}: --resume goes on as {out} was started, leave it out")
    finetuning.resume(out, data, path=run, overrides=overrides or (), workers=workers)


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    episodes: Annotated[
        int | None, typer.Option(help="New episodes per task. Default: as the run's settings say.", min=1)
    ] = None,
    tasks: Tasks = None,
    data: Annotated[
        Path | None,
        typer.Option(help="An episode store with demonstrations of tasks that the run never saw."),
    ] = None,
    workers: Workers = None,
    seed: Seed = 0,
    device: Device = None,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    video: Annotated[bool, typer.Option("--video", help="Also write a short film of each task.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where the results go, instead of RUN/results.json.", metavar="FILE")
    ] = None,
) -> None:
    """Evaluate a run in MetaWorld: mean return and success, per task and overall.

    Examples: `goskill eval runs/mt10`, `goskill eval runs/mt10 --tasks reach,push --episodes 10 --out two.json`
    """
    from goskill import pipeline

    pipeline.evaluate(
        run,
        episodes=episodes,
        tasks=tasks,
        data=data,
        workers=workers,
        seed=seed,
        device=device,
        precision=precision,
        video=video,
        out=out,
    )


@app.command()
def diagnose(
    run: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    data: Annotated[Path, typer.Argument(help="An episode store of the run's tasks.", metavar="DATA")],
    episodes: Annotated[
        int, typer.Option(help="Demonstrations per task to follow in MetaWorld. 0: none.", min=0)
    ] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    workers: Workers = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Find where return is lost: action errors, skill accuracy, codebook use, rollouts with a demonstration's skills.

    Examples: `goskill diagnose runs/mt10 data/mt10`, `goskill diagnose runs/mt10 data/mt10 --episodes 0 --json`
    """
    from goskill import pipeline

    pipeline.diagnose(
        run, data, episodes=episodes, as_json=as_json, workers=workers, seed=seed, device=device
    )


@app.command()
def label(
    run: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    data: Annotated[Path, typer.Argument(help="An episode store.", metavar="DATA")],
    device: Device = None,
) -> None:
    """Label every step of an episode store with a run's skills; prints the name of the column.

    Stopped or killed, the same command goes on. Under torchrun the ranks share the work.

    Example: `goskill label runs/mt10 data/mt10`
    """
    from goskill import pipeline
    from goskill.training import distributed

    column = pipeline.label(run, data, device=device)
    if distributed.rank() == 0:
        typer.echo(column)


@app.command()
def figures(
    runs: Annotated[list[str], typer.Argument(help=f"{_CONTENDERS} Study folders.", metavar="FOLDER...")],
) -> None:
    """Draw a run's figures from the files in its folder, or a study's figures and tables from its rows.

    Several runs, or several studies, are also drawn beside each other.

    Examples: `goskill figures runs/mt10`, `goskill figures GO-Skill=runs/s0,runs/s1 Prompt-DT=runs/d0,runs/d1`,
    `goskill figures studies/paper-mt30 studies/paper-mt50`
    """
    from goskill.evaluation import read_contenders
    from goskill.figures import draw_comparison, draw_run, draw_studies, draw_study, is_study

    studies = [Path(folder) for folder in runs if is_study(folder)]
    others = [run for run in runs if not is_study(run)]
    written = [file for folder in studies for file in draw_study(folder)]
    if len(studies) > 1:
        written += draw_studies(studies, studies[0] / "figures")
    if others:
        folders = [folder for group in read_contenders(others).values() for folder in group]
        written += [file for folder in folders for file in draw_run(folder)]
        if len(folders) > 1:
            written += draw_comparison(others, folders[0] / "figures")
    for file in written:
        typer.echo(file)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help=_CONTENDERS, metavar="RUN...")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare evaluated runs task by task, with paired differences from the first.

    Examples: `goskill compare runs/mt10 runs/no-focal-loss`,
    `goskill compare GO-Skill=runs/s0,runs/s1 Prompt-DT=runs/d0,runs/d1`
    """
    from goskill import pipeline

    pipeline.compare(runs, as_json=as_json)


@app.command()
def study(
    source: Annotated[
        str, typer.Argument(help="A study file, or a ready one's name (see below).", metavar="STUDY")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The study's folder. Default: studies/NAME.", metavar="FOLDER")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Runs at a time. Default: one per GPU, or per core without one.", min=1)
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Another episode store for one of the study's data.", metavar="NAME=DATA"),
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Only print the table of what is there.")] = False,
    into: Annotated[
        Path | None,
        typer.Option(
            help="With --table: also put it into this Markdown file, between its markers.", metavar="FILE"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --table: print JSON.")] = False,
) -> None:
    """Run a comparison: what is missing of it, several runs at a time; then print its table.

    Stopped or killed at any moment, the same command goes on. Each task of each run becomes one line of
    `FOLDER/rows.jsonl`. Ready studies: paper-mt50, paper-mt30, paper-ablations, paper-hyperparameters, paper-ml45,
    small-mt10.

    Examples: `goskill study small-mt10`, `goskill study paper-mt30 --data near-optimal=data/mt30`,
    `goskill study small-mt10 --table --into README.md`
    """
    from goskill import studies

    if table:
        folder = out or Path("studies") / studies.read_study(source).name
        studies.show_study(source, folder, into=into, as_json=as_json)
        return
    if into is not None or as_json:
        raise InputError("--into and --json go with --table")
    stores = dict(_named(text) for text in data or ())
    if studies.run_study(source, out, processes=processes, stores=stores):
        raise typer.Exit(1)


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InputError(f"--data: expected NAME=DATA, got {text!r}")
    return name, value


@app.command()
def bench(
    suite: Annotated[str | None, typer.Argument(help="A benchmark suite. Default: all.")] = None,
    as_json: Annotated[
        Path | None, typer.Option("--json", help="Append the rows to this file.", metavar="FILE")
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Run what needs a GPU instead of the rest.")] = False,
    select: Annotated[
        str | None, typer.Option("-k", help="Only benchmarks that match (as pytest's -k).")
    ] = None,
) -> None:
    """Run benchmark suites beside their peers and keep the results as rows.

    Rows go to `bench/results/SUITE.jsonl` of the checkout you stand in, or to FILE.

    Examples: `goskill bench data`, `goskill bench kernels --json rows.jsonl`
    """
    from goskill.bench import report, runner

    for name in [suite] if suite else runner.suites():
        rows, fault = runner.run(name, gpu=gpu, select=select)
        report.print_table(rows)
        file = as_json or Path("bench/results") / f"{name}.jsonl"
        if as_json or file.parent.is_dir():
            runner.append(rows, file)
        if fault:
            raise InputError(fault)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print what a bug report needs.

    Example: `goskill doctor`
    """
    from goskill.doctor import report

    facts = report()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for name, fact in facts.items():
        typer.echo(f"{name:<{width}}  {', '.join(fact) or 'none' if isinstance(fact, list) else fact}")


def main() -> None:
    """Runs the command line. Wrong input ends with one line and exit status 2, Ctrl-C with 130."""
    sys.exit(_status(lambda: typer.main.get_command(app).main(standalone_mode=False)))


def _status(command: Callable[[], Any]) -> int:
    # Typer raises its parser's errors under a class that it does not export; this is their common base.
    usage_error: type[Exception] = typer.BadParameter.__mro__[1]
    try:
        status = command()
    except InputError as error:
        return _fail(str(error))
    except usage_error as error:
        message = error.format_message()  # type: ignore[attr-defined]
        return _fail(message) if message else 0  # without arguments the help was printed
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        return _fail(f"{error.filename or 'writing'}: {error.strerror}")
    except WorkerDied as error:
        return _fail(f"{error}; run the command again to go on", status=1)
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    if status == 130:  # some versions of typer catch Ctrl-C themselves
        typer.echo("interrupted", err=True)
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int = 2) -> int:
    typer.echo("error: " + " ".join(message.split()), err=True)
    return status


if __name__ == "__main__":  # torchrun -m goskill.cli
    main()
