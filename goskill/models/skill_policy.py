"""The skill policy: the high-level policy that chooses a skill at each decision point."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.models.padding import padding_last, take_rows
from goskill.models.transformer import LAST_POSITION, CausalTransformer, KeyValueCache

TOKENS_PER_DECISION = 3  # return to go, state, skill
AT_STATES = slice(1, None, TOKENS_PER_DECISION)


@dataclass(frozen=True)
class Decisions:
    """Rows of consecutive decision points, of a prompt or of the history.

    ``returns_to_go`` [B, K, 1]; ``observations`` [B, K, observation_dim], normalised; ``skills`` [B, K, E]
    (or indices int64 [B, K] for a policy that embeds indices); ``timesteps`` int64 [B, K], counted in
    decisions; ``mask`` bool [B, K], False where a row is padding, None where nothing is padded.
    """

    returns_to_go: Tensor
    observations: Tensor
    skills: Tensor
    timesteps: Tensor
    mask: Tensor | None = None


class DecisionEmbedding(nn.Module):
    """Three tokens per decision point, to each of which its time is added.

    ``skill_size`` is the length of the skill vectors; with ``skill_count`` positive, skills are indices and
    have a table of their own.
    """

    def __init__(
        self, observation_dim: int, skill_size: int, skill_count: int, width: int, max_decisions: int
    ) -> None:
        super().__init__()
        self.time = nn.Embedding(max_decisions, width)
        self.return_to_go = nn.Linear(1, width)
        self.state = nn.Linear(observation_dim, width)
        self.skill: nn.Module = (
            nn.Embedding(skill_count, width) if skill_count else nn.Linear(skill_size, width)
        )

    def forward(self, decisions: Decisions) -> Tensor:
        """-> [B, K, 3, width]."""
        parts = [
            self.return_to_go(decisions.returns_to_go),
            self.state(decisions.observations),
            self.skill(decisions.skills),
        ]
        time: Tensor = self.time(decisions.timesteps)
        return torch.stack(parts, dim=2) + time[:, :, None]

    def return_and_state(self, returns_to_go: Tensor, observation: Tensor, timestep: int) -> Tensor:
        """The first two tokens of one decision: [B, 1], [B, observation_dim] -> [B, 2, width]."""
        parts = [self.return_to_go(returns_to_go), self.state(observation)]
        return torch.stack(parts, dim=1) + self.time.weight[timestep]

    def skill_token(self, skills: Tensor, timestep: int) -> Tensor:
        """The third token of one decision: skills [B, E] or int64 [B] -> [B, width]."""
        token: Tensor = self.skill(skills)
        return token + self.time.weight[timestep]


class SkillPolicy(nn.Module):
    """Scores of the next skill from a prompt and the history, read at the state tokens.

    Prompt and history have embeddings and time tables of their own; only the history's tokens pass a
    LayerNorm. ``output_size`` is the number of skills, or the embedding size for continuous skills. With
    ``skill_count`` positive the policy embeds skill indices instead of skill vectors.
    """

    def __init__(
        self,
        observation_dim: int,
        embedding_size: int,
        output_size: int,
        *,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        max_decisions: int,
        skill_count: int = 0,
    ) -> None:
        super().__init__()
        self.embeds_indices = skill_count > 0
        self.max_decisions = max_decisions
        self.embedding = DecisionEmbedding(observation_dim, embedding_size, skill_count, width, max_decisions)
        self.prompt_embedding = DecisionEmbedding(
            observation_dim, embedding_size, skill_count, width, max_decisions
        )
        self.embedding_norm = nn.LayerNorm(width)
        self.transformer = CausalTransformer(width, layers, heads, dropout)
        self.skill_head = nn.Linear(width, output_size)

    def forward(self, history: Decisions, prompt: Decisions | None = None) -> Tensor:
        """Scores of every history row's skill, each from what precedes it: [B, K, output_size].

        Rows that are padding get finite, meaningless scores.
        """
        K = history.timesteps.shape[1]
        tokens = self.embedding_norm(self.embedding(history))
        if prompt is not None:
            tokens = torch.cat([self.prompt_embedding(prompt), tokens], dim=1)
        mask = _joint_mask(history, prompt)
        rows = tokens.flatten(2)  # [B, P + K, 3 * width]: the tokens of a decision move together
        if mask is not None:
            order, position = padding_last(mask)
            rows = take_rows(rows, order)
        hidden = self.transformer(rows.view(rows.shape[0], -1, self.transformer.width)[:, :-1], AT_STATES)
        hidden = take_rows(hidden, position[:, -K:]) if mask is not None else hidden[:, -K:]
        scores: Tensor = self.skill_head(hidden)
        return scores

    def read_prompt(self, prompt: Decisions, capacity: int) -> KeyValueCache:
        """Keys and values of a prompt, in a cache with room for ``capacity`` decisions in all."""
        tokens = self.prompt_embedding(prompt).flatten(1, 2)
        cache = self.new_cache(tokens.shape[0], capacity)
        if prompt.mask is not None:
            cache.visible = F.pad(
                prompt.mask.repeat_interleave(TOKENS_PER_DECISION, dim=1),
                (0, TOKENS_PER_DECISION * capacity - tokens.shape[1]),
                value=True,
            )
        self.transformer.extend(tokens, cache, LAST_POSITION)
        return cache

    def new_cache(self, batch: int, capacity: int) -> KeyValueCache:
        """An empty cache for ``batch`` sequences of up to ``capacity`` decisions."""
        return self.transformer.new_cache(batch, TOKENS_PER_DECISION * capacity)

    def extend(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Scores at the last of ``tokens`` [B, n, width], which follow the cached ones: [B, output_size]."""
        hidden = self.transformer.extend(self.embedding_norm(tokens), cache, LAST_POSITION)
        scores: Tensor = self.skill_head(hidden[:, -1])
        return scores


def _joint_mask(history: Decisions, prompt: Decisions | None) -> Tensor | None:
    parts = [history] if prompt is None else [prompt, history]
    if all(part.mask is None for part in parts):
        return None
    masks = [
        torch.ones_like(part.timesteps, dtype=torch.bool) if part.mask is None else part.mask
        for part in parts
    ]
    return torch.cat(masks, dim=1)
