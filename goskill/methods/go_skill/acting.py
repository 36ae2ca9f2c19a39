"""How GO-Skill acts: a skill every H steps, and the decoder in between, both with cached keys and values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goskill.methods.go_skill.contexts import read_prompts
from goskill.methods.go_skill.networks import GoSkillNetworks
from goskill.methods.sequence.acting import ActingOptions, PromptedPolicy, show_prompts
from goskill.methods.sequence.acting_graphs import StepRunner
from goskill.models import DecisionContext
from goskill.rollouts.policy import Demonstration

if TYPE_CHECKING:
    from typing_extensions import Unpack


class GoSkillPolicy(PromptedPolicy):
    """Chooses the most probable skill every H steps and decodes it into deterministic actions.

    A demonstration is labelled by the networks' own skill model. Keys and values are kept: three new tokens a
    step in the decoder; prompt and history as ``goskill.models.DecisionContext`` says. ``networks``, ``chunk``,
    ``precision`` and ``cuda_graphs`` are those of `PromptedPolicy`; "auto" leaves
    networks with ``goal_features`` without graphs, as these may be anything.
    """

    def __init__(self, networks: GoSkillNetworks, **options: Unpack[ActingOptions]) -> None:
        settings = networks.settings
        if options.get("cuda_graphs", "auto") == "auto" and networks.goal_features is not None:
            options["cuda_graphs"] = "off"
        lengths = {"horizon": settings.horizon, "max_decisions": settings.max_decisions}
        super().__init__(networks, ("decoder", "policy"), **lengths, **options)
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

    def new_group(self, count: int, steps: StepRunner) -> _Group:
        return _Group(self.networks, count, steps)


class DecoderExecution(ABC):
    """``count`` episodes in which the decoder carries out one skill after the other. All are at the same step.

    What changes from step to step lies in tensors that stay where they are.
    """

    def __init__(self, networks: GoSkillNetworks, count: int) -> None:
        self.networks = networks
        self.step = 0
        self.chosen: list[Tensor] = []  # int64 [B] per decision; none without a codebook
        self._cache: Any = networks.decoder.new_cache(count)
        settings, like = networks.settings, networks.normalize.mean
        self._raw = like.new_zeros(count, networks.observation_dim)
        self._start = torch.zeros_like(networks.goals(self._raw))
        self._action = like.new_zeros(count, networks.action_dim)
        self._told = like.new_zeros(count, len(settings.told_tasks))
        self._skill = (
            torch.zeros(count, dtype=torch.int64, device=like.device)
            if settings.discrete
            else like.new_zeros(count, settings.embedding_size)
        )

    @abstractmethod
    def decide(self, observations: Tensor, normalized: Tensor) -> Tensor:
        """The skills of the next H steps, int64 [B], or [B, E] without a codebook, where the environments are."""

    def tell(self, tasks: Sequence[str]) -> None:
        """Which task each episode is of. Raises InputError for one that the decoder would have to know."""
        self._told.copy_(self.networks.told(tasks))

    def act(self, observations: Tensor) -> Tensor:
        """Raw observations [B, observation_dim] on the CPU -> actions [B, action_dim], valid until the next."""
        settings = self.networks.settings
        self._raw.copy_(observations)
        self.run(self.advance)
        if settings.discrete and self.step % settings.horizon == 0:
            self.chosen.append(self._skill.clone())
        self.step += 1
        return self._action

    def run(self, advance: Callable[[], None]) -> None:
        """Run one step's ``advance``."""
        advance()

    def advance(self) -> None:
        """One step, from the observations that are there to the actions."""
        networks, raw = self.networks, self._raw
        settings, decoder = networks.settings, networks.decoder
        normalized = networks.normalize(raw)
        within = self.step % settings.horizon
        if within == 0:
            self._skill.copy_(self.decide(raw, normalized))
            self._start.copy_(networks.goals(raw))
        reached = networks.encoder(networks.goals(raw) - self._start) if settings.reached_goal else None
        index = self._skill if settings.discrete else None
        state = networks.decoder_states(normalized[:, None], self._told)[:, 0]
        if within == 0:
            action = decoder.begin(networks.vectors(self._skill), index, reached, state, self._cache)
        else:
            action = decoder.step(index, self._action, reached, state, within, self._cache)
        self._action.copy_(action)


class _Group(DecoderExecution):
    """Episodes that share a forward pass, whose skills the policy chooses."""

    def __init__(self, networks: GoSkillNetworks, count: int, steps: StepRunner) -> None:
        super().__init__(networks, count)
        self._steps = steps
        settings, like = networks.settings, networks.normalize.mean
        self._context = DecisionContext(networks.policy, count, settings.prompt_length, settings.context)
        self._scaled = like.new_zeros(count, 1)
        self._timestep = torch.zeros((), dtype=torch.int64, device=like.device)

    def begin(self, tasks: Sequence[str], shown: Sequence[Demonstration], returns_to_go: Tensor) -> None:
        """New episodes, as ``goskill.methods.sequence.acting.EpisodeGroup`` says."""
        networks = self.networks
        self.step = 0
        self.chosen = []
        self.returns_to_go = returns_to_go
        self.tell(tasks)
        if networks.settings.prompt_length:
            show_prompts(
                self._context,
                [id(demonstration) for demonstration in shown],
                lambda rows: read_prompts(networks, [shown[row] for row in rows]),
                networks.normalize.mean.device,
            )

    def run(self, advance: Callable[[], None]) -> None:
        settings = self.networks.settings
        decision, within = divmod(self.step, settings.horizon)
        phase = None
        if within == 0:
            self._scaled.copy_((self.returns_to_go / settings.return_scale)[:, None])
            self._timestep.fill_(decision)
            phase = self._context.phase(decision)
        self._steps.run((id(self), within, phase), advance)

    def decide(self, observations: Tensor, normalized: Tensor) -> Tensor:
        """The most probable skills, which also enter the history."""
        networks, settings, context = self.networks, self.networks.settings, self._context
        policy, decision = networks.policy, self.step // settings.horizon
        now = policy.embedding.return_and_state(self._scaled, normalized, self._timestep)
        scores = policy.scores(context.read(now, decision))[:, 0]
        skill: Tensor = scores.argmax(-1) if settings.discrete else scores.float()
        token = policy.embedding.choice_token(networks.policy_input(skill), self._timestep)
        context.choose(token, decision)
        return skill
