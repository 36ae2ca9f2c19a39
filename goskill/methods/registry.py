"""Every method by name: how it is built, rebuilt from a checkpoint, and made to act.

What trains, evaluates and labels asks here and knows no method itself. A family is a package in this folder; several
names may stand for one family with settings that the name decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor, nn

from goskill.data import EpisodeStore
from goskill.errors import InputError, closest
from goskill.methods import go_skill, prompt_dt
from goskill.methods.go_skill.networks import GoalFeatures
from goskill.methods.sequence.predictions import ActionPredictions, SkillPredictions
from goskill.rollouts.policy import Policy
from goskill.settings import from_mapping
from goskill.training import Method, TrainingSettings

__all__ = ["METHODS", "Entry", "Family", "GoalFeatures", "MethodSettings", "MethodWithNetworks", "find"]

NOTHING: Mapping[str, Any] = MappingProxyType({})


class MethodSettings(Protocol):
    """What the settings of every method have."""

    @property
    def prompt_episodes(self) -> int:
        """Best episodes of a task that serve as its demonstrations."""


class MethodWithNetworks(Method, Protocol):
    """A method whose networks are one module, from which a policy is made."""

    @property
    def networks(self) -> nn.Module: ...


@dataclass(frozen=True)
class SkillTools:
    """What :mod:`goskill.experiments.diagnosis` asks of a family with skills.

    ``predict(networks, store, labels, samples, seed)`` is the policy's choice where the true history is given.
    ``oracle(networks)`` is a policy that carries out the skills of the demonstrations that it is reset with; its
    ``exact`` counts the environments that began as their demonstration did.
    """

    predict: Callable[[Any, EpisodeStore, str, int, int], SkillPredictions]
    oracle: Callable[[Any], Policy]


@dataclass(frozen=True)
class Family:
    """What a package of this folder offers, as plain functions.

    ``build(settings, store, training, networks, goal_features)`` makes the method, with ``networks`` from trained
    ones on a store that may hold other tasks (fine-tuning). ``rebuild(settings, state, goal_features)`` makes the
    networks of a checkpoint (``goskill.training.checkpoint.Checkpoint.networks``). ``policy(networks, precision)``
    makes them act. ``fine_tuned(settings, iterations)`` are the settings with which trained networks go on for so
    many iterations. ``label(networks, store, progress)`` writes a column of skills and returns its name; families
    without skills have none, and ``has_skills(settings)`` says whether there are any to write.
    ``predict_actions(networks, store, samples, seed)`` are actions with everything before them given.
    """

    section: str  # the table of a preset with its settings
    settings: type[Any]
    build: Callable[
        [Any, EpisodeStore, TrainingSettings, Any | None, GoalFeatures | None], MethodWithNetworks
    ]
    rebuild: Callable[[Any, Mapping[str, Mapping[str, Tensor]], GoalFeatures | None], nn.Module]
    policy: Callable[[Any, str], Policy]
    fine_tuned: Callable[[Any, int], Any]
    predict_actions: Callable[[Any, EpisodeStore, int, int], ActionPredictions]
    schedule: tuple[str, ...]  # the settings that say how many iterations each part of the training has
    label: Callable[[Any, EpisodeStore, Callable[[int, int], None] | None], str] | None = None
    has_skills: Callable[[Any], bool] = lambda settings: False
    skills: SkillTools | None = None
    ablations: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: NOTHING)
    training: Mapping[str, Any] = field(default_factory=lambda: NOTHING)  # where its schedule differs


@dataclass(frozen=True)
class Entry:
    """A method by name: its family, and the settings that the name decides."""

    name: str
    family: Family
    decided: Mapping[str, Any] = field(default_factory=lambda: NOTHING)

    def settings(self, values: Mapping[str, Any]) -> MethodSettings:
        """The settings dataclass from plain ``values`` and what the name decides.

        Raises InputError for an unknown setting (and says so if it is another method's), a value of the wrong
        type, and one that contradicts the name.
        """
        chosen = {**self.decided, **values}
        known = {one.name for one in fields(self.family.settings)}
        for name in chosen:
            owners = [entry.name for entry in METHODS.values() if name in _names(entry)]
            if name not in known and owners:
                raise InputError(f"method.{name} is a setting of {owners[0]}, not of {self.name}")
        settings: MethodSettings = from_mapping(self.family.settings, chosen, "method")
        for name, value in self.decided.items():
            if getattr(settings, name) != value:
                raise InputError(
                    f"method.{name}: expected {value!r}, which {self.name} means, got {chosen[name]!r}"
                )
        return settings

    def ablated(self, names: Sequence[str]) -> dict[str, Any]:
        """The settings that these ablations change. Raises InputError for one that the method does not have."""
        changes: dict[str, Any] = {}
        for name in names:
            if not self.family.ablations:
                raise InputError(f"ablation {name!r}: {self.name} has none")
            if name not in self.family.ablations:
                raise InputError(f"unknown ablation {name!r}: {closest(name, self.family.ablations)}")
            changes |= self.family.ablations[name]
        return changes


def find(name: str) -> Entry:
    """The method of that name. Raises InputError naming the closest one."""
    if not isinstance(name, str):
        raise InputError(f"method: expected a name, got {name!r}")
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}: {closest(name, METHODS)}")
    return METHODS[name]


def _names(entry: Entry) -> set[str]:
    return {one.name for one in fields(entry.family.settings)}


def _without_goal(given: Any, goal_features: GoalFeatures | None) -> Any:
    if goal_features is not None:
        raise InputError("goal_features: expected None, this method abstracts no goals")
    return given


GO_SKILL = Family(
    section="go_skill",
    settings=go_skill.GoSkillSettings,
    build=lambda settings, store, training, networks, goal_features: go_skill.GoSkill(
        settings, store, training, networks=networks, goal_features=goal_features
    ),
    rebuild=go_skill.networks_from_state,
    policy=lambda networks, precision: go_skill.GoSkillPolicy(networks, precision=precision),
    fine_tuned=go_skill.fine_tuned,
    label=lambda networks, store, progress: go_skill.label_store(networks, store, progress=progress),
    has_skills=lambda settings: bool(settings.discrete),
    predict_actions=go_skill.predict_actions,
    schedule=("extraction_iterations", "policy_iterations"),
    skills=SkillTools(go_skill.predict_skills, go_skill.OraclePolicy),
    ablations=go_skill.ABLATIONS,
)

PROMPT_DT = Family(
    section="prompt_dt",
    settings=prompt_dt.PromptDTSettings,
    build=lambda settings, store, training, networks, goal_features: prompt_dt.PromptDT(
        settings, store, training, networks=_without_goal(networks, goal_features)
    ),
    rebuild=lambda settings, state, goal_features: prompt_dt.networks_from_state(
        settings, _without_goal(state, goal_features)
    ),
    policy=lambda networks, precision: prompt_dt.PromptDTPolicy(networks, precision=precision),
    fine_tuned=prompt_dt.fine_tuned,
    predict_actions=prompt_dt.predict_actions,
    schedule=("iterations",),
    training=MappingProxyType({"warmup_iterations": 10_000}),
)

METHODS: Mapping[str, Entry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Entry("go_skill", GO_SKILL),
            Entry("mh_go_skill", GO_SKILL, {"multi_head_decoder": True}),
            Entry("prompt_dt", PROMPT_DT),
            Entry("mh_prompt_dt", PROMPT_DT, {"multi_head": True}),
            Entry("mtdt", PROMPT_DT, {"prompt_length": 0}),
            Entry("mh_mtdt", PROMPT_DT, {"prompt_length": 0, "multi_head": True}),
        )
    }
)
