"""Results as tables for a terminal."""

from __future__ import annotations

from rich.table import Table

from goskill.evaluation.compare import Comparison, Contender, Difference
from goskill.evaluation.results import Results, Summary
from goskill.evaluation.statistics import Estimate


def results_table(results: Results, title: str | None = None) -> Table:
    """Task, return, success at any and at the last step, and the data's returns if known."""
    protocol = results.protocol
    caption = f"{protocol.episodes} episodes per task, {protocol.max_steps} steps; brackets hold 95 %"
    table = Table(title=title, caption=caption)
    table.add_column("task")
    for column in ("return", "success", "at last step"):
        table.add_column(column, justify="right")
    if results.data:
        table.add_column("data mean", justify="right")
        table.add_column("data best", justify="right")
    for task in results.tasks:
        cells = [task, *_summary_cells(results.summary(task))]
        if results.data:
            known = results.data.get(task)
            cells += ["", ""] if known is None else [f"{known.mean:.0f}", f"{known.best:.0f}"]
        table.add_row(*cells)
    table.add_section()
    table.add_row("all tasks", *_summary_cells(results.overall), style="bold")
    return table


def comparison_table(comparison: Comparison, title: str | None = None) -> Table:
    """Each contender's return and success per task, and its difference from the first one."""
    table = Table(title=title, caption=_comparison_caption(comparison))
    table.add_column("task")
    for index, contender in enumerate(comparison.contenders):
        table.add_column(f"{contender.name}\nreturn", justify="right")
        table.add_column("\nsuccess", justify="right")
        if index:
            table.add_column("difference\nreturn", justify="right")
            table.add_column("\nsuccess", justify="right")
    for task in comparison.tasks:
        cells = [task]
        for contender in comparison.contenders:
            cells += [f"{contender.returns[task].value:.0f}", f"{contender.success[task].value:.0%}"]
            if contender.differences is not None:
                cells += _difference_cells(contender.differences[task])
        table.add_row(*cells)
    table.add_section()
    overall = ["all tasks"]
    for contender in comparison.contenders:
        overall += _overall_cells(contender)
    table.add_row(*overall, style="bold")
    return table


def _summary_cells(summary: Summary) -> list[str]:
    return [
        _with_interval(summary.returns, ".0f"),
        _with_interval(summary.success, ".0%"),
        f"{summary.success_last.value:.0%}",
    ]


def _overall_cells(contender: Contender) -> list[str]:
    cells = [_with_interval(contender.overall_return, ".0f"), f"{contender.overall_success.value:.0%}"]
    if contender.overall_difference is not None:
        cells += _difference_cells(contender.overall_difference)
    return cells


def _difference_cells(difference: Difference) -> list[str]:
    return [_with_interval(difference.returns, "+.0f"), _with_interval(difference.success, "+.0%")]


def _comparison_caption(comparison: Comparison) -> str:
    lines = ["brackets hold 95 %"]
    for contender in comparison.contenders[1:]:
        pairing = f"paired by {contender.paired_by}" if contender.paired_by else "independent samples"
        lines.append(f"{contender.name} - {comparison.contenders[0].name}: {pairing}")
    for contender in comparison.contenders:
        if contender.interquartile_return is not None:
            iqm = _with_interval(contender.interquartile_return, ".0f")
            lines.append(f"{contender.name}: interquartile mean return {iqm} over {contender.runs} runs")
    if comparison.left_out:
        lines.append(f"left out (not in every run): {', '.join(comparison.left_out)}")
    return "\n".join(lines)


def _with_interval(estimate: Estimate, form: str) -> str:
    value = format(estimate.value, form)
    if estimate.interval is None:
        return value
    # Rich reads square brackets as markup.
    return f"{value} \\[{estimate.interval.low:{form}}, {estimate.interval.high:{form}}]"
