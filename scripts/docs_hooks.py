"""MkDocs hooks: the pages at the root of the repository join the site, and links between the two folders are kept."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "DIFFERENCES.md": "differences.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):(?=<code>)")


def on_files(files: Files, config: Any) -> Files:
    for source, page in ROOT_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=LINK.sub(_link_from_root, text)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return markdown if page.file.src_uri in ROOT_PAGES.values() else LINK.sub(_link_from_docs, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name functions as Sphinx does."""
    return ROLE.sub("", html)


def _link_from_root(link: re.Match[str]) -> str:
    target = link[3]
    return _link(link, ROOT_PAGES.get(target) or (target[5:] if target.startswith("docs/") else None))


def _link_from_docs(link: re.Match[str]) -> str:
    target = PurePosixPath(link[3])
    if target.parts[0] != "..":
        return link[0]
    return _link(link, ROOT_PAGES.get(str(target.relative_to(".."))))


def _link(link: re.Match[str], target: str | None) -> str:
    """The link with another target; the text alone where the file is not part of the site."""
    return f"{link[1]}[{link[2]}]({target}{link[4] or ''})" if target else link[2]
