"""How the Prompt-DT family acts: an action at each step, with cached keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from goskill.methods.prompt_dt.networks import PromptDTNetworks
from goskill.methods.sequence.acting import ActingOptions, EpisodeGroup, PromptedPolicy, show_prompts
from goskill.methods.sequence.acting_graphs import StepRunner
from goskill.methods.sequence.prompting import last_decisions
from goskill.models import DecisionContext, Decisions
from goskill.rollouts.policy import Demonstration

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PromptDTPolicy(PromptedPolicy):
    """Deterministic actions of a decision transformer behind a demonstration's last steps, or behind nothing.

    Without a prompt demonstrations are still needed, for the target return. Keys and values are kept as
    ``goskill.models.DecisionContext`` says. ``networks``, ``chunk``, ``precision`` and ``cuda_graphs`` are those of
    :class:`goskill.methods.sequence.acting.PromptedPolicy`.
    """

    def __init__(self, networks: PromptDTNetworks, **options: Unpack[ActingOptions]) -> None:
        settings = networks.settings
        super().__init__(networks, ("policy",), horizon=1, max_decisions=settings.max_decisions, **options)
        family = "Prompt-DT" if settings.prompt_length else "MTDT"
        self.name = f"MH-{family}" if settings.multi_head else family

    def new_group(self, count: int, steps: StepRunner) -> EpisodeGroup:
        return PromptDTGroup(self.networks, count, steps)


class PromptDTGroup:
    """Episodes that share a forward pass. All are at the same step."""

    def __init__(self, networks: PromptDTNetworks, count: int, steps: StepRunner) -> None:
        self.networks = networks
        self.step = 0
        self._steps = steps
        settings, like = networks.settings, networks.normalize.mean
        self._context = DecisionContext(networks.policy, count, settings.prompt_length, settings.context)
        self._raw = like.new_zeros(count, networks.observation_dim)
        self._scaled = like.new_zeros(count, 1)
        self._timestep = torch.zeros((), dtype=torch.int64, device=like.device)
        self._task = torch.zeros(count, dtype=torch.int64, device=like.device)
        self._action = like.new_zeros(count, networks.action_dim)

    def begin(self, tasks: Sequence[str], shown: Sequence[Demonstration], returns_to_go: Tensor) -> None:
        """New episodes, as ``goskill.methods.sequence.acting.EpisodeGroup`` says."""
        networks = self.networks
        self.step = 0
        self.returns_to_go = returns_to_go
        task = networks.task_index(tasks)
        if task is not None:
            self._task.copy_(task)
        if networks.settings.prompt_length:
            show_prompts(
                self._context,
                [(task, id(demonstration)) for task, demonstration in zip(tasks, shown, strict=True)],
                lambda rows: read_prompts(
                    networks, [tasks[row] for row in rows], [shown[row] for row in rows]
                ),
                networks.normalize.mean.device,
            )

    def act(self, observations: Tensor) -> Tensor:
        """Raw observations [B, observation_dim] on the CPU -> actions [B, action_dim]."""
        self._raw.copy_(observations)
        self._scaled.copy_((self.returns_to_go / self.networks.settings.return_scale)[:, None])
        self._timestep.fill_(self.step)
        self._steps.run((id(self), self._context.phase(self.step)), self._advance)
        self.step += 1
        return self._action

    def _advance(self) -> None:
        policy, context = self.networks.policy, self._context
        states = policy.states(self.networks.normalize(self._raw), self._task)
        now = policy.embedding.return_and_state(self._scaled, states, self._timestep)
        action = policy.actions(context.read(now, self.step), self._task)[:, 0]
        context.choose(policy.embedding.choice_token(action, self._timestep), self.step)
        self._action.copy_(action)


def read_prompts(
    networks: PromptDTNetworks, tasks: Sequence[str], demonstrations: Sequence[Demonstration]
) -> Decisions:
    """The last steps of a demonstration of each task, as rows of [len(demonstrations), prompt_length, ...]."""
    actions = np.concatenate([np.asarray(demonstration.actions) for demonstration in demonstrations])
    rows = last_decisions(
        demonstrations,
        torch.from_numpy(actions).to(networks.normalize.mean.device),
        networks.normalize,
        length=networks.settings.prompt_length,
        horizon=1,
        return_scale=networks.settings.return_scale,
    )
    return replace(rows, observations=networks.policy.states(rows.observations, networks.task_index(tasks)))
