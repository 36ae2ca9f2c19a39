"""What a study in environments says: data, skills, contenders, tasks and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from goskill.errors import InputError, closest
from goskill.files import packaged_names, packaged_text, parse_toml, read_text
from goskill.settings import from_mapping


@dataclass(frozen=True)
class PlayData:
    """Episodes without tasks, to collect. Raises InputError that names the setting."""

    tasks: tuple[str, ...]  # of the suite, such as maze-play
    episodes: int  # of each
    seed: int = 0

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise InputError(f"episodes: expected at least 1, got {self.episodes}")


@dataclass(frozen=True)
class SkillRun:
    """A run that contenders take their skills from."""

    method: str = "skill_prior"
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MetaRun:
    """A run over training tasks, one for each seed, that contenders go on from with the study's tasks."""

    tasks: str  # of the suite: the name of a group, or names with commas between them
    method: str = "simpl"
    skills: str = ""  # whose run of skills it takes
    precision: Literal["float32", "bfloat16"] = "float32"  # of matrix products
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OnlineContender:
    """A method that learns the study's tasks, all in one run for each seed."""

    name: str
    method: str
    skills: str = ""  # whose run of skills it takes; "": none
    meta: str = ""  # which run over training tasks it goes on from; "": none
    uses_data: bool = False  # whether it also learns from the study's episodes
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()  # where they are others than the study's


@dataclass(frozen=True)
class OnlineStudy:
    """A study in environments. Raises InputError that names what is wrong."""

    name: str
    title: str
    preset: str
    suite: str
    metric: Literal["success", "return"]  # that curves and tables show
    tasks: tuple[str, ...]
    episodes: int  # of each task that tables and curves look at
    seeds: tuple[int, ...]
    data: PlayData
    contenders: tuple[OnlineContender, ...]
    skills: Mapping[str, SkillRun] = field(default_factory=dict)
    meta: Mapping[str, MetaRun] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for setting in ("tasks", "seeds", "contenders"):
            if not getattr(self, setting):
                raise InputError(f"{setting}: expected at least one, got none")
        for one in self.contenders:
            self._check_name(f"contender {one.name}: skills", one.skills, self.skills)
            self._check_name(f"contender {one.name}: meta", one.meta, self.meta)
        for name, run in self.meta.items():
            self._check_name(f"meta.{name}: skills", run.skills, self.skills)
        if len({one.name for one in self.contenders}) < len(self.contenders):
            raise InputError("contenders: expected different names")

    def _check_name(self, where: str, name: str, known: Mapping[str, Any]) -> None:
        if name and name not in known:
            raise InputError(f"{where}: {closest(name, known)}")

    def seeds_of(self, contender: OnlineContender) -> tuple[int, ...]:
        """The seeds that a contender is run with."""
        return contender.seeds or self.seeds


def online_names() -> list[str]:
    """The names of the studies in environments that come with the package."""
    return packaged_names(__package__, "ready")


def is_online_study(source: str | Path) -> bool:
    """Whether a study's name or file is of a study in environments, which names a suite to learn in."""
    path = Path(source)
    if not path.is_file():
        return str(source) in online_names()
    try:
        return "suite" in parse_toml(read_text(path))
    except ValueError:
        return False


def read_online_study(source: str | Path) -> OnlineStudy:
    """The study of a file, or the ready one of that name. Raises InputError that says what is wrong where."""
    path = Path(source)
    if path.is_file():
        return _parsed(read_text(path), path.stem)
    if str(source) not in online_names():
        raise InputError(
            f"study {str(source)!r}: no such file, and no ready study: {closest(str(source), online_names())}"
        )
    return _parsed(packaged_text(__package__, "ready", str(source)), str(source))


def _parsed(text: str, name: str) -> OnlineStudy:
    try:
        told = parse_toml(text)
        if "name" in told:
            raise InputError("unknown key 'name': a study is called as its file")
        return from_mapping(OnlineStudy, {**told, "name": name}, "study")
    except ValueError as error:
        raise InputError(f"study {name}: {error}") from None
