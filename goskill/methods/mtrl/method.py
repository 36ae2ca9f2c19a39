"""MTRL: agents of SPiRL for all training tasks, their distillation, and SPiRL that begins with what it gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from goskill.data import ReplaySampler
from goskill.errors import InputError
from goskill.methods.method import Networks, Sources
from goskill.methods.mtrl.distillation import DistillationLoss, SharedPolicy
from goskill.methods.registry import register
from goskill.methods.sequence.checking import load_parts
from goskill.methods.skill_rl import (
    NormalSkills,
    SampledSkillPolicy,
    SkillAgents,
    SkillChoosingPolicy,
    agents_from_state,
    check_sizes,
    check_suite_name,
    finished_run,
    skills_of_run,
    warn_of_known,
)
from goskill.methods.spirl import SPiRL, SPiRLSettings
from goskill.settings import POSITIVE, check
from goskill.training import Objective, OptimizerSettings, Phase, TrainingSettings
from goskill.training.placement import sampled_objective

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class MTRLSettings(SPiRLSettings):
    """SPiRL's settings for the training tasks, and those of distillation. Raises InputError that names the setting."""

    # Distillation
    distillation_iterations: int = 10_000  # updates of the shared policy
    shared_divergence: float = 0.1  # of it from the prior, in nats per decision; paper: 0.2 in the kitchen

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, POSITIVE, "distillation_iterations", "shared_divergence")


@dataclass(frozen=True)
class MTRLTargetSettings(SPiRLSettings):
    """SPiRL's settings for target tasks, and what its actors begin as. Raises InputError that names the setting."""

    meta: str = ""  # run folder of mtrl: skills and policy are taken, with its settings of skills


class SharedSkills(SampledSkillPolicy):
    """Skills drawn from the shared policy."""

    def __init__(self, shared: SharedPolicy, agents: SkillAgents) -> None:
        super().__init__("MTRL", agents.skills)
        self.shared = shared

    def _distribution(self, observations: Tensor) -> NormalSkills:
        return self.shared.policy(observations)


@register("mtrl")
class MTRL(SPiRL):
    """SPiRL in each training task, then one policy distilled from what the agents' critics know (SiMPL, Eq. 6)."""

    Settings: ClassVar[type[Any]] = MTRLSettings
    settings: MTRLSettings
    schedule: ClassVar[tuple[str, ...]] = ("skill_iterations", "iterations", "distillation_iterations")

    def __init__(self, settings: MTRLSettings, agents: SkillAgents, *sources: Any) -> None:
        super().__init__(settings, agents, *sources)
        with torch.random.fork_rng(devices=[]):
            self.shared = SharedPolicy(agents, settings.initial_temperature)

    @classmethod
    def create(cls, settings: Any, sources: Sources, training: TrainingSettings) -> Self:
        """New agents for the training tasks of a suite, over the skills of a run in it or of new ones."""
        if settings.skills:
            check_suite_name("skills", settings.skills, sources.suite_name)
        return super().create(settings, sources, training)

    @classmethod
    def restore(cls, settings: Any, networks: Networks) -> Self:
        """Trained agents and the policy distilled from them, to act."""
        own = {name: state for name, state in networks.items() if name.startswith("shared_")}
        rest = {name: state for name, state in networks.items() if name not in own}
        method = cls(settings, agents_from_state(settings, rest))
        load_parts(method.shared.parts, own)
        return method

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {**super().modules, **self.shared.parts}

    def policy(self, precision: str = "float32") -> SkillChoosingPolicy:
        """Draws skills from the shared policy, whatever the task; always in float32. ``mtrl_ft`` learns a task."""
        return SharedSkills(self.shared, self.agents)

    def phases(self) -> Sequence[Phase]:
        start = Phase("shared start", 0, self._start_shared, "the shared policy begins as the prior")
        about = "distils one policy from all agents"
        iterations = self.settings.distillation_iterations
        return [*super().phases(), start, Phase("distillation", iterations, self._begin_shared, about)]

    def _start_shared(self) -> Sequence[Objective]:
        self.shared.begin_as_prior()
        return []

    def _begin_shared(self) -> Sequence[Objective]:
        settings, shared = self.settings, self.shared
        decisions = ReplaySampler(self.replay, settings.batch_size, seed=self._training.seed + 1)
        loss = DistillationLoss(shared, self.agents, settings.shared_divergence)
        adam = OptimizerSettings(settings.learning_rate, "adam")
        trained = [shared.actor, shared.temperature]
        return [sampled_objective("distillation", decisions, loss, trained, optimizer=adam)]


@register("mtrl_ft")
class MTRLTarget(SPiRL):
    """SPiRL whose actors begin as the policy that ``mtrl`` distilled; critics and temperatures are new."""

    Settings: ClassVar[type[Any]] = MTRLTargetSettings
    _shared: Mapping[str, Tensor]

    @classmethod
    def create(cls, settings: Any, sources: Sources, training: TrainingSettings) -> Self:
        """Agents for the tasks of a suite; warns of tasks that were trained on."""
        if not settings.meta:
            raise InputError("meta: expected a run of mtrl, got none")
        check_suite_name("meta", settings.meta, sources.suite_name)
        trained, networks = finished_run("meta", settings.meta, "mtrl")
        skills = skills_of_run(settings.meta).model
        check_sizes("meta", settings.meta, skills, sources.environments())
        method = super().create(replace(settings, skills=settings.meta), sources, training)
        warn_of_known(method.settings.tasks, trained.tasks)
        method._shared = networks["shared_actor"]
        return method

    def _start(self) -> Sequence[Objective]:
        self.agents.begin_as(self._shared)
        return []
