"""A study: which methods meet on which data, and how each is trained. Read from a TOML file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from goskill.errors import InputError, closest
from goskill.files import parse_toml, read_text
from goskill.seeds import check_seed
from goskill.settings import from_mapping

Budget = Literal["iterations", "seconds"]
SAME_SECONDS = 0.1
"""Equal iterations count as equal seconds, too, when they are no further apart than this share."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]*")


@dataclass(frozen=True)
class DataSource:
    """Where the episodes of a data set come from: a store that is there, scripted ones to collect, or a mix of them."""

    store: str = ""  # an episode store; "": collect
    mix: tuple[
        int, ...
    ] = ()  # how many tasks get medium replay, replay, medium to expert of that; (): all of it
    limits: Mapping[str, int] = field(default_factory=dict)  # episodes per task of each quality of a mix
    steps: int = 0  # to which a mix cuts each episode; 0: whole ones
    suite: str = ""  # whose tasks are collected, or expected in the store
    tasks: tuple[str, ...] = ()  # or these
    episodes: int = 40  # per task, from random to expert
    quality: Literal["near-optimal", "sub-optimal"] = "near-optimal"  # all episodes, or the first half
    seed: int = 0  # of the collection, and of the mix

    def __post_init__(self) -> None:
        if self.suite and self.tasks:
            raise InputError("suite: expected suite or tasks, got both")
        if not (self.store or self.suite or self.tasks):
            raise InputError("store: expected a store, or suite or tasks to collect")


@dataclass(frozen=True)
class Contender:
    """One way of training that a study compares."""

    method: str
    name: str = ""  # in rows and tables; "": the method's and the ablations'
    ablations: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the method
    budgets: tuple[Budget, ...] = ("iterations",)  # equal iterations, or also the reference's seconds
    sweep: Mapping[str, Any] = field(default_factory=dict)  # where it stands in sweeps: setting -> value


@dataclass(frozen=True)
class Sweep:
    """One setting of the reference that is varied while all others stay."""

    setting: str  # of the reference's method
    default: Any  # the reference's own value
    values: tuple[Any, ...]
    settings: tuple[Mapping[str, Any], ...] = ()  # what else changes with each value


@dataclass(frozen=True)
class Finetuning:
    """Every trained run goes on with other tasks, and rows tell how it does on these on the way."""

    preset: str  # of fine-tuning
    data: str  # name of the study's data with the new tasks, on which nothing is trained before


@dataclass(frozen=True)
class Study:
    """A comparison as its file describes it, checked for everything that needs no data."""

    name: str
    title: str
    preset: str
    reference: str  # the contender whose iterations and seconds the others get
    baseline: str  # the contender that probabilities of improvement are over
    seeds: tuple[int, ...]
    data: Mapping[str, DataSource]
    contenders: Sequence[Contender]
    families: Mapping[str, Mapping[str, Any]]  # settings that all methods of a family share
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    finetuning: Finetuning | None
    text: str  # the file
    last_step: bool = False  # the table also tells success at the last step

    @property
    def training_data(self) -> list[str]:
        """Names of the data that contenders are trained on."""
        return [name for name in self.data if self.finetuning is None or name != self.finetuning.data]

    def contender(self, name: str) -> Contender:
        """The contender of that name."""
        return next(one for one in self.contenders if one.name == name)

    def overrides(self, contender: Contender, family: str) -> list[str]:
        """The settings of a contender, whose method is of a family, as ``section.key=value``."""
        method = {**self.families.get(family, {}), **contender.settings}
        sections = (("method", method), ("training", self.training), ("evaluation", self.evaluation))
        return [
            f"{section}.{key}={json.dumps(value)}"
            for section, values in sections
            for key, value in values.items()
        ]

    def with_stores(self, stores: Mapping[str, str]) -> Study:
        """The same study on other stores. Raises InputError for a name that is none of its data."""
        for name in stores:
            if name not in self.data:
                raise InputError(f"--data {name}: {self.name} has no such data, {closest(name, self.data)}")
        given = {name: replace(self.data[name], store=path) for name, path in stores.items()}
        return replace(self, data={**self.data, **given})


def read_study_file(path: Path, name: str) -> Study:
    """The study ``name`` of a file. Raises InputError."""
    try:
        return parse_study(read_text(path), name)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected a study in UTF-8: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: expected a study: {error.strerror}") from None


def parse_study(text: str, name: str) -> Study:
    """The study that a TOML text describes. Raises InputError that names the setting."""
    try:
        return _study(parse_toml(text), text, name)
    except ValueError as error:
        raise InputError(f"study {name}: {error}") from None


@dataclass(frozen=True)
class _File:
    title: str = ""
    preset: str = "mt10"
    reference: str = "go_skill"
    baseline: str = ""
    seeds: tuple[int, ...] = (0,)
    data: Mapping[str, DataSource] = field(default_factory=dict)
    contenders: tuple[Contender, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    families: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    finetuning: Finetuning | None = None
    last_step: bool = False


def _study(content: Mapping[str, Any], text: str, name: str) -> Study:
    file = from_mapping(_File, content, "study")
    if "seed" in file.training:
        raise InputError("training.seed: the study's seeds decide it, leave it out")
    contenders = _with_sweeps(
        [_named(one, index) for index, one in enumerate(file.contenders)], file.sweeps, file.reference
    )
    known = [one.name for one in contenders]
    if not known or not file.data or not file.seeds:
        raise InputError("expected at least one of contenders, data and seeds each")
    for one in known:
        if known.count(one) > 1:
            raise InputError(f"contenders: two are named {one!r}: give one another name")
    baseline = file.baseline or file.reference
    for key, value in (("reference", file.reference), ("baseline", baseline)):
        if value not in known:
            raise InputError(f"{key}: no contender is named {value!r}, {closest(value, known)}")
    if file.finetuning is not None:
        _check_finetuning(file.finetuning, file.data, contenders)
    if len(set(file.seeds)) < len(file.seeds):
        raise InputError(f"seeds: expected different ones, got {list(file.seeds)}")
    return Study(
        name=name,
        title=file.title or name,
        preset=file.preset,
        reference=file.reference,
        baseline=baseline,
        seeds=tuple(check_seed("seeds", seed) for seed in file.seeds),
        data={_file_name(key, "data"): source for key, source in file.data.items()},
        contenders=contenders,
        families=file.families,
        training=file.training,
        evaluation=file.evaluation,
        finetuning=file.finetuning,
        text=text,
        last_step=file.last_step,
    )


def _named(contender: Contender, index: int) -> Contender:
    name = contender.name or "-".join((contender.method, *contender.ablations))
    return replace(contender, name=_file_name(name, f"contenders[{index}].name"))


def _with_sweeps(contenders: list[Contender], sweeps: Sequence[Sweep], reference: str) -> list[Contender]:
    """The contenders and those that a sweep asks for; the reference is a point of every sweep."""
    if not sweeps:
        return contenders
    places = [index for index, one in enumerate(contenders) if one.name == reference]
    if not places:
        raise InputError(f"reference: no contender is named {reference!r}, which the sweeps vary")
    base = contenders[places[0]]
    contenders[places[0]] = replace(base, sweep={sweep.setting: sweep.default for sweep in sweeps})
    for sweep in sweeps:
        also = sweep.settings or ({},) * len(sweep.values)
        if len(also) != len(sweep.values):
            raise InputError(
                f"sweep of {sweep.setting}: expected {len(sweep.values)} settings, got {len(also)}"
            )
        for value, further in zip(sweep.values, also, strict=True):
            name = _file_name(f"{reference}-{sweep.setting}={value}", f"sweep of {sweep.setting}")
            settings = {**base.settings, **further, sweep.setting: value}
            contenders.append(
                replace(
                    base, name=name, settings=settings, budgets=("iterations",), sweep={sweep.setting: value}
                )
            )
    return contenders


def _check_finetuning(
    finetuning: Finetuning, data: Mapping[str, DataSource], contenders: Sequence[Contender]
) -> None:
    if finetuning.data not in data or len(data) < 2:
        raise InputError(
            f"finetuning.data: expected one of the study's data beside those to train on, got {finetuning.data!r}"
        )
    for contender in contenders:
        if "seconds" in contender.budgets:
            raise InputError(f"contender {contender.name}: fine-tuned runs are compared by iterations only")


def _file_name(name: str, where: str) -> str:
    if not _NAME.fullmatch(name):
        raise InputError(f"{where}: expected letters, digits and . _ = -, got {name!r}")
    return name
