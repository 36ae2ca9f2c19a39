"""How GO-Skill acts: a skill every H steps, and the decoder in between, both with cached keys and values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goskill.evaluation.policy import Demonstration
from goskill.methods.acting import PromptedPolicy, prompt_cache
from goskill.methods.go_skill.networks import GoSkillNetworks
from goskill.methods.go_skill.prompting import read_prompts
from goskill.models import DecisionContext


class GoSkillPolicy(PromptedPolicy):
    """Chooses the most probable skill every H steps and decodes it into deterministic actions.

    A demonstration is labelled by the networks' own skill model. Keys and values are kept: three new tokens a
    step in the decoder; prompt and history as ``goskill.models.DecisionContext`` says. ``networks``, ``chunk`` and
    ``precision`` are those of :class:`goskill.methods.acting.PromptedPolicy`.
    """

    def __init__(self, networks: GoSkillNetworks, *, chunk: int = 512, precision: str = "float32") -> None:
        settings = networks.settings
        super().__init__(
            networks,
            ("decoder", "policy"),
            horizon=settings.horizon,
            max_decisions=settings.max_decisions,
            chunk=chunk,
            precision=precision,
        )
        self.name = "MH-GO-Skill" if settings.multi_head_decoder else "GO-Skill"
        self.horizon = settings.horizon
        self.skill_count = settings.codebook_size if settings.discrete else None

    @property
    def skill_history(self) -> npt.NDArray[np.int64]:
        """Skills chosen since ``reset``: int64 [decisions, N], oldest first; none without a codebook."""
        if self.skill_count is None or not self._groups or not self._groups[0].chosen:
            return np.zeros((0, self._environments()), dtype=np.int64)
        history = torch.cat([torch.stack(group.chosen) for group in self._groups], dim=1)
        return np.asarray(history.cpu().numpy(), dtype=np.int64)

    def begin(self, tasks: Sequence[str], shown: Sequence[Demonstration], returns_to_go: Tensor) -> _Group:
        return _Group(self.networks, shown, returns_to_go)


class Execution(ABC):
    """Episodes in which the decoder carries out one skill after the other. All are at the same step."""

    def __init__(self, networks: GoSkillNetworks, count: int) -> None:
        self.networks = networks
        self.step = 0
        self.chosen: list[Tensor] = []  # int64 [B] per decision; none without a codebook
        self._cache = networks.decoder.new_cache(count)

    @abstractmethod
    def decide(self, observations: Tensor, normalized: Tensor) -> Tensor:
        """The skills of the next H steps, int64 [B], or [B, E] without a codebook, where the environments are."""

    def act(self, observations: Tensor) -> Tensor:
        """Raw observations [B, observation_dim] on the CPU -> actions [B, action_dim]."""
        networks, decoder = self.networks, self.networks.decoder
        raw = observations.to(networks.normalize.mean.device)
        normalized = networks.normalize(raw)
        within = self.step % networks.settings.horizon
        if within == 0:
            self._begin(self.decide(raw, normalized), raw)
        reached = (
            networks.encoder(networks.goals(raw) - self._start) if networks.settings.reached_goal else None
        )
        if within == 0:
            self._action = decoder.begin(self._vector, self._index, reached, normalized, self._cache)
        else:
            self._action = decoder.step(self._index, self._action, reached, normalized, within, self._cache)
        self.step += 1
        return self._action

    def _begin(self, skill: Tensor, raw: Tensor) -> None:
        discrete = self.networks.settings.discrete
        self._vector = self.networks.vectors(skill)
        self._index = skill if discrete else None
        self._start = self.networks.goals(raw)
        if discrete:
            self.chosen.append(skill)


class _Group(Execution):
    """Episodes that share a forward pass, whose skills the policy chooses."""

    def __init__(
        self, networks: GoSkillNetworks, shown: Sequence[Demonstration], returns_to_go: Tensor
    ) -> None:
        super().__init__(networks, len(shown))
        self.returns_to_go = returns_to_go  # float64 [B] on the CPU, not scaled
        settings = networks.settings
        cache = prompt_cache(
            networks.policy,
            [id(demonstration) for demonstration in shown],
            lambda rows: read_prompts(networks, [shown[row] for row in rows]),
            prompt_length=settings.prompt_length,
            context=settings.context,
        )
        self._context = DecisionContext(cache, settings.context)

    def decide(self, observations: Tensor, normalized: Tensor) -> Tensor:
        """The most probable skills, which also enter the history."""
        networks, settings = self.networks, self.networks.settings
        policy, timestep = networks.policy, self.step // settings.horizon
        scaled = (self.returns_to_go / settings.return_scale).to(normalized.device, torch.float32)
        now = policy.embedding.return_and_state(scaled[:, None], normalized, timestep)
        scores = policy.scores(self._context.read(policy, now))[:, 0]
        skill: Tensor = scores.argmax(-1) if settings.discrete else scores.float()
        self._context.choose(policy.embedding.choice_token(networks.policy_input(skill), timestep))
        return skill
