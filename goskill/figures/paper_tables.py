"""The paper's Tables 1, 2 and 6 as Markdown, from the rows of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from goskill.evaluation.row_selection import Selection, named_versions, newest, of_one_origin, whole_runs
from goskill.evaluation.rows import Row, versions
from goskill.evaluation.study import Contender, Study
from goskill.evaluation.study_table import scores

SKILL_MODEL: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("yes", "yes", "no"): (),
    ("no", "yes", "no"): ("no-reached-goal",),
    ("yes", "no", "no"): ("no-vq",),
    ("no", "yes", "yes"): ("action-encoder",),
}
"""Table 1: reached goal, vector quantisation, action encoder -> ablations."""
IMBALANCE: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("yes", "yes"): (),
    ("no", "yes"): ("no-focal",),
    ("yes", "no"): ("no-resampling",),
}
"""Table 2: focal loss, resampling -> ablations."""


def ablation_tables(study: Study, rows: Sequence[Row]) -> dict[str, str]:
    """Tables 1 and 2 by file name: mean return over tasks and its standard deviation over runs; "" without rows."""
    return {
        "skill_model": _ablations(study, rows, ("reached goal", "VQ", "action encoder"), SKILL_MODEL),
        "skill_imbalance": _ablations(study, rows, ("focal loss", "resampling"), IMBALANCE),
    }


def task_table(study: Study, rows: Sequence[Row]) -> str:
    """Table 6: the reference's mean return on each task, and its standard deviation over runs."""
    selection = _select(rows, [study.contender(study.reference)])
    chosen = selection.rows
    data = [name for name in study.data if any(row["data"] == name for row in chosen)]
    if not data:
        return ""
    lines = _head(("task",), data)
    for task in sorted({row["task"] for row in chosen}):
        cells = []
        for name in data:
            mine = [row["return_mean"] for row in chosen if (row["data"], row["task"]) == (name, task)]
            cells.append(_with_deviation(np.array(mine)) if mine else "")
        lines.append(_line((task, *cells)))
    return _document(f"Return of {study.reference} per task", lines, selection)


def _ablations(
    study: Study,
    rows: Sequence[Row],
    parts: Sequence[str],
    kinds: Mapping[tuple[str, ...], tuple[str, ...]],
) -> str:
    reference = study.contender(study.reference)
    found: dict[tuple[str, ...], Contender] = {}
    for flags, ablations in kinds.items():
        for one in study.contenders:
            plain = one.settings == reference.settings and one.method == reference.method
            if plain and one.ablations == ablations:
                found[flags] = one
    selection = _select(rows, list(found.values()))
    chosen = selection.rows
    data = [name for name in study.data if any(row["data"] == name for row in chosen)]
    if len(found) < 2 or not data:
        return ""
    lines = _head(parts, data)
    for flags, one in found.items():
        cells = []
        for name in data:
            mine = [row for row in chosen if _is_of(row, one) and row["data"] == name]
            cells.append(_with_deviation(scores(mine, "return_mean").mean(1)) if mine else "")
        lines.append(_line((*flags, *cells)))
    return _document("Mean return over tasks", lines, selection)


def _is_of(row: Row, contender: Contender) -> bool:
    return (row["contender"], row["budget"]) == (contender.name, "iterations")


def _select(rows: Sequence[Row], contenders: Sequence[Contender]) -> Selection:
    whole = whole_runs(newest(rows))
    chosen = of_one_origin([row for row in whole.rows if any(_is_of(row, one) for one in contenders)])
    return Selection(chosen.rows, (*whole.left_out, *chosen.left_out))


def _document(title: str, lines: Sequence[str], selection: Selection) -> str:
    rows = selection.rows
    seeds = len({row["seed"] for row in rows})
    scripted = ", scripted data" if any(row["scripted"] for row in rows) else ""
    made = named_versions(versions(rows[0]))
    head = f"{title}; plus or minus the standard deviation over {seeds} runs{scripted}. {made}."
    return "\n".join([head, *selection.left_out, "", *lines]) + "\n"


def _head(parts: Sequence[str], data: Sequence[str]) -> list[str]:
    return [_line((*parts, *data)), "|" + "---|" * len(parts) + "--:|" * len(data)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _with_deviation(runs: npt.NDArray[np.float64]) -> str:
    deviation = f" ± {runs.std(ddof=1):.0f}" if len(runs) > 1 else ""
    return f"{runs.mean():.0f}{deviation}"
