"""Tables and plots from benchmark rows: on the terminal, and in a README by ``python -m goskill.bench.report``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from goskill.errors import InputError

RESULTS = Path("bench/results")


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints each group with medians, quartiles and the speed relative to the group's peers."""
    table = Table("group", "benchmark", "median", "quartiles", "times as fast as", box=None, pad_edge=False)
    for group, members in _groups(rows).items():
        for row in members:
            seconds = row["seconds"]
            table.add_row(
                group,
                row["name"],
                _duration(seconds["median"]),
                f"{_duration(seconds['q1'])} - {_duration(seconds['q3'])}",
                ", ".join(f"{peer} {ratio:.2f}x" for peer, ratio in _ratios(row, members)),
            )
    Console().print(table)


def markdown(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of the newest row of each benchmark that has a peer."""
    lines = ["| what | median | peers in the same run: times as fast |", "|---|---|---|"]
    for group, members in sorted(_groups(_newest(rows)).items()):
        for row in members:
            ratios = _ratios(row, members)
            if ratios:
                peers = ", ".join(f"{peer} **{_times(ratio)}**" for peer, ratio in ratios)
                lines.append(f"| {group}: {_label(row)} | {_duration(row['seconds']['median'])} | {peers} |")
    return "\n".join(lines) + "\n"


def update(readme: Path, results: Path = RESULTS) -> None:
    """Rewrites what stands between ``<!-- bench: SUITE -->`` and ``<!-- end -->`` from that suite's rows.

    Rows with sizes are drawn as well, into ``bench-SUITE.png`` in the folder ``docs`` of the file, or beside it there.

    Raises:
        InputError: a marker without its end, or a suite without rows.
    """
    parts = readme.read_text(encoding="utf-8").split("<!-- bench: ")
    for index, part in enumerate(parts[1:], start=1):
        suite, found, rest = part.partition(" -->")
        _, end, after = rest.partition("<!-- end -->")
        rows = results / f"{suite}.jsonl"
        if not found or not end or not rows.exists():
            raise InputError(
                f"{readme}: benchmark marker {suite[:20]!r} needs '<!-- end -->' after it and rows in {rows}"
            )
        newest = _newest([json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()])
        text = markdown(newest)
        folder = readme.parent if readme.parent.name == "docs" else readme.parent / "docs"
        if picture := _draw(newest, suite, folder):
            text += f"\n![{suite}: time against size]({picture.relative_to(readme.parent).as_posix()})\n"
        parts[index] = f"{suite} -->\n{text}<!-- end -->{after}"
    readme.write_text("<!-- bench: ".join(parts), encoding="utf-8")


def _draw(rows: list[dict[str, Any]], suite: str, folder: Path) -> Path | None:
    from goskill.figures import draw_sizes

    pictures = draw_sizes(rows, folder, f"bench-{suite}")
    return pictures[0] if pictures else None


def _groups(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"] or row["name"], []).append(row)
    return groups


def _newest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest row of each benchmark, of the commit and machine that each group was last measured with."""
    rows = sorted(rows, key=lambda row: row["date"])
    last = {row["group"]: (row.get("commit"), row.get("machine")) for row in rows}
    together = [row for row in rows if (row.get("commit"), row.get("machine")) == last[row["group"]]]
    return list({(row["group"], row["name"]): row for row in together}.values())


def _ratios(row: dict[str, Any], members: list[dict[str, Any]]) -> list[tuple[str, float]]:
    """Of the peers that a benchmark timed itself in turn, then of those that ran before or after it."""
    if row["facts"].get("peer"):
        return []
    median = row["seconds"]["median"]
    in_turn = row["facts"].get("in_turn", {})
    return [(f"{peer}, timed in turn", ratio) for peer, ratio in in_turn.items()] + [
        (_label(peer), peer["seconds"]["median"] / median) for peer in members if peer["facts"].get("peer")
    ]


def _label(row: dict[str, Any]) -> str:
    return str(row["facts"].get("label", row["name"].removeprefix("test_").replace("_", " ")))


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio >= 2 else f"{ratio:.2f}x"


def _duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


if __name__ == "__main__":
    update(Path(sys.argv[1]))
