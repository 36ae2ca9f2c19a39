"""The pytest plugin that ``goskill bench`` runs suites with: it keeps a row after each benchmark.

What has been measured is on disk when a suite is interrupted or crashes. On a GPU, whose time is short, peers come
after ours, and those that are compiled last; elsewhere they run beside ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from goskill.bench import runner

OURS = "goskill"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("goskill bench")
    group.addoption("--suite", help="name of the suite in its rows")
    group.addoption("--rows", type=Path, help="JSON-lines file that gets the rows of this run")
    group.addoption("--append-rows", type=Path, help="JSON-lines file to which the rows are added as well")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a CUDA device")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        # The names of folders are no keywords: -k goskill would select everything.
        for node in item.listchain():
            if isinstance(node, pytest.Directory):
                node.name = ""
    if config.getoption("-m") == "gpu":
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> tuple[bool, bool]:
    """Ours before peers, and peers that are compiled last; otherwise in the order of the file."""
    peer = OURS not in item.name
    return peer, peer and "compiled" in item.name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: Any = yield
    benchmark = getattr(item, "funcargs", {}).get("benchmark")
    if report.when == "call" and report.passed and benchmark is not None and benchmark.stats is not None:
        row = runner.row(item.config.getoption("--suite"), benchmark.stats.as_dict(include_data=False))
        _keep(row, item.config)
    return report


def _keep(row: dict[str, Any], config: pytest.Config) -> None:
    with open(config.getoption("--rows"), "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row, sort_keys=True) + "\n")
    if file := config.getoption("--append-rows"):
        runner.append([row], file)
