"""What a study in environments says: data, skills, contenders, tasks and seeds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from goskill.errors import InputError, closest
from goskill.files import read_text
from goskill.settings import from_mapping

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class PlayData:
    """Episodes without tasks, to collect. Raises InputError that names the setting."""

    tasks: tuple[str, ...]  # of the suite, such as maze-play
    episodes: int  # of each
    seed: int = 0

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise InputError(f"data.episodes: expected at least 1, got {self.episodes}")


@dataclass(frozen=True)
class SkillRun:
    """A run that contenders take their skills from."""

    method: str = "skill_prior"
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OnlineContender:
    """A method that learns the study's tasks, all in one run for each seed."""

    name: str
    method: str
    skills: str = ""  # whose run of skills it takes; "": none
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

    def __post_init__(self) -> None:
        for one in self.contenders:
            if one.skills and one.skills not in self.skills:
                raise InputError(
                    f"study {self.name}: contender {one.name}: skills: {closest(one.skills, self.skills)}"
                )
        if len({one.name for one in self.contenders}) < len(self.contenders):
            raise InputError(f"study {self.name}: contenders: expected different names")

    def seeds_of(self, contender: OnlineContender) -> tuple[int, ...]:
        """The seeds that a contender is run with."""
        return contender.seeds or self.seeds


def online_names() -> list[str]:
    """The names of the studies in environments that come with the package."""
    files = resources.files(__package__).joinpath("ready").iterdir()
    return sorted(file.name[: -len(".toml")] for file in files if file.name.endswith(".toml"))


def is_online_study(source: str | Path) -> bool:
    """Whether a study's name or file is of a study in environments, which names a suite to learn in."""
    path = Path(source)
    if not path.is_file():
        return str(source) in online_names()
    try:
        return "suite" in tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError:
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
    ready = resources.files(__package__).joinpath("ready").joinpath(f"{source}.toml")
    return _parsed(ready.read_text(encoding="utf-8"), str(source))


def _parsed(text: str, name: str) -> OnlineStudy:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"study {name}: {error}") from None
    where = f"study {name}"
    for key, kind in (("data", dict), ("skills", dict), ("contenders", list)):
        if not isinstance(values.setdefault(key, kind()), kind):
            raise InputError(f"{where}: {key}: expected a table, got {values[key]!r:.60}")
    values["data"] = from_mapping(PlayData, values["data"], f"{where}: data")
    values["skills"] = {
        one: from_mapping(SkillRun, run, f"{where}: skills.{one}") for one, run in values["skills"].items()
    }
    values["contenders"] = tuple(
        from_mapping(OnlineContender, one, f"{where}: contenders") for one in values["contenders"]
    )
    known = {
        "title",
        "preset",
        "suite",
        "metric",
        "tasks",
        "episodes",
        "seeds",
        "data",
        "skills",
        "contenders",
    }
    if known - values.keys() or not values["contenders"] or not values["tasks"] or not values["seeds"]:
        raise InputError(f"{where}: expected {', '.join(sorted(known))}")
    for key in values.keys() - known:
        raise InputError(f"{where}: unknown key {key!r}: {closest(key, known)}")
    return OnlineStudy(
        **{**values, "name": name, "tasks": tuple(values["tasks"]), "seeds": tuple(values["seeds"])}
    )
