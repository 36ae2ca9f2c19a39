"""What GO-Skill's two levels get right by themselves: the decoder with true skills, the policy with true histories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goskill.data import ContextSampler, EpisodeStore, SegmentSampler
from goskill.errors import InputError
from goskill.evaluation.policy import Demonstration, FloatArray, Prompts
from goskill.methods.checking import check_dimensions
from goskill.methods.go_skill.labelling import label_episodes
from goskill.methods.go_skill.losses import decisions
from goskill.methods.go_skill.networks import GoSkillNetworks
from goskill.methods.predictions import ActionPredictions, SkillPredictions
from goskill.training import Batch

_BATCH = 256


@torch.inference_mode()
def predict_actions(
    networks: GoSkillNetworks, store: EpisodeStore, samples: int, seed: int = 0
) -> ActionPredictions:
    """What the decoder makes of the true skill, state, reached goal and actions so far.

    ``samples`` windows of H steps, the same number from each task, uniform over a task's steps. Raises InputError
    for a store of other observations or actions than the networks'.
    """
    check_dimensions(networks, store)
    sampler = SegmentSampler(
        store, horizon=networks.settings.horizon, batch_size=min(_BATCH, samples), balance="task", seed=seed
    )
    parts = []
    for batch, rows in _batches(networks, sampler, samples):
        window = networks.read_window(batch["observations"], batch["actions"])
        vector, index, _ = networks.quantize(window.embedding, frozen=True)
        actions = networks.decoder(vector, index, window.reached, window.observations, batch["actions"])
        B, H, _ = actions.shape
        valid = batch["mask"].cpu().numpy()[:rows]
        where = np.broadcast_to(np.arange(H), (B, H))[:rows]
        parts.append(
            ActionPredictions(
                _numpy(actions)[:rows][valid],
                _numpy(batch["actions"])[:rows][valid],
                _repeat(batch["task"], H)[:rows][valid],
                where[valid].astype(np.int64),
                None if index is None else _repeat(index, H)[:rows][valid],
            )
        )
    return ActionPredictions.join(parts)


@torch.inference_mode()
def predict_skills(
    networks: GoSkillNetworks, store: EpisodeStore, labels: str, samples: int, seed: int = 0
) -> SkillPredictions:
    """What the policy chooses after the true skills, states and returns so far, behind the store's own prompts.

    ``samples`` contexts, the same number from each task; ``labels`` is the column that these networks wrote.
    """
    settings = networks.settings
    sampler = ContextSampler(
        store,
        horizon=settings.horizon,
        context=settings.context,
        prompt=settings.prompt_length,
        batch_size=min(_BATCH, samples),
        labels=labels,
        prompt_episodes={task: store.best_episodes(task, settings.prompt_episodes) for task in store.tasks},
        return_scale=settings.return_scale,
        seed=seed,
    )
    parts = []
    for batch, rows in _batches(networks, sampler, samples):
        prompt = decisions(networks, batch, "prompt_") if settings.prompt_length else None
        chosen = networks.policy(decisions(networks, batch), prompt).argmax(-1)
        valid = batch["mask"].cpu().numpy()[:rows]
        parts.append(
            SkillPredictions(
                chosen.cpu().numpy()[:rows][valid],
                batch["skills"].cpu().numpy()[:rows][valid],
                _repeat(batch["task"], valid.shape[1])[:rows][valid],
            )
        )
    return SkillPredictions.join(parts)


class OraclePolicy:
    """Lets the decoder carry out the skills of a demonstration, one after the other, whatever comes of it.

    A ``goskill.evaluation.Policy``. The demonstration of an environment is the one of its task whose first
    observation is nearest to the environment's (Euclidean, normalised; the first of equals). Its step kH says which
    skill is in charge from step kH on, as the networks' own skill model labels it; past its end the last one stays.
    """

    name = "oracle skills"
    needs_prompts = True

    def __init__(self, networks: GoSkillNetworks) -> None:
        self.networks = networks.eval()
        self._exact: set[tuple[str, int]] = set()
        self._tasks: list[str] = []
        self._seeds: list[int] = []
        self._demonstrations: Prompts = {}
        self._first: dict[str, FloatArray] = {}
        self._step = 0

    @property
    def exact(self) -> int:
        """How many (task, seed) so far began as the demonstration that was followed, bit for bit."""
        return len(self._exact)

    def reset(self, tasks: Sequence[str], prompts: Prompts, seed: int | Sequence[int] = 0) -> None:
        """Begin an episode in each environment; ``prompts`` are the demonstrations to follow.

        Raises InputError for a task without demonstrations.
        """
        for task in tasks:
            if not prompts.get(task):
                raise InputError(f"prompts: expected at least one demonstration of task {task!r}, got none")
        self._tasks = list(tasks)
        self._seeds = [seed] * len(tasks) if isinstance(seed, int) else list(seed)
        self._demonstrations = prompts
        self._first = {task: np.stack([one.observations[0] for one in prompts[task]]) for task in set(tasks)}
        self._step = 0

    @torch.inference_mode()
    def act(self, observations: FloatArray) -> FloatArray:
        """Actions float32 [N, action_dim] for raw observations float32 [N, observation_dim]."""
        networks, decoder = self.networks, self.networks.decoder
        if self._step == 0:
            self._skills = self._follow(np.asarray(observations, dtype=np.float32))
            self._cache = decoder.new_cache(len(self._tasks))
        raw = torch.from_numpy(np.asarray(observations, dtype=np.float32)).to(networks.normalize.mean.device)
        normalized, goals = networks.normalize(raw), networks.goals(raw)
        decision, within = divmod(self._step, networks.settings.horizon)
        if within == 0:
            skill = self._skills[:, min(decision, self._skills.shape[1] - 1)]
            self._vector = networks.vectors(skill)
            self._index = skill if networks.settings.discrete else None
            self._start = goals
        reached = networks.encoder(goals - self._start) if networks.settings.reached_goal else None
        if within == 0:
            self._action = decoder.begin(self._vector, self._index, reached, normalized, self._cache)
        else:
            self._action = decoder.step(self._index, self._action, reached, normalized, within, self._cache)
        self._step += 1
        return _numpy(self._action)

    def _follow(self, observations: FloatArray) -> Tensor:
        """The skills to carry out in each environment: [N, decisions], or [N, decisions, E] if continuous."""
        std = _numpy(self.networks.normalize.std)
        cache: dict[int, Tensor] = {}
        rows = []
        for task, seed, observation in zip(self._tasks, self._seeds, observations, strict=True):
            distances = np.square((self._first[task] - observation) / std).sum(1)
            nearest = int(distances.argmin())
            if np.array_equal(self._first[task][nearest], observation):
                self._exact.add((task, seed))
            demonstration = self._demonstrations[task][nearest]
            if id(demonstration) not in cache:
                cache[id(demonstration)] = self._skills_of(demonstration)
            rows.append(cache[id(demonstration)])
        longest = max(len(row) for row in rows)
        return torch.stack(
            [torch.cat([row, row[-1:].repeat_interleave(longest - len(row), 0)]) for row in rows]
        )

    def _skills_of(self, demonstration: Demonstration) -> Tensor:
        return label_episodes(self.networks, [demonstration])[:: self.networks.settings.horizon]


def _batches(
    networks: GoSkillNetworks, sampler: SegmentSampler | ContextSampler, samples: int
) -> Iterator[tuple[Batch, int]]:
    """Batches on the networks' device, each with how many of its rows count, until ``samples`` rows did."""
    networks.eval()
    device = networks.normalize.mean.device
    left = samples
    for batch in sampler:
        rows = min(left, len(batch["mask"]))
        yield {name: values.to(device) for name, values in batch.items()}, rows
        left -= rows
        if left == 0:
            return


def _repeat(values: Tensor, times: int) -> npt.NDArray[np.int64]:
    """int64 [B] -> [B, times]."""
    return np.repeat(values.cpu().numpy()[:, None], times, axis=1)


def _numpy(values: Tensor) -> FloatArray:
    return np.asarray(values.float().cpu().numpy(), dtype=np.float32)
