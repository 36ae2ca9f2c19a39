"""What GO-Skill's two levels get right by themselves: the decoder with true skills, the policy with true histories."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from goskill.data import EpisodeStore, SegmentSampler
from goskill.errors import InputError
from goskill.methods.go_skill.acting import DecoderExecution
from goskill.methods.go_skill.contexts import contexts
from goskill.methods.go_skill.labelling import label_episodes
from goskill.methods.go_skill.losses import decisions
from goskill.methods.go_skill.networks import GoSkillNetworks
from goskill.methods.sequence.checking import check_dimensions
from goskill.methods.sequence.predictions import (
    BATCH,
    ActionPredictions,
    SkillPredictions,
    as_array,
    batches,
    repeat,
)
from goskill.rollouts.policy import FloatArray, Prompts


@torch.inference_mode()
def predict_actions(
    networks: GoSkillNetworks, store: EpisodeStore, samples: int, seed: int = 0
) -> ActionPredictions:
    """What the decoder makes of the true skill, state, reached goal and actions so far.

    ``samples`` windows of H steps, the same number from each task, uniform over a task's steps. Raises InputError
    for a store of other observations or actions than the networks'.
    """
    check_dimensions(networks, store)
    networks.eval()
    sampler = SegmentSampler(
        store, horizon=networks.settings.horizon, batch_size=min(BATCH, samples), balance="task", seed=seed
    )
    told = networks.told(store.tasks)
    parts = []
    for batch, rows in batches(sampler, networks.normalize.mean.device, samples):
        window = networks.read_window(batch["observations"], batch["actions"])
        vector, index, _ = networks.quantize(window.embedding, frozen=True)
        states = networks.decoder_states(window.observations, told.index_select(0, batch["task"]))
        actions = networks.decoder(vector, index, window.reached, states, batch["actions"])
        B, H, _ = actions.shape
        valid = batch["mask"].cpu().numpy()[:rows]
        where = np.broadcast_to(np.arange(H), (B, H))[:rows]
        parts.append(
            ActionPredictions(
                as_array(actions)[:rows][valid],
                as_array(batch["actions"])[:rows][valid],
                repeat(batch["task"], H)[:rows][valid],
                where[valid].astype(np.int64),
                None if index is None else repeat(index, H)[:rows][valid],
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
    settings = networks.eval().settings
    sampler = contexts(settings, store, labels, min(BATCH, samples), seed=seed)
    parts = []
    for batch, rows in batches(sampler, networks.normalize.mean.device, samples):
        prompt = decisions(networks, batch, "prompt_") if settings.prompt_length else None
        chosen = networks.policy(decisions(networks, batch), prompt).argmax(-1)
        valid = batch["mask"].cpu().numpy()[:rows]
        parts.append(
            SkillPredictions(
                chosen.cpu().numpy()[:rows][valid],
                batch["skills"].cpu().numpy()[:rows][valid],
                repeat(batch["task"], valid.shape[1])[:rows][valid],
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
        self._seeds = [seed] * len(tasks) if isinstance(seed, int) else list(seed)
        self._following = _Following(self.networks, tasks, prompts)

    @torch.inference_mode()
    def act(self, observations: FloatArray) -> FloatArray:
        """Actions float32 [N, action_dim] for raw observations float32 [N, observation_dim]."""
        following = self._following
        taken = following.act(torch.from_numpy(np.asarray(observations, dtype=np.float32)))
        if following.step == 1:
            places = zip(following.tasks, self._seeds, following.exact, strict=True)
            self._exact |= {(task, seed) for task, seed, exact in places if exact}
        return as_array(taken.clone())


class _Following(DecoderExecution):
    """Episodes whose skills are those of the demonstration with the nearest start."""

    def __init__(self, networks: GoSkillNetworks, tasks: Sequence[str], prompts: Prompts) -> None:
        super().__init__(networks, len(tasks))
        self.tasks = list(tasks)
        self.exact: list[bool] = []  # whether each episode began as its demonstration did
        self._demonstrations = prompts
        self.tell(tasks)

    def decide(self, observations: Tensor, normalized: Tensor) -> Tensor:
        if self.step == 0:
            self._skills = self._follow(as_array(observations))
        decision = self.step // self.networks.settings.horizon
        return self._skills[:, min(decision, self._skills.shape[1] - 1)]

    def _follow(self, observations: FloatArray) -> Tensor:
        """The skills to carry out in each environment: [N, decisions], or [N, decisions, E] if continuous."""
        std = as_array(self.networks.normalize.std)
        rows = []
        for task, observation in zip(self.tasks, observations, strict=True):
            starts = np.stack([one.observations[0] for one in self._demonstrations[task]])
            nearest = int(np.square((starts - observation) / std).sum(1).argmin())
            self.exact.append(np.array_equal(starts[nearest], observation))
            every_step = label_episodes(self.networks, [self._demonstrations[task][nearest]])
            rows.append(every_step[:: self.networks.settings.horizon])
        longest = max(len(row) for row in rows)
        return torch.stack(
            [torch.cat([row, row[-1:].repeat_interleave(longest - len(row), 0)]) for row in rows]
        )
