"""Results as tables for a terminal."""

from __future__ import annotations

from typing import Literal

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from goskill.evaluation.compare import ComparedRuns, Comparison
from goskill.evaluation.results import Results, Summary
from goskill.evaluation.statistics import Estimate
from goskill.terminal import amount

UNKNOWN = "unknown"


def results_table(results: Results, title: str | None = None) -> Table:
    """Task, return, success at any step and at the end, and the data's returns if known."""
    protocol = results.protocol
    episodes = f"{protocol.episodes} episode{'s' if protocol.episodes > 1 else ''} per task"
    caption = f"{episodes}, {protocol.max_steps} steps; brackets hold 95 %"
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD)
    table.add_column("task", overflow="fold")
    for column in ("return", "success", "at end", *(("data mean", "data best") if results.data else ())):
        table.add_column(column, justify="right", overflow="fold")
    for task in results.tasks:
        cells = [escape(task), *_summary_cells(results.summary(task))]
        if results.data:
            known = results.data.get(task)
            cells += ["", ""] if known is None else [amount(known.mean), amount(known.best)]
        table.add_row(*cells)
    table.add_section()
    table.add_row("all tasks", *_summary_cells(results.overall), style="bold")
    return table


def comparison_table(comparison: Comparison, title: str | None = None) -> Group:
    """All contenders overall, then return and success by task with differences from the first contender."""
    overall = Table(title=title, caption=_comparison_caption(comparison), box=box.SIMPLE_HEAD)
    overall.add_column("", overflow="fold")
    for column in ("return", "difference", "success", "difference"):
        overall.add_column(column, justify="right", overflow="fold")
    for contender in comparison.contenders:
        overall.add_row(contender.name, *_overall_cells(contender))
    return Group(overall, _task_table(comparison, "return"), _task_table(comparison, "success"))


def _task_table(comparison: Comparison, value: Literal["return", "success"]) -> Table:
    """Contenders in columns, tasks in rows; a difference whose interval excludes zero has a star."""
    table = Table(title=f"{value} by task", box=box.SIMPLE_HEAD)
    table.add_column("task", overflow="fold")
    for contender in comparison.contenders:
        table.add_column(contender.name, justify="right", overflow="fold")
    for task in comparison.tasks:
        table.add_row(
            escape(task), *(_task_cell(contender, task, value) for contender in comparison.contenders)
        )
    return table


def _task_cell(contender: ComparedRuns, task: str, value: Literal["return", "success"]) -> str:
    level = contender.returns[task] if value == "return" else contender.success[task]
    if level is None:
        return UNKNOWN
    shown = amount if value == "return" else _share
    if contender.differences is None:
        return shown(level.value)
    both = contender.differences[task]
    difference = both.returns if value == "return" else both.success
    if difference is None:
        return shown(level.value)
    return f"{shown(level.value)} ({shown(difference.value, '+')}){_star(difference)}"


def _share(value: float, sign: str = "") -> str:
    return format(value, f"{sign}.0%")


def _summary_cells(summary: Summary) -> list[str]:
    return [
        _with_interval(summary.returns),
        percentage(summary.success),
        percentage(summary.success_last),
    ]


def percentage(share: Estimate | None) -> str:
    """A share in a table or a message; "unknown" where nothing reported it."""
    return UNKNOWN if share is None else f"{share.value:.0%}"


def _overall_cells(contender: ComparedRuns) -> list[str]:
    difference = contender.overall_difference
    return [
        _with_interval(contender.overall_return),
        "" if difference is None else _with_interval(difference.returns, "+"),
        percentage(contender.overall_success),
        ""
        if difference is None or difference.success is None
        else f"{difference.success.value:+.0%}{_star(difference.success)}",
    ]


def _comparison_caption(comparison: Comparison) -> str:
    lines = [
        f"differences are from {comparison.contenders[0].name}; brackets hold 95 %, a star excludes zero"
    ]
    for contender in comparison.contenders[1:]:
        pairing = f"paired by {contender.paired_by}" if contender.paired_by else "independent samples"
        lines.append(f"{contender.name}: {pairing}")
    for contender in comparison.contenders:
        if contender.interquartile_return is not None:
            iqm = _with_interval(contender.interquartile_return)
            lines.append(f"{contender.name}: interquartile mean return {iqm} over {contender.runs} runs")
    if comparison.left_out:
        lines.append(f"left out (not in every run): {', '.join(comparison.left_out)}")
    return "\n".join(lines)


def _star(difference: Estimate) -> str:
    interval = difference.interval
    return "*" if interval is not None and not interval.low <= 0 <= interval.high else " "


def _with_interval(estimate: Estimate, sign: str = "") -> str:
    """A return with its interval."""
    value, interval = amount(estimate.value, sign), estimate.interval
    if interval is None:
        return value
    # Rich reads square brackets as markup.
    return f"{value} \\[{amount(interval.low, sign)}, {amount(interval.high, sign)}]"
