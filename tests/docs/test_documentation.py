"""What README and docs show works: code blocks run, commands parse, links lead somewhere.

Python blocks of a page run one after the other in a folder of their own and share their names. A block behind a line
``<!-- not run: WHY -->`` is left out.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from goskill.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "DIFFERENCES.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GROUP: Any = typer.main.get_command(app)
CONTEXT: Any = GROUP.make_context("goskill", ["--help"], resilient_parsing=True)
NEED_NOTHING = ("settings", "doctor")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)]*)?\)")


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    for left_out, language, content in BLOCK.findall(page.read_text(encoding="utf-8")):
        if not left_out:
            yield language, content


def commands() -> list[str]:
    """Whole commands: the lines of blocks without a language."""
    found: dict[str, None] = {}
    for page in PAGES:
        for language, content in blocks(page):
            if language in ("", "bash", "sh"):
                lines = content.replace("\\\n", " ").splitlines()
                found |= {
                    line.partition(" #")[0].strip(): None for line in lines if line.startswith("goskill ")
                }
    return list(found)


def mentioned() -> list[str]:
    """Names of commands within sentences."""
    texts = (page.read_text(encoding="utf-8") for page in PAGES)
    return sorted({name for text in texts for name in re.findall(r"`goskill ([a-z]+)", text)})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command: str) -> None:
    words = shlex.split(command.partition(" > ")[0])[1:]
    with contextlib.redirect_stdout(io.StringIO()):
        name, found, rest = GROUP.resolve_command(CONTEXT, words)
        if rest:
            found.make_context(name, rest)


@pytest.mark.parametrize("command", [line for line in commands() if line.split()[1] in NEED_NOTHING])
def test_commands_that_need_nothing_run(command: str) -> None:
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    assert result.output


def test_make_has_the_targets_that_are_mentioned() -> None:
    rules = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        targets = re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(targets) <= rules, page.name


@pytest.mark.parametrize("name", mentioned())
def test_commands_that_are_mentioned_exist(name: str) -> None:
    assert name in GROUP.list_commands(CONTEXT)


WITH_PYTHON = [page for page in PAGES if any(language == "python" for language, _ in blocks(page))]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("documentation")
    monkeypatch.setitem(sys.modules, "documentation", module)
    for number, (language, content) in enumerate(blocks(page), start=1):
        if language == "python":
            exec(compile(content, f"{page.name}, block {number}", "exec"), module.__dict__)


def test_the_readme_is_read_in_a_minute() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
