"""PEARL and PEARL-ft: soft actor-critic given a task's embedding, first over many tasks, then in target tasks."""

from __future__ import annotations

from typing import Any, ClassVar

from goskill.methods.method import Sources
from goskill.methods.registry import register
from goskill.methods.simpl import (
    EmbeddingSettings,
    PEARLSettings,
    PEARLTargetSettings,
    SiMPL,
    SiMPLTarget,
    SingleActions,
)


@register("pearl")
class PEARL(SiMPL):
    """SiMPL's meta-training whose decisions are actions, weighed against their entropy instead of a prior."""

    Settings: ClassVar[type[Any]] = PEARLSettings
    name: ClassVar[str] = "PEARL"

    @classmethod
    def _skills(cls, settings: PEARLSettings, sources: Sources) -> tuple[PEARLSettings, SingleActions]:
        suite = sources.environments()
        return settings, SingleActions(suite.observation_dim, suite.action_dim)


@register("pearl_ft")
class PEARLTarget(SiMPLTarget):
    """Soft actor-critic in target tasks that goes on from what ``pearl`` learned, given each task's embedding."""

    Settings: ClassVar[type[Any]] = PEARLTargetSettings
    name: ClassVar[str] = "PEARL"
    learned_by: ClassVar[str] = "pearl"
    shared: ClassVar[type[Any]] = EmbeddingSettings
