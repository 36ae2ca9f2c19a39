"""What policies share that are conditioned on a demonstration and on the return-to-go."""

from __future__ import annotations

import contextlib
import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from goskill.errors import InputError
from goskill.methods.sequence.acting_graphs import EagerSteps, GraphedSteps, StepRunner
from goskill.methods.sequence.prompting import check_demonstrations, demonstrated_return
from goskill.models import DecisionContext, Decisions
from goskill.rollouts.policy import (
    Demonstration,
    FloatArray,
    Prompts,
    check_precision,
    checked_observations,
    checked_rewards,
)

# One thread at a time works on a GPU: a graph must not be captured while another thread queues work.
_ON_GPU = threading.Lock()


class EpisodeGroup(Protocol):
    """``B`` episodes that share a forward pass. All are at the same step."""

    step: int
    returns_to_go: Tensor  # float64 [B] on the CPU, not scaled

    def begin(self, tasks: Sequence[str], shown: Sequence[Demonstration], returns_to_go: Tensor) -> None:
        """New episodes of these tasks, each shown a demonstration; returns_to_go float64 [B]."""

    def act(self, observations: Tensor) -> Tensor:
        """Raw observations [B, observation_dim] on the CPU -> actions [B, action_dim], valid until the next."""


class ActingOptions(TypedDict, total=False):
    """What prompted policies take besides networks."""

    chunk: int
    precision: str
    cuda_graphs: str


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
        cuda_graphs: "on" replays a step as one CUDA graph once its like has come twice (in an episode, or in an
            earlier one of as many environments), and raises where that is impossible; "off" never does; "auto"
            does so on CUDA, and goes on without, with a warning, where a step cannot be captured.
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
        chunk: int = 512,
        precision: str = "float32",
        cuda_graphs: str = "auto",
    ) -> None:
        if chunk < 1:
            raise InputError(f"chunk: expected a positive number, got {chunk}")
        check_precision(precision)
        if cuda_graphs not in ("auto", "on", "off"):
            raise InputError(f"cuda_graphs: expected 'auto', 'on' or 'off', got {cuda_graphs!r}")
        self.networks: Any = networks
        if precision == "bfloat16":
            self.networks = _with_low_precision_weights(networks, transformers)
        self._horizon = horizon
        self._max_decisions = max_decisions
        self._chunk = chunk
        self._precision = precision
        self._cuda_graphs = cuda_graphs
        self._groups: list[Any] = []
        self._made_for: object = None

    def fork(self) -> PromptedPolicy:
        """A policy with the same networks and episodes of its own."""
        other = copy.copy(self)
        other._groups, other._made_for = [], None
        return other

    @abstractmethod
    def new_group(self, count: int, steps: StepRunner) -> EpisodeGroup:
        """Room for ``count`` episodes, whose steps ``steps`` runs."""

    def reset(self, tasks: Sequence[str], prompts: Prompts, seed: int | Sequence[int] = 0) -> None:
        """Begin an episode in each of ``len(tasks)`` environments.

        Raises InputError for a task without demonstrations, for demonstrations that do not fit, for a task that
        the networks would have to know and do not, and for ``cuda_graphs="on"`` without CUDA.
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
            self._make_groups([len(tasks[rows]) for rows in chunks])
            for group, rows in zip(self._groups, chunks, strict=True):
                group.begin(tasks[rows], shown[rows], returns[rows])

    def act(self, observations: FloatArray) -> FloatArray:
        """Actions float32 [N, action_dim] for raw observations float32 [N, observation_dim].

        Raises InputError for observations that are misshapen or not finite, naming environment and step, and for
        episodes that last longer than the time tables.
        """
        rows = torch.split(torch.from_numpy(self._checked(observations)), self._chunk)
        with self._inference():
            actions = [group.act(own) for group, own in zip(self._groups, rows, strict=True)]
            together = torch.cat(actions).float().cpu()
        return np.asarray(together.numpy(), dtype=np.float32)

    def observe(self, rewards: FloatArray) -> None:
        """What each environment paid for the last action, [N]: lowers the return-to-go.

        Raises InputError for another shape, and for rewards that are not finite.
        """
        paid = checked_rewards(rewards, self._environments())
        rows = torch.split(torch.from_numpy(paid), self._chunk)
        for group, own in zip(self._groups, rows, strict=True):
            group.returns_to_go -= own

    def _make_groups(self, sizes: list[int]) -> None:
        """New groups of these sizes, unless those that are there can be used again, with their graphs."""
        # A graph holds the addresses of the weights that it was captured with.
        weights = [tensor.data_ptr() for tensor in (*self.networks.parameters(), *self.networks.buffers())]
        if (sizes, self._device, weights) == self._made_for:
            return
        self._groups, self._made_for = [], None
        steps = self._new_steps()
        self._groups = [self.new_group(size, steps) for size in sizes]
        self._made_for = (sizes, self._device, weights)

    def _new_steps(self) -> StepRunner:
        on_gpu = self._device.type == "cuda"
        if self._cuda_graphs == "on" and not on_gpu:
            raise InputError(f"cuda_graphs: 'on' needs networks on a CUDA device, got {self._device}")
        if self._cuda_graphs == "off" or not on_gpu:
            return EagerSteps()
        return GraphedSteps(self._device, required=self._cuda_graphs == "on")

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.networks.normalize.mean.device
        return device

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        kind, low = self._device.type, self._precision == "bfloat16"
        alone = _ON_GPU if kind == "cuda" else contextlib.nullcontext()
        # A weight that autocast keeps between two graphs would lie in the memory of the first.
        keeps = kind == "cpu"
        with alone, torch.inference_mode(), torch.autocast(kind, torch.bfloat16, low, keeps):
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
        step = self._groups[0].step if self._groups else 0
        count, size = self._environments(), self.networks.observation_dim
        observations = checked_observations(observations, count, size, f" at step {step + 1}")
        if step // self._horizon >= self._max_decisions:
            raise InputError(
                f"max_decisions: expected episodes of at most {self._max_decisions} decisions, "
                f"got step {step + 1}"
            )
        return observations


def show_prompts(
    context: DecisionContext,
    shown: Sequence[Hashable],
    read: Callable[[list[int]], Decisions],
    device: torch.device,
) -> None:
    """Begin episodes behind the prompts of their rows, read once for all rows that are ``shown`` the same.

    ``read(rows)`` makes the prompts of these rows.
    """
    first: dict[Hashable, int] = {}
    for row, key in enumerate(shown):
        first.setdefault(key, row)
    place = {key: index for index, key in enumerate(first)}
    context.begin(read(list(first.values())), torch.tensor([place[key] for key in shown], device=device))


def _with_low_precision_weights(networks: nn.Module, transformers: Sequence[str]) -> nn.Module:
    """A copy whose transformers hold bfloat16 weights, which autocast would otherwise make at every step."""
    networks = copy.deepcopy(networks)
    for name in transformers:
        for module in networks.get_submodule(name).modules():
            if isinstance(module, nn.Linear):
                module.to(torch.bfloat16)
    return networks
