"""How the Prompt-DT family acts: an action at each step, with cached keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from goskill.evaluation.policy import Demonstration
from goskill.methods.acting import PromptedPolicy, prompt_cache
from goskill.methods.prompt_dt.networks import PromptDTNetworks
from goskill.methods.prompting import last_decisions
from goskill.models import DecisionContext, Decisions


class PromptDTPolicy(PromptedPolicy):
    """Deterministic actions of a decision transformer behind a demonstration's last steps, or behind nothing.

    Without a prompt demonstrations are still needed, for the target return. Keys and values are kept as
    ``goskill.models.DecisionContext`` says. ``networks``, ``chunk`` and ``precision`` are those of
    :class:`goskill.methods.acting.PromptedPolicy`.
    """

    def __init__(self, networks: PromptDTNetworks, *, chunk: int = 512, precision: str = "float32") -> None:
        settings = networks.settings
        super().__init__(
            networks,
            ("policy",),
            horizon=1,
            max_decisions=settings.max_decisions,
            chunk=chunk,
            precision=precision,
        )
        family = "Prompt-DT" if settings.prompt_length else "MTDT"
        self.name = f"MH-{family}" if settings.multi_head else family

    def begin(self, tasks: Sequence[str], shown: Sequence[Demonstration], returns_to_go: Tensor) -> _Group:
        return _Group(self.networks, tasks, shown, returns_to_go)


class _Group:
    """Episodes that share a forward pass. All are at the same step."""

    def __init__(
        self,
        networks: PromptDTNetworks,
        tasks: Sequence[str],
        shown: Sequence[Demonstration],
        returns_to_go: Tensor,
    ) -> None:
        self.networks = networks
        self.returns_to_go = returns_to_go  # float64 [B] on the CPU, not scaled
        self.step = 0
        self._task = networks.task_index(tasks)
        settings = networks.settings
        cache = prompt_cache(
            networks.policy,
            [(task, id(demonstration)) for task, demonstration in zip(tasks, shown, strict=True)],
            lambda rows: read_prompts(networks, [tasks[row] for row in rows], [shown[row] for row in rows]),
            prompt_length=settings.prompt_length,
            context=settings.context,
        )
        self._context = DecisionContext(cache, settings.context)

    def act(self, observations: Tensor) -> Tensor:
        """Raw observations [B, observation_dim] on the CPU -> actions [B, action_dim]."""
        networks, policy = self.networks, self.networks.policy
        normalized = networks.normalize(observations.to(networks.normalize.mean.device))
        scaled = (self.returns_to_go / networks.settings.return_scale).to(normalized.device, torch.float32)
        states = policy.states(normalized, self._task)
        now = policy.embedding.return_and_state(scaled[:, None], states, self.step)
        action = policy.actions(self._context.read(policy, now), self._task)[:, 0]
        self._context.choose(policy.embedding.choice_token(action, self.step))
        self.step += 1
        return action


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
