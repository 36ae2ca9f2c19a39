"""The networks of the Prompt-DT family: normalisation and the action policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from goskill.errors import InputError
from goskill.methods.prompt_dt.settings import PromptDTSettings
from goskill.methods.sequence.checking import loaded, naming_the_missing, normalize_in
from goskill.models import ActionPolicy, Decisions, Normalize, scale_tables


class PromptDTNetworks(nn.Module):
    """Normalisation and the action policy, as the settings say. Observations go in raw, in the store's units.

    Raises InputError for settings whose networks tell tasks apart and that name no tasks.
    """

    def __init__(self, settings: PromptDTSettings, normalize: Normalize, action_dim: int) -> None:
        super().__init__()
        if settings.knows_tasks and not settings.tasks:
            raise InputError("tasks: expected at least one with multi_head or task_embedding, got none")
        self.settings = settings
        self.observation_dim = normalize.mean.numel()
        self.action_dim = action_dim
        self.normalize = normalize
        self.policy = ActionPolicy(
            self.observation_dim,
            action_dim,
            width=settings.width,
            layers=settings.layers,
            heads=settings.heads,
            dropout=settings.dropout,
            max_decisions=settings.max_decisions,
            prompted=settings.prompt_length > 0,
            heads_per_task=len(settings.tasks) if settings.multi_head else 0,
            tasks=len(settings.tasks),
            task_embedding=settings.task_embedding,
        )
        scale_tables(self.policy.time_tables, settings.table_std)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Every network by name: what a checkpoint holds."""
        return {"normalize": self.normalize, "policy": self.policy}

    def task_index(self, tasks: Sequence[str]) -> Tensor | None:
        """Where the networks keep what is a task's own: int64 [len(tasks)]; None if they don't tell them apart.

        Raises InputError for a task that they do not know.
        """
        if not self.settings.knows_tasks:
            return None
        place = {name: index for index, name in enumerate(self.settings.tasks)}
        unknown = [task for task in tasks if task not in place]
        if unknown:
            raise InputError(
                f"tasks: these networks have a layer or vector for each of {len(place)} tasks, "
                f"but none for {unknown[0]!r}: fine-tune them on it"
            )
        return torch.tensor([place[task] for task in tasks], device=self.normalize.mean.device)

    def decisions(self, rows: Mapping[str, Tensor], task: Tensor | None, prefix: str = "") -> Decisions:
        """The history (or with ``prefix`` the prompt) of a batch of ``ContextSampler`` with actions."""
        return Decisions(
            returns_to_go=rows[f"{prefix}returns_to_go"],
            observations=self.policy.states(self.normalize(rows[f"{prefix}observations"]), task),
            choices=rows[f"{prefix}actions"],
            timesteps=rows[f"{prefix}timesteps"],
            mask=rows[f"{prefix}mask"],
        )

    def with_tasks(self, tasks: Sequence[str]) -> PromptDTNetworks:
        """Networks that know these tasks as well: what is shared or was there is copied, the rest is new."""
        added = [task for task in dict.fromkeys(tasks) if task not in self.settings.tasks]
        if not self.settings.knows_tasks or not added:
            return self
        settings = replace(self.settings, tasks=(*self.settings.tasks, *added))
        normalize = Normalize(self.normalize.mean.cpu(), self.normalize.std.cpu())
        networks = type(self)(settings, normalize, self.action_dim)
        state = networks.policy.state_dict()
        for key, value in self.policy.state_dict().items():
            state[key][: len(value)] = value  # the layers and vectors of tasks are rows, the new ones last
        networks.policy.load_state_dict(state)
        return networks

    def predict(self, batch: Mapping[str, Tensor], places: Tensor | None, tasks: Sequence[str]) -> Tensor:
        """Actions [B, K, action_dim] of a batch of ``ContextSampler`` of a store with ``tasks``.

        ``places`` is what ``task_index(tasks)`` gives.
        """
        task = None if places is None else places[batch["task"]]
        prompt = self.decisions(batch, task, "prompt_") if self.settings.prompt_length else None
        actions: Tensor = self.policy(self.decisions(batch, task), prompt, task)
        return actions


def networks_from_state(
    settings: PromptDTSettings,
    state: Mapping[str, Mapping[str, Tensor]],
    kind: type[PromptDTNetworks] = PromptDTNetworks,
) -> PromptDTNetworks:
    """The networks of a checkpoint: ``state`` maps the names of ``PromptDTNetworks.parts`` to state dicts.

    Sizes of observations and actions come from the tensors. Raises CheckpointError that names the network
    that is missing or unexpected, or the network's key that is missing, unexpected or misshapen.
    """
    with naming_the_missing():
        action_dim = state["policy"]["embedding.action.weight"].shape[1]
        normalize = normalize_in(state)
    return loaded(kind(settings, normalize, action_dim), state)
