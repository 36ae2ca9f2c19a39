"""What policies share that are conditioned on a demonstration and on the return to go."""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from goskill.errors import InputError
from goskill.evaluation.policy import Demonstration, FloatArray, Prompts
from goskill.methods.prompting import check_demonstrations, demonstrated_return
from goskill.models import Decisions, DecisionTransformer, KeyValueCache


class Group(Protocol):
    """Episodes that share a forward pass. All are at the same step."""

    step: int
    returns_to_go: Tensor  # float64 [B] on the CPU, not scaled

    def act(self, observations: Tensor) -> Tensor:
        """Raw observations [B, observation_dim] on the CPU -> actions [B, action_dim]."""


class PromptedPolicy(ABC):
    """A ``goskill.evaluation.Policy`` for any number of environments whose episodes begin together.

    The prompt of an environment is one of its task's demonstrations, drawn by its seed. The target return is the
    highest among the task's demonstrations, lowered by the rewards that ``observe`` reports.

    Args:
        networks: put into evaluation mode and used on the device where they are.
        transformers: the names of their parts that hold transformers.
        horizon, max_decisions: environment steps between decisions, and how many decisions an episode may last.
        chunk: environments per forward pass, which bounds the memory of activations.
        precision: "float32", or "bfloat16" for autocast on a copy of the networks.
    """

    name: str
    needs_prompts = True

    def __init__(
        self,
        networks: nn.Module,
        transformers: Sequence[str],
        *,
        horizon: int,
        max_decisions: int,
        chunk: int,
        precision: str,
    ) -> None:
        if chunk < 1:
            raise InputError(f"chunk: expected a positive number, got {chunk}")
        if precision not in ("float32", "bfloat16"):
            raise InputError(f"precision: expected 'float32' or 'bfloat16', got {precision!r}")
        self.networks: Any = networks
        if precision == "bfloat16":
            self.networks = _with_low_precision_weights(networks, transformers)
        self._horizon = horizon
        self._max_decisions = max_decisions
        self._chunk = chunk
        self._precision = precision
        self._groups: list[Any] = []

    def fork(self) -> PromptedPolicy:
        """A policy with the same networks and episodes of its own."""
        other = copy.copy(self)
        other._groups = []
        return other

    @abstractmethod
    def begin(self, tasks: Sequence[str], shown: Sequence[Demonstration], returns_to_go: Tensor) -> Group:
        """Episodes of these tasks, each shown a demonstration; returns_to_go float64 [B]."""

    def reset(self, tasks: Sequence[str], prompts: Prompts, seed: int | Sequence[int] = 0) -> None:
        """Begin an episode in each of ``len(tasks)`` environments.

        Raises InputError for a task without demonstrations, for demonstrations that do not fit, and for a task
        that the networks would have to know and do not.
        """
        seeds: list[Any] = [(seed, row) for row in range(len(tasks))] if isinstance(seed, int) else [*seed]
        if len(seeds) != len(tasks):
            raise InputError(f"seed: expected one for each of {len(tasks)} environments, got {len(seeds)}")
        targets = {}
        for task in dict.fromkeys(tasks):
            self._check_demonstrations(task, prompts.get(task, ()))
            targets[task] = max(demonstrated_return(one) for one in prompts[task])
        shown = [
            prompts[task][int(np.random.default_rng(own).integers(len(prompts[task])))]
            for task, own in zip(tasks, seeds, strict=True)
        ]
        returns = torch.tensor([targets[task] for task in tasks], dtype=torch.float64)
        self.networks.eval()
        chunks = [slice(at, at + self._chunk) for at in range(0, len(tasks), self._chunk)]
        with self._inference():
            self._groups = [self.begin(tasks[rows], shown[rows], returns[rows]) for rows in chunks]

    def act(self, observations: FloatArray) -> FloatArray:
        """Actions float32 [N, action_dim] for raw observations float32 [N, observation_dim].

        Raises InputError for observations that are misshapen or not finite, naming environment and step, and for
        episodes that last longer than the time tables.
        """
        rows = torch.split(torch.from_numpy(self._checked(observations)), self._chunk)
        with self._inference():
            actions = [group.act(own).float().cpu() for group, own in zip(self._groups, rows, strict=True)]
        return np.asarray(torch.cat(actions).numpy(), dtype=np.float32)

    def observe(self, rewards: FloatArray) -> None:
        """What each environment paid for the last action, [N]: lowers the return to go."""
        rows = torch.split(torch.from_numpy(np.asarray(rewards, dtype=np.float64)), self._chunk)
        for group, own in zip(self._groups, rows, strict=True):
            group.returns_to_go -= own

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        device = self.networks.normalize.mean.device.type
        low = self._precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(device, dtype=torch.bfloat16, enabled=low):
            yield

    def _environments(self) -> int:
        return sum(len(group.returns_to_go) for group in self._groups)

    def _check_demonstrations(self, task: str, demonstrations: Sequence[Demonstration]) -> None:
        check_demonstrations(
            task,
            demonstrations,
            observation_dim=self.networks.observation_dim,
            action_dim=self.networks.action_dim,
            horizon=self._horizon,
            max_decisions=self._max_decisions,
        )

    def _checked(self, observations: FloatArray) -> FloatArray:
        observations = np.ascontiguousarray(observations, dtype=np.float32)
        step = self._groups[0].step if self._groups else 0
        expected = (self._environments(), self.networks.observation_dim)
        if observations.shape != expected:
            raise InputError(f"observations: expected shape {expected} as reset, got {observations.shape}")
        finite = np.isfinite(observations).all(axis=1)
        if not finite.all():
            raise InputError(
                f"observations: expected finite numbers, got others in environment {int(np.argmin(finite))} "
                f"at step {step + 1}"
            )
        if step // self._horizon >= self._max_decisions:
            raise InputError(
                f"max_decisions: expected episodes of at most {self._max_decisions} decisions, "
                f"got step {step + 1}"
            )
        return observations


def prompt_cache(
    policy: DecisionTransformer,
    shown: Sequence[Hashable],
    read: Callable[[list[int]], Decisions],
    *,
    prompt_length: int,
    context: int,
) -> KeyValueCache:
    """A cache of each row's prompt, read once for all rows that are ``shown`` the same, with room for ``context``.

    ``read(rows)`` makes the prompts of these rows. Without a prompt the cache is empty.
    """
    if prompt_length == 0:
        return policy.new_cache(len(shown), context)
    first: dict[Hashable, int] = {}
    for row, key in enumerate(shown):
        first.setdefault(key, row)
    place = {key: index for index, key in enumerate(first)}
    cache = policy.read_prompt(read(list(first.values())), prompt_length + context)
    return cache.select(torch.tensor([place[key] for key in shown], device=cache.keys[0].device))


def _with_low_precision_weights(networks: nn.Module, transformers: Sequence[str]) -> nn.Module:
    """A copy whose transformers hold bfloat16 weights, which autocast would otherwise make at every step."""
    networks = copy.deepcopy(networks)
    for name in transformers:
        for module in networks.get_submodule(name).modules():
            if isinstance(module, nn.Linear):
                module.to(torch.bfloat16)
    return networks
