"""One settings file per suite: which tasks, how they are collected, trained and evaluated.

A file holds the sections ``data``, ``training`` and ``evaluation``, and one section for each family of methods whose
defaults it changes (``go_skill``, ...), of which a run sees its own as ``method``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from goskill.errors import InputError, closest
from goskill.files import packaged_names, packaged_text, parse_toml
from goskill.settings import parse_override

SECTIONS = ("data", "method", "training", "evaluation")
FINETUNING = "finetuning"
OLD_NAMES: Mapping[str, str] = MappingProxyType({"mt30": "mt30-paper", "ml45": "ml45-paper"})
"""Presets for training that had other names; the old ones go on working."""


def names(folder: str = "") -> list[str]:
    """The names of the presets that come with the package, for training or in ``folder``."""
    return packaged_names(__name__, folder)


def load(name: str, family: str) -> dict[str, dict[str, Any]]:
    """The sections ``data``, ``method``, ``training`` and ``evaluation`` of preset ``name`` as plain mappings.

    ``method`` is the file's section ``family`` (``goskill.methods.Entry.section``). Raises InputError for
    an unknown preset.
    """
    loaded = _read(OLD_NAMES.get(name, name), "")
    loaded["method"] = loaded.get(family, {})
    return {section: dict(loaded.get(section, {})) for section in SECTIONS}


def load_finetuning(name: str, family: str) -> dict[str, dict[str, Any]]:
    """The sections of fine-tuning preset ``name`` as :func:`load` gives them, and ``finetuning``."""
    loaded = _read(name, FINETUNING)
    loaded["method"] = loaded.get(family, {})
    return {section: dict(loaded.get(section, {})) for section in (*SECTIONS, FINETUNING)}


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


def _read(name: str, folder: str) -> dict[str, Any]:
    known = names(folder)
    if name not in known:
        raise InputError(f"unknown preset {name!r}: {closest(name, known)}")
    return parse_toml(packaged_text(__name__, folder, name))
