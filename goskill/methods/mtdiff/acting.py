"""How MTDIFF-P acts: a plan by diffusion, of which the first action is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from goskill.methods.mtdiff.networks import MTDiffNetworks
from goskill.methods.mtdiff.settings import OBSERVATIONS
from goskill.methods.sequence.acting import ActingOptions, EpisodeGroup, PromptedPolicy
from goskill.methods.sequence.acting_graphs import StepRunner
from goskill.methods.sequence.prompting import last_decisions
from goskill.models import KeyValueCache
from goskill.rollouts.policy import Demonstration, FloatArray, Prompts

ANY_LENGTH = 1 << 62  # there is no table of times that would bound an episode
KEPT_BYTES = 4 << 30  # that the prompts' keys and values may take, of all diffusion steps, in each group


class MTDiffPolicy(PromptedPolicy):
    """Plans behind a demonstration's last steps and the mean reward of the task's best one.

    A step of the diffusion is one pass for all environments, with and without the return. Keys and values of the
    prompts, which are the same in every plan of an episode, are read once for each diffusion step, of as many steps as
    fit in 4 GiB; those of the others once in each plan; either way once for all environments that are shown the same.
    Of a plan only the ``actions_per_plan`` first actions are made: the transformer is causal and a step back takes each
    entry by itself, so that what follows them does not change them.

    ``networks``, ``chunk`` and ``precision`` are those of :class:`goskill.methods.sequence.acting.PromptedPolicy`.
    """

    name = "MTDIFF-P"

    def __init__(self, networks: MTDiffNetworks, *, chunk: int = 512, precision: str = "float32") -> None:
        lengths = {"horizon": 1, "max_decisions": ANY_LENGTH}
        options: ActingOptions = {"chunk": chunk, "precision": precision, "cuda_graphs": "off"}
        super().__init__(networks, ("denoiser.transformer",), **lengths, **options)

    def new_group(self, count: int, steps: StepRunner) -> EpisodeGroup:
        return PlanningGroup(self.networks, count)

    def reset(self, tasks: Sequence[str], prompts: Prompts, seed: int | Sequence[int] = 0) -> None:
        """As ``PromptedPolicy``'s. An environment's noise follows from its seed alone."""
        super().reset(tasks, prompts, seed)
        seeds: list[Any] = [(seed, row) for row in range(len(tasks))] if isinstance(seed, int) else [*seed]
        generators = [np.random.default_rng(own).spawn(1)[0] for own in seeds]
        for index, group in enumerate(self._groups):
            group.generators = generators[index * self._chunk : (index + 1) * self._chunk]

    def observe(self, rewards: FloatArray) -> None:
        """The wanted return is a mean reward, which stays."""


class PlanningGroup:
    """Episodes that share a forward pass. All are at the same step."""

    returns_to_go: Tensor
    generators: list[np.random.Generator]

    def __init__(self, networks: MTDiffNetworks, count: int) -> None:
        self.networks = networks
        self.step = 0
        settings, like = networks.settings, networks.normalize.mean
        self._visited = networks.diffusion.sampling_steps(settings.sampling_steps)
        self._times: dict[int, Tensor] = {}  # embedded, each [1, width]
        self._seen = like.new_zeros(count, OBSERVATIONS, networks.observation_dim)
        self._plan = like.new_zeros(count, settings.actions_per_plan, networks.action_dim)
        tokens = networks.denoiser.prefix + OBSERVATIONS + settings.actions_per_plan
        self._cache = networks.denoiser.transformer.new_cache(2 * count, tokens)
        self._prefixes: dict[int, KeyValueCache] = {}

    def begin(self, tasks: Sequence[str], shown: Sequence[Demonstration], returns_to_go: Tensor) -> None:
        """New episodes, as ``goskill.methods.sequence.acting.EpisodeGroup`` says."""
        self.step, self.returns_to_go = 0, returns_to_go
        networks = self.networks
        settings, device = networks.settings, networks.normalize.mean.device
        best = [
            returns / len(one.rewards) for returns, one in zip(returns_to_go.tolist(), shown, strict=True)
        ]
        keys = [(id(one), mean) for one, mean in zip(shown, best, strict=True)]
        first: dict[tuple[int, float], int] = {}
        for row, key in enumerate(keys):
            first.setdefault(key, row)
        place = {key: index for index, key in enumerate(first)}
        rows = torch.tensor([place[key] for key in keys], device=device)
        self._rows = torch.cat([rows, rows + len(first)])
        self._prompts = self._embed([shown[row] for row in first.values()])
        value = (
            torch.tensor([best[row] for row in first.values()], device=device)[:, None]
            / settings.reward_scale
        )
        told = networks.denoiser.embed_return(value, torch.ones_like(value))
        self._wanted = torch.cat([told, torch.zeros_like(told)])
        self._prefixes.clear()
        self._kept = 0  # bytes of them
        steps = torch.tensor(self._visited, device=device)
        embedded = torch.split(networks.denoiser.embed_step(steps), 1)
        self._times = dict(zip(self._visited, embedded, strict=True))

    def act(self, observations: Tensor) -> Tensor:
        """Raw observations [B, observation_dim] on the CPU -> actions [B, action_dim]."""
        self._seen[:, :-1] = self._seen[:, 1:].clone()
        self._seen[:, -1].copy_(observations)
        place = self.step % self.networks.settings.actions_per_plan
        if place == 0:
            self._plan.copy_(self._diffuse())
        self.step += 1
        return self._plan[:, place]

    def _embed(self, shown: Sequence[Demonstration]) -> Tensor:
        """The last steps of each, embedded, twice: [2 · len(shown), prompt_length, width]."""
        networks = self.networks
        actions = np.concatenate([np.asarray(one.actions) for one in shown])
        rows = last_decisions(
            shown,
            torch.from_numpy(actions).to(networks.normalize.mean.device),
            lambda observations: observations,
            length=networks.settings.prompt_length,
            horizon=1,
            return_scale=1.0,
        )
        return networks.embed_prompt(rows.observations, rows.choices, rows.mask).repeat(2, 1, 1)

    def _diffuse(self) -> Tensor:
        networks, settings = self.networks, self.networks.settings
        B = len(self._plan)
        states = networks.embed_states(self._seen, self._seen_mask()).repeat(2, 1, 1)
        wanted = self._wanted.index_select(0, self._rows)
        noise = self._noise()
        x = noise[:, 0]
        for index, (step, to) in enumerate(zip(self._visited, [*self._visited[1:], -1], strict=True)):
            self._cache.load(self._prefix(step), self._rows)
            plans, time = x.repeat(2, 1, 1), self._times[step]
            both = networks.denoiser.after_prefix(plans, time, wanted, states, self._cache).float()
            predicted = both[B:] + settings.guidance * (both[:B] - both[B:])
            extra = None if settings.sampling_steps or to < 0 else settings.noise_scale * noise[:, index + 1]
            x = networks.diffusion.back(x, predicted, step, to, extra)
        return x

    def _prefix(self, step: int) -> KeyValueCache:
        """Keys and values of the distinct prompts at a diffusion step, with the return and without it."""
        if step in self._prefixes:
            return self._prefixes[step]
        read = self.networks.denoiser.read_prefix(self._times[step], self._wanted, self._prompts)
        size = sum(tensor.nbytes for tensor in (*read.keys, *read.values))
        if self._kept + size <= KEPT_BYTES:
            self._kept += size
            self._prefixes[step] = read
        return read

    def _noise(self) -> Tensor:
        """Standard normal numbers for the first actions [B, n, actions_per_plan, action_dim].

        Each environment's are the first of a whole plan's from its own generator.
        """
        count = 1 if self.networks.settings.sampling_steps else len(self._visited)
        shape, first = (count, self.networks.settings.plan, self._plan.shape[2]), self._plan.shape[1]
        drawn = np.stack([one.standard_normal(shape, dtype=np.float32)[:, :first] for one in self.generators])
        return torch.from_numpy(drawn).to(self._plan.device)

    def _seen_mask(self) -> Tensor | None:
        """Before the second step there is one observation only."""
        if self.step:
            return None
        mask = torch.ones(self._seen.shape[:2], device=self._seen.device)
        mask[:, :-1] = 0
        return mask
