"""One settings file per suite: which tasks, how they are collected, trained and evaluated.

A file holds the sections ``data``, ``training`` and ``evaluation``, and one section for each family of methods whose
defaults it changes (``go_skill``, ...), of which a run sees its own as ``method``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import resources
from typing import Any

from goskill.errors import InputError, closest
from goskill.settings import parse_override

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SECTIONS = ("data", "method", "training", "evaluation")


def names() -> list[str]:
    """The names of the presets that come with the package."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name[: -len(".toml")] for file in files if file.name.endswith(".toml"))


def load(name: str, family: str) -> dict[str, dict[str, Any]]:
    """The sections ``data``, ``method``, ``training`` and ``evaluation`` of preset ``name`` as plain mappings.

    ``method`` is the file's section ``family`` (``goskill.methods.registry.Family.section``). Raises InputError for
    an unknown preset.
    """
    if name not in names():
        raise InputError(f"unknown preset {name!r}: {closest(name, names())}")
    text = resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    loaded = tomllib.loads(text)
    loaded["method"] = loaded.get(family, {})
    return {section: dict(loaded.get(section, {})) for section in SECTIONS}


def override(sections: dict[str, dict[str, Any]], changes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The sections with changes such as ``method.horizon=5``; the last one of a setting counts.

    Settings are checked when a section becomes a dataclass. Raises InputError for a change without a section that
    exists.
    """
    changed = {section: dict(sections[section]) for section in SECTIONS}
    for change in changes:
        key, value = parse_override(change)
        section, dot, setting = key.partition(".")
        if not dot or section not in SECTIONS:
            raise InputError(
                f"--set {change}: the key must begin with one of {', '.join(SECTIONS)} and a dot"
            )
        changed[section][setting] = value
    return changed
