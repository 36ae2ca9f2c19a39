"""One settings file per suite: which tasks, how they are collected, trained and evaluated."""

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


def load(name: str, overrides: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """The sections of preset ``name`` (``data``, ``method``, ``training``, ``evaluation``) as plain mappings.

    ``overrides`` are texts such as ``method.horizon=5``; their keys are checked when the section becomes
    a dataclass.

    Raises:
        InputError: an unknown preset, or an override without a section that exists.
    """
    if name not in names():
        raise InputError(f"unknown preset {name!r}: {closest(name, names())}")
    text = resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    loaded = tomllib.loads(text)
    preset = {section: dict(loaded.get(section, {})) for section in SECTIONS}
    for override in overrides:
        key, value = parse_override(override)
        section, dot, setting = key.partition(".")
        if not dot or section not in SECTIONS:
            raise InputError(
                f"--set {override}: the key must begin with one of {', '.join(SECTIONS)} and a dot"
            )
        preset[section][setting] = value
    return preset
