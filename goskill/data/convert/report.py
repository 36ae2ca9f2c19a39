"""What a conversion found."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from goskill.data.convert.transitions import Content
from goskill.data.store import EpisodeStore
from goskill.data.store_files import read_whole
from goskill.errors import StoreError
from goskill.files import parse_json, write_atomically

FILE = "conversion.json"
_FILE_LIMIT = 1 << 26
_LISTED = 100


@dataclass
class ConversionReport:
    """Counts, and what was odd. Kept beside the store as ``conversion.json``."""

    source: str
    episodes: int = 0  # in the store
    steps: int = 0
    actions_outside: int | None = 0  # steps whose action lies outside [-1, 1]; networks here give none such
    split: list[str] = field(default_factory=list)  # files cut where the next observation is not the next row
    duplicates: list[str] = field(default_factory=list)  # episodes equal to an earlier one
    shortened: list[str] = field(default_factory=list)  # episodes whose last step has no next observation
    rounded: list[str] = field(
        default_factory=list
    )  # next observations that differ from the rows by rounding
    ends: list[str] = field(default_factory=list)  # columns that the ends of episodes were read from
    constant_dimensions: list[int] = field(default_factory=list)  # of the observations
    # Tasks that the source calls the same, by what it calls them.
    doubled_tasks: dict[str, list[str]] = field(default_factory=dict)
    missing_prompts: list[str] = field(default_factory=list)  # tasks without a file of prompts
    # Indices of the store's episodes that the source has as prompts, by task, for ContextSampler's prompt_episodes.
    prompt_episodes: dict[str, list[int]] = field(default_factory=dict)
    fewer_episodes: dict[str, int] = field(
        default_factory=dict
    )  # tasks with fewer than the layout should have

    def add(self, kind: str, what: str) -> None:
        """Note an oddity; of each kind the first hundred are listed."""
        listed: list[str] = getattr(self, kind)
        if len(listed) < _LISTED:
            listed.append(what)

    def add_oddities(self, content: Content) -> None:
        """Note what was cut, what lost its last steps, and what was taken for the same but for rounding."""
        for kind in ("split", "shortened", "rounded"):
            for what in getattr(content, kind):
                self.add(kind, what)
        self.ends = sorted({*self.ends, *content.ends})

    def count(self, store: EpisodeStore) -> None:
        """Take what the finished store knows of itself."""
        self.episodes, self.steps = store.num_episodes, store.num_steps
        self.actions_outside = store.actions_outside

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ConversionReport:
        """What ``to_json`` gave; TypeError for other names, or values of another type."""
        report = cls(**values)
        for name, default in cls("").to_json().items():
            value = getattr(report, name)
            if not isinstance(value, type(default)) and not (name == "actions_outside" and value is None):
                raise TypeError(f"{name}: expected {type(default).__name__}, got {type(value).__name__}")
        return report

    def to_json(self) -> dict[str, Any]:
        """As JSON-able values."""
        return dataclasses.asdict(self)

    def write(self, store: Path) -> None:
        """Keep it beside the store."""
        write_atomically(store / FILE, json.dumps(self.to_json(), indent=2) + "\n")

    @classmethod
    def read(cls, store: Path) -> ConversionReport:
        """What lies beside a store. StoreError if that is no report."""
        raw = read_whole(store / FILE, _FILE_LIMIT, "a report")
        try:
            return cls.from_json(dict(parse_json(raw)))
        except (TypeError, ValueError) as error:
            raise StoreError(f"{store / FILE}: is not a report of a conversion") from error
