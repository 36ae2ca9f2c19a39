"""Evaluations on the way of a training run: ``evaluations.jsonl``, one JSON object per line.

A line is ``{"iteration": N, "overall": {...}, "tasks": {NAME: {...}}, "versions": {...}}``: after how many
iterations, the numbers under the keys of ``results.json``, and the versions of the packages that made them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from goskill.errors import InputError
from goskill.evaluation.results import Results
from goskill.files import parse_json, read_text, write_atomically


def read_points(path: str | Path) -> list[dict[str, Any]]:
    """The points in a file, in the order of their iterations; none if there is no file.

    Raises InputError that names the file and the line for anything else.
    """
    source = Path(path)
    try:
        lines = read_text(source).splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: expected the evaluations of a run: {error}") from None
    points = [_point(source, number, line) for number, line in enumerate(lines, 1)]
    return sorted(points, key=lambda point: int(point["iteration"]))


def add_point(path: str | Path, iteration: int, results: Results) -> None:
    """Add the evaluation after ``iteration`` iterations, or replace it; the file is whole at any moment."""
    point = {
        "iteration": iteration,
        "overall": results.overall.to_json(),
        "tasks": {task: results.summary(task).to_json() for task in results.tasks},
        "versions": dict(results.versions),
    }
    points = [other for other in read_points(path) if other["iteration"] != iteration]
    points = sorted([*points, point], key=lambda one: int(one["iteration"]))
    write_atomically(path, "".join(json.dumps(one, allow_nan=False) + "\n" for one in points))


def _point(source: Path, number: int, line: str) -> dict[str, Any]:
    try:
        point = parse_json(line)
    except ValueError:
        point = None
    kinds = {"iteration": int, "overall": dict, "tasks": dict}
    if isinstance(point, dict) and all(type(point.get(name)) is kind for name, kind in kinds.items()):
        return point
    raise InputError(
        f"{source}: line {number}: expected an object with 'iteration', 'overall' and 'tasks', got {line[:60]!r}"
    )
