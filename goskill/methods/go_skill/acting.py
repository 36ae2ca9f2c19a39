"""How GO-Skill acts: a skill every H steps, and the decoder in between, both with cached keys and values."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from goskill.errors import InputError
from goskill.evaluation.policy import Demonstration, FloatArray, Prompts
from goskill.methods.go_skill.networks import GoSkillNetworks
from goskill.methods.go_skill.prompting import check_demonstrations, demonstrated_return, read_prompts
from goskill.models import KeyValueCache


class GoSkillPolicy:
    """Chooses the most probable skill every H steps and decodes it into deterministic actions.

    A ``goskill.evaluation.Policy`` for any number of environments whose episodes begin together. The
    prompt of an environment is one of its task's demonstrations, drawn by its seed and labelled by the
    networks' own skill model. The target return is the highest among the task's demonstrations, lowered by
    the rewards that ``observe`` reports.

    Keys and values are kept: three new tokens a step in the decoder, the prompt once per demonstration, the
    history until the context slides. Then its first decision leaves, which changes everything that has
    attended to it, and what is left of the history is read again behind the cached prompt.

    Args:
        networks: put into evaluation mode and used on the device where they are.
        chunk: environments per forward pass, which bounds the memory of activations.
        precision: "float32", or "bfloat16" for autocast on a copy of the networks.
    """

    needs_prompts = True

    def __init__(self, networks: GoSkillNetworks, *, chunk: int = 512, precision: str = "float32") -> None:
        if chunk < 1:
            raise InputError(f"chunk: expected a positive number, got {chunk}")
        if precision not in ("float32", "bfloat16"):
            raise InputError(f"precision: expected 'float32' or 'bfloat16', got {precision!r}")
        settings = networks.settings
        self.name = "MH-GO-Skill" if settings.multi_head_decoder else "GO-Skill"
        self.networks = _with_low_precision_weights(networks) if precision == "bfloat16" else networks
        self.horizon = settings.horizon
        self.skill_count = settings.codebook_size if settings.discrete else None
        self._chunk = chunk
        self._precision = precision
        self._groups: list[_Group] = []

    @property
    def skill_history(self) -> npt.NDArray[np.int64]:
        """Skills chosen since ``reset``: int64 [decisions, N], oldest first; none without a codebook."""
        if self.skill_count is None or not self._groups or not self._groups[0].chosen:
            return np.zeros((0, self._environments()), dtype=np.int64)
        history = torch.cat([torch.stack(group.chosen) for group in self._groups], dim=1)
        return np.asarray(history.cpu().numpy(), dtype=np.int64)

    def reset(self, tasks: Sequence[str], prompts: Prompts, seed: int | Sequence[int] = 0) -> None:
        """Begin an episode in each of ``len(tasks)`` environments.

        Raises InputError for a task without demonstrations and for demonstrations that do not fit.
        """
        seeds: list[Any] = [(seed, row) for row in range(len(tasks))] if isinstance(seed, int) else [*seed]
        if len(seeds) != len(tasks):
            raise InputError(f"seed: expected one for each of {len(tasks)} environments, got {len(seeds)}")
        targets = {}
        for task in dict.fromkeys(tasks):
            check_demonstrations(self.networks, task, prompts.get(task, ()))
            targets[task] = max(demonstrated_return(one) for one in prompts[task])
        shown = [
            prompts[task][int(np.random.default_rng(own).integers(len(prompts[task])))]
            for task, own in zip(tasks, seeds, strict=True)
        ]
        returns = torch.tensor([targets[task] for task in tasks], dtype=torch.float64)
        self.networks.eval()
        with self._inference():
            self._groups = [
                _Group(
                    self.networks, shown[begin : begin + self._chunk], returns[begin : begin + self._chunk]
                )
                for begin in range(0, len(tasks), self._chunk)
            ]

    def act(self, observations: FloatArray) -> FloatArray:
        """Actions float32 [N, action_dim] for raw observations float32 [N, observation_dim].

        Raises InputError for observations that are misshapen or not finite, naming environment and step.
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

    def _checked(self, observations: FloatArray) -> FloatArray:
        observations = np.ascontiguousarray(observations, dtype=np.float32)
        expected = (self._environments(), self.networks.observation_dim)
        if observations.shape != expected:
            raise InputError(f"observations: expected shape {expected} as reset, got {observations.shape}")
        finite = np.isfinite(observations).all(axis=1)
        if not finite.all():
            raise InputError(
                f"observations: expected finite numbers, got others in environment {int(np.argmin(finite))} "
                f"at step {self._groups[0].step + 1}"
            )
        return observations


def _with_low_precision_weights(networks: GoSkillNetworks) -> GoSkillNetworks:
    """A copy whose transformers hold bfloat16 weights, which autocast would otherwise make at every step."""
    networks = copy.deepcopy(networks)
    for part in (networks.decoder, networks.policy):
        for module in part.modules():
            if isinstance(module, nn.Linear):
                module.to(torch.bfloat16)
    return networks


class _Group:
    """Episodes that share a forward pass. All are at the same step."""

    def __init__(
        self, networks: GoSkillNetworks, shown: Sequence[Demonstration], returns_to_go: Tensor
    ) -> None:
        self.networks = networks
        self.returns_to_go = returns_to_go  # float64 [B] on the CPU, not scaled
        self.step = 0
        self.chosen: list[Tensor] = []  # int64 [B] per decision
        self._history: list[Tensor] = []  # embedded tokens [B, 3, width] of the decisions in the context
        self._policy_cache = self._read_prompts(shown)
        self._prompt_tokens = self._policy_cache.length
        self._decoder_cache = networks.decoder.new_cache(len(shown))

    def act(self, observations: Tensor) -> Tensor:
        """Raw observations [B, observation_dim] on the CPU -> actions [B, action_dim]."""
        networks = self.networks
        raw = observations.to(networks.normalize.mean.device)
        normalized = networks.normalize(raw)
        within = self.step % networks.settings.horizon
        if within == 0:
            self._decide(normalized)
            self._start = networks.goals(raw)
        reached = (
            networks.encoder(networks.goals(raw) - self._start) if networks.settings.reached_goal else None
        )
        decoder, cache = networks.decoder, self._decoder_cache
        if within == 0:
            self._action = decoder.begin(self._vector, self._index, reached, normalized, cache)
        else:
            self._action = decoder.step(self._index, self._action, reached, normalized, within, cache)
        self.step += 1
        return self._action

    def _decide(self, normalized: Tensor) -> None:
        """Choose the skill of the next H steps."""
        networks, settings = self.networks, self.networks.settings
        timestep = self.step // settings.horizon
        if timestep >= settings.max_decisions:
            raise InputError(
                f"max_decisions: expected episodes of at most {settings.max_decisions} decisions, "
                f"got step {self.step + 1}"
            )
        scaled = (self.returns_to_go / settings.return_scale).to(normalized.device, torch.float32)
        embedding = networks.policy.embedding
        now = embedding.return_and_state(scaled[:, None], normalized, timestep)
        if len(self._history) == settings.context:
            self._history.pop(0)
            self._policy_cache.truncate(self._prompt_tokens)
            unread = torch.cat([*self._history, now], dim=1)
        else:
            unread = torch.cat([*(tokens[:, -1:] for tokens in self._history[-1:]), now], dim=1)
        scores = networks.policy.extend(unread, self._policy_cache)
        skill = scores.argmax(-1) if settings.discrete else scores.float()
        token = embedding.skill_token(networks.policy_input(skill), timestep)
        self._history.append(torch.cat([now, token[:, None]], dim=1))
        self._vector = networks.vectors(skill)
        self._index = skill if settings.discrete else None
        if settings.discrete:
            self.chosen.append(skill)

    def _read_prompts(self, shown: Sequence[Demonstration]) -> KeyValueCache:
        """A cache of each environment's prompt, read once for all that are shown the same demonstration."""
        policy, settings = self.networks.policy, self.networks.settings
        capacity = settings.prompt_length + settings.context
        if settings.prompt_length == 0:
            return policy.new_cache(len(shown), capacity)
        distinct = {id(demonstration): demonstration for demonstration in shown}
        place = {key: index for index, key in enumerate(distinct)}
        cache = policy.read_prompt(read_prompts(self.networks, list(distinct.values())), capacity)
        rows = torch.tensor([place[id(demonstration)] for demonstration in shown])
        return cache.select(rows.to(cache.keys[0].device))
