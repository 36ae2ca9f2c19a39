"""What a method is: settings, networks, training, acting. Optional abilities are protocols beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from goskill.data import EpisodeStore
from goskill.errors import InputError
from goskill.training import Phase, Stateful, TrainingSettings

if TYPE_CHECKING:
    from typing_extensions import Self

    from goskill.envs.suite import Suite
    from goskill.methods.sequence.predictions import ActionPredictions, SkillPredictions
    from goskill.rollouts.policy import Policy

NOTHING: Mapping[str, Any] = MappingProxyType({})
Networks = Mapping[str, Mapping[str, Tensor]]
"""State dicts of networks by name: what a checkpoint holds."""


@dataclass(frozen=True)
class Sources:
    """What a method learns from: episodes in a store, or environments of a suite to step in, or both."""

    store: EpisodeStore | None = None
    suite: Suite | None = None
    suite_name: str = ""  # under which it is found again
    tasks: tuple[str, ...] = ()  # of the suite, to learn in; (): all
    workers: int | None = None  # processes that step environments; None: one per core
    folder: Path | None = None  # where a method may keep what it makes of its data, in a folder of the run

    def episodes(self) -> EpisodeStore:
        """The store. Raises InputError if there is none."""
        if self.store is None:
            raise InputError("data: expected an episode store to learn from, got none")
        return self.store

    def environments(self) -> Suite:
        """The suite. Raises InputError if there is none."""
        if self.suite is None:
            raise InputError("suite: expected a suite of environments to learn in, got none")
        return self.suite


class Method(ABC):
    """A way of learning policies, trained by ``goskill.training.Trainer``.

    Register a subclass under a name with :func:`goskill.methods.register`. It declares ``Settings``, a dataclass
    with a default for each setting, and implements :meth:`create`, :meth:`restore`, :attr:`modules`, :meth:`phases`
    and :meth:`policy`. What it can do besides it says by implementing :class:`FineTunable`, :class:`HasSkills` or
    :class:`Diagnosable`.
    """

    Settings: ClassVar[type[Any]]
    section: ClassVar[str] = ""  # the table of a preset with its settings; "": its registered name
    schedule: ClassVar[tuple[str, ...]] = ("iterations",)  # settings that count iterations
    ablations: ClassVar[Mapping[str, Mapping[str, Any]]] = NOTHING  # settings by the name of what is left out
    training_defaults: ClassVar[Mapping[str, Any]] = NOTHING  # where its TrainingSettings differ
    learns_in_suite: ClassVar[bool] = False  # whether it steps environments while it trains
    needs_store: ClassVar[bool] = True  # whether it learns from stored episodes

    settings: Any

    @classmethod
    @abstractmethod
    def create(cls, settings: Any, sources: Sources, training: TrainingSettings) -> Self:
        """A new method to train. Raises InputError for settings and sources that do not fit together."""

    @classmethod
    @abstractmethod
    def restore(cls, settings: Any, networks: Networks) -> Self:
        """A trained method, to act. Raises CheckpointError that names the network that does not fit."""

    @property
    @abstractmethod
    def modules(self) -> Mapping[str, nn.Module]:
        """Every network by name: what a checkpoint holds."""

    @property
    def state(self) -> Mapping[str, Stateful]:
        """What a checkpoint holds besides, such as a replay buffer."""
        return {}

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The training."""

    @abstractmethod
    def policy(self, precision: str = "float32") -> Policy:
        """A policy that acts with the networks as they are, where they are; ``precision`` float32 or bfloat16."""

    @property
    def prompt_episodes(self) -> int:
        """How many of a task's episodes a run keeps as demonstrations for its policy."""
        return int(getattr(self.settings, "prompt_episodes", 0))

    @property
    def prompts(self) -> str:
        """Which episodes these are, a rule of :func:`goskill.data.selection.select_episodes`."""
        return str(getattr(self.settings, "prompts", "best"))


@runtime_checkable
class FineTunable(Protocol):
    """A method that goes on with other tasks."""

    @classmethod
    def fine_tuned_settings(cls, settings: Any, iterations: int) -> Any:
        """The settings with which trained networks go on for so many iterations."""

    def fine_tune(self, settings: Any, sources: Sources, training: TrainingSettings) -> Method:
        """A method to train that begins with this one's networks."""


@runtime_checkable
class HasSkills(Protocol):
    """A method that can say which of a set of skills each step of a store shows."""

    @property
    def discrete_skills(self) -> bool:
        """Whether there is a set of skills with these settings."""

    def label(self, store: EpisodeStore, progress: Callable[[int, int], None] | None = None) -> str:
        """Write a column with the skill of each step of ``store``; returns its name."""

    def oracle(self) -> Policy:
        """A policy that carries out the skills of the demonstrations that it is reset with.

        Its ``exact`` counts the environments that began as their demonstration did.
        """

    def predict_skills(self, store: EpisodeStore, labels: str, samples: int, seed: int) -> SkillPredictions:
        """The choice of skills where the true history is given."""


@runtime_checkable
class Diagnosable(Protocol):
    """A method whose actions can be held against a store's."""

    def predict_actions(self, store: EpisodeStore, samples: int, seed: int) -> ActionPredictions:
        """Actions with everything before them given."""
