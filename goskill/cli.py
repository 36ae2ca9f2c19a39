"""The command line: its commands, and how each ends."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from goskill.commands import comparisons, stores
from goskill.commands import run_commands as runs
from goskill.errors import InputError, WorkerDied, WorkerFailed

app = typer.Typer(
    name="goskill",
    help="Learn robot skills from mixed offline data: GO-Skill on MetaWorld and your own episodes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

COMMANDS: Mapping[str, Callable[..., None]] = {
    "quickstart": runs.quickstart,
    "collect": stores.collect,
    "convert": stores.convert,
    "merge": stores.merge,
    "mix": stores.mix,
    "download": stores.download,
    "info": stores.info,
    "verify": stores.verify,
    "train": runs.train,
    "settings": runs.settings,
    "finetune": runs.finetune,
    "eval": runs.evaluate,
    "export": runs.export,
    "push": runs.push,
    "diagnose": runs.diagnose,
    "label": stores.label,
    "figures": comparisons.figures,
    "compare": comparisons.compare,
    "study": comparisons.study,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


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
    limit: Annotated[
        float | None,
        typer.Option(min=1, help="Interrupt a suite after so many seconds; its rows until then are kept."),
    ] = None,
) -> None:
    """Run benchmark suites beside their peers and keep the results as rows.

    Each row goes to `bench/results/SUITE.jsonl` of the checkout you stand in, or to FILE, as soon as it is there.

    Examples: `goskill bench data`, `goskill bench kernels --json rows.jsonl`
    """
    from goskill.bench import report, runner

    for name in [suite] if suite else runner.suites():
        file: Path | None = as_json or Path("bench/results") / f"{name}.jsonl"
        if not as_json and not Path("bench/results").is_dir():
            file = None
        rows, fault = runner.run(name, gpu=gpu, select=select, limit=limit, file=file)
        report.print_table(rows)
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
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what a terminal's encoding lacks
    warnings.showwarning = _show_warning
    sys.exit(_status(lambda: typer.main.get_command(app).main(standalone_mode=False)))


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning as one line, without the place in the code; those for developers are left out."""
    if not issubclass(category, DeprecationWarning):
        _tell("warning: " + " ".join(str(message).split()))


def _status(command: Callable[[], Any]) -> int:
    # Typer raises its parser's errors under a class that it does not export; this is their common base.
    usage_error: type[Exception] = typer.BadParameter.__mro__[1]
    try:
        status = command()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read it, as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
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
    except WorkerFailed as error:
        return _fail(_without_frames(str(error)), status=1)
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    if status == 130:  # some versions of typer catch Ctrl-C themselves
        _tell("interrupted")
    return status if isinstance(status, int) else 0


def _without_frames(message: str) -> str:
    """The first line of a message with a traceback, and what was raised: all that follows the last frame."""
    lines = message.splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith(" ")]
    return "\n".join(lines[:1] + lines[frames[-1] + 1 :]) if frames else message


def _fail(message: str, status: int = 2) -> int:
    _tell("error: " + " ".join(message.split()))
    return status


def _tell(line: str) -> None:
    """A line on stderr, if anybody reads it."""
    with contextlib.suppress(OSError):
        typer.echo(line, err=True)


if __name__ == "__main__":  # torchrun -m goskill.cli
    main()
