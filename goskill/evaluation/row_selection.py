"""Which rows may be averaged: whole runs on the same data, of the same versions, with the same settings.

What a table or figure cannot show is left out with a sentence that says so.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from goskill.errors import InputError
from goskill.evaluation.rows import VERSIONS, Row, versions


@dataclass(frozen=True)
class Selection:
    """Rows, and a sentence for each kind that is not among them."""

    rows: list[Row]
    left_out: tuple[str, ...] = ()


def origin(row: Row) -> tuple[str, tuple[str, ...], str]:
    """Data, versions and the data's fingerprint: rows that differ in them are not compared."""
    return row["data"], versions(row), row["fingerprint"]


def newest(rows: Sequence[Row]) -> list[Row]:
    """The rows without those of evaluations on the way of fine-tuning."""
    last: dict[Any, int] = {}
    for row in rows:
        last[_contest(row)] = max(row["iterations"], last.get(_contest(row), 0))
    return [row for row in rows if not row["finetuned"] or row["iterations"] == last[_contest(row)]]


def whole_runs(rows: Sequence[Row]) -> Selection:
    """The rows without runs that lack tasks which other runs of the same data have, as a kill leaves them."""
    every: dict[Any, set[str]] = defaultdict(set)
    mine: dict[Any, set[str]] = defaultdict(set)
    for row in rows:
        every[origin(row)].add(row["task"])
        mine[_run(row)].add(row["task"])
    torn = {
        run: f"{run[-2]} on {run[0][0]}, seed {run[-1]}: left out, it has {len(tasks)} of "
        f"{len(every[run[0]])} tasks"
        for run, tasks in mine.items()
        if tasks != every[run[0]]
    }
    return Selection([row for row in rows if _run(row) not in torn], tuple(dict.fromkeys(torn.values())))


def of_one_origin(rows: Sequence[Row]) -> Selection:
    """The rows of the versions, and on each data of the fingerprint, that made most of them."""
    most = Counter(versions(row) for row in rows).most_common(1)
    kept = [row for row in rows if versions(row) == most[0][0]]
    fingerprints: dict[str, Counter[str]] = defaultdict(Counter)
    for row in kept:
        fingerprints[row["data"]][row["fingerprint"]] += 1
    chosen = {data: counts.most_common(1)[0][0] for data, counts in fingerprints.items()}
    kept = [row for row in kept if row["fingerprint"] == chosen[row["data"]]]
    wanted = {origin(row) for row in kept}
    others = Counter(origin(row) for row in rows if origin(row) not in wanted)
    left_out = [
        f"left out: {count} rows on {data} (fingerprint {fingerprint}) by {named_versions(made)}"
        for (data, made, fingerprint), count in others.items()
    ]
    return Selection(kept, tuple(left_out))


def check_settings(rows: Sequence[Row], where: str) -> None:
    """Raises InputError, which begins with ``where``, if rows to be averaged were made with different settings."""
    known: dict[Any, tuple[Any, ...]] = {}
    for row in rows:
        # Equal seconds are as many iterations as there was time for.
        schedule = "" if row["budget"] == "seconds" else json.dumps(row["schedule"], sort_keys=True)
        made = (row["settings"], schedule)
        if known.setdefault(_contest(row), made) != made:
            raise InputError(
                f"{where}: rows of {row['contender']} on {row['data']} were made with different settings "
                f"(such as those of seed {row['seed']}): keep those of one in this file"
            )


def named_versions(made: Sequence[str]) -> str:
    """Versions with the packages' names."""
    return ", ".join(f"{name} {version}" for name, version in zip(VERSIONS, made, strict=True))


def _contest(row: Row) -> tuple[Any, ...]:
    return origin(row), row["budget"], row["contender"]


def _run(row: Row) -> tuple[Any, ...]:
    return origin(row), row["budget"], row["iterations"], row["contender"], row["seed"]
