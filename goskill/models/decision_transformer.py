"""A decision transformer behind a prompt: what the skill policy and the action policy have in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.models.padding import padding_last, take_rows
from goskill.models.transformer import LAST_POSITION, CausalTransformer, KeyValueCache

TOKENS_PER_DECISION = 3  # return to go, state, choice
AT_STATES = slice(1, None, TOKENS_PER_DECISION)


@dataclass(frozen=True)
class Decisions:
    """Rows of consecutive decision points, of a prompt or of the history.

    ``returns_to_go`` [B, K, 1]; ``observations`` [B, K, observation_dim], normalised; ``choices``: what was
    chosen, as the policy embeds it: skill vectors [B, K, E], skill indices int64 [B, K], or actions
    [B, K, action_dim]; ``timesteps`` int64 [B, K], counted in decisions; ``mask`` bool [B, K], False where a row
    is padding, None where nothing is padded.
    """

    returns_to_go: Tensor
    observations: Tensor
    choices: Tensor
    timesteps: Tensor
    mask: Tensor | None = None


class DecisionEmbedding(nn.Module):
    """Three tokens per decision point, to each of which its time is added. Subclasses embed the choice."""

    def __init__(self, observation_dim: int, width: int, max_decisions: int) -> None:
        super().__init__()
        self.time = nn.Embedding(max_decisions, width)
        self.return_to_go = nn.Linear(1, width)
        self.state = nn.Linear(observation_dim, width)

    def choice(self, choices: Tensor) -> Tensor:
        """Choices [...] as ``Decisions`` holds them -> [..., width]."""
        raise NotImplementedError

    def forward(self, decisions: Decisions) -> Tensor:
        """-> [B, K, 3, width]."""
        parts = [
            self.return_to_go(decisions.returns_to_go),
            self.state(decisions.observations),
            self.choice(decisions.choices),
        ]
        time: Tensor = self.time(decisions.timesteps)
        return torch.stack(parts, dim=2) + time[:, :, None]

    def return_and_state(self, returns_to_go: Tensor, observation: Tensor, timestep: int) -> Tensor:
        """The first two tokens of one decision: [B, 1], [B, observation_dim] -> [B, 2, width]."""
        parts = [self.return_to_go(returns_to_go), self.state(observation)]
        return torch.stack(parts, dim=1) + self.time.weight[timestep]

    def choice_token(self, choices: Tensor, timestep: int) -> Tensor:
        """The third token of one decision: choices of B sequences -> [B, width]."""
        return self.choice(choices) + self.time.weight[timestep]


class DecisionTransformer(nn.Module):
    """Hidden states at the state tokens of a prompt and the history; what is read from them is a subclass's.

    Prompt and history have embeddings and time tables of their own; only the history's tokens pass a
    LayerNorm. Without ``prompt_embedding`` there is no prompt.
    """

    def __init__(
        self,
        embedding: DecisionEmbedding,
        prompt_embedding: DecisionEmbedding | None,
        *,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.max_decisions = embedding.time.num_embeddings
        self.embedding = embedding
        self.prompt_embedding = prompt_embedding
        self.embedding_norm = nn.LayerNorm(width)
        self.transformer = CausalTransformer(width, layers, heads, dropout)

    def hidden(self, history: Decisions, prompt: Decisions | None = None) -> Tensor:
        """Every history row's state token, which sees what precedes it: [B, K, width].

        Rows that are padding get finite, meaningless numbers.
        """
        K = history.timesteps.shape[1]
        tokens = self.embedding_norm(self.embedding(history))
        if prompt is not None:
            tokens = torch.cat([self._embed_prompt(prompt), tokens], dim=1)
        mask = _joint_mask(history, prompt)
        rows = tokens.flatten(2)  # [B, P + K, 3 * width]: the tokens of a decision move together
        if mask is not None:
            order, position = padding_last(mask)
            rows = take_rows(rows, order)
        hidden = self.transformer(rows.view(rows.shape[0], -1, self.transformer.width)[:, :-1], AT_STATES)
        return take_rows(hidden, position[:, -K:]) if mask is not None else hidden[:, -K:]

    def read_prompt(self, prompt: Decisions, capacity: int) -> KeyValueCache:
        """Keys and values of a prompt, in a cache with room for ``capacity`` decisions in all."""
        tokens = self._embed_prompt(prompt).flatten(1, 2)
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
        """The last of ``tokens`` [B, n, width], which follow the cached ones: [B, 1, width]."""
        return self.transformer.extend(self.embedding_norm(tokens), cache, LAST_POSITION)

    def _embed_prompt(self, prompt: Decisions) -> Tensor:
        assert self.prompt_embedding is not None, "this policy has no prompt"
        tokens: Tensor = self.prompt_embedding(prompt)
        return tokens


class DecisionContext:
    """What episodes that go on together have shown a policy: their prompt, and their last ``context`` decisions.

    Keys and values are kept: the prompt's throughout, the history's until the context slides. Then its first
    decision leaves, which changes everything that has attended to it, and what is left of the history is read
    again behind the cached prompt.

    ``cache`` holds the prompt (or nothing) and has room for ``context`` decisions more.
    """

    def __init__(self, cache: KeyValueCache, context: int) -> None:
        self._cache = cache
        self._prompt_tokens = cache.length
        self._context = context
        self._history: list[Tensor] = []  # embedded tokens [B, 3, width] of the decisions in the context

    def read(self, policy: DecisionTransformer, now: Tensor) -> Tensor:
        """The hidden state [B, 1, width] of a decision's state token, from its first two tokens [B, 2, width]."""
        if len(self._history) == self._context:
            self._history.pop(0)
            self._cache.truncate(self._prompt_tokens)
            unread = torch.cat([*self._history, now], dim=1)
        else:
            unread = torch.cat([*(tokens[:, -1:] for tokens in self._history[-1:]), now], dim=1)
        self._now = now
        return policy.extend(unread, self._cache)

    def choose(self, token: Tensor) -> None:
        """Complete the decision that was read last by its third token [B, width]."""
        self._history.append(torch.cat([self._now, token[:, None]], dim=1))


def _joint_mask(history: Decisions, prompt: Decisions | None) -> Tensor | None:
    parts = [history] if prompt is None else [prompt, history]
    if all(part.mask is None for part in parts):
        return None
    masks = [
        torch.ones_like(part.timesteps, dtype=torch.bool) if part.mask is None else part.mask
        for part in parts
    ]
    return torch.cat(masks, dim=1)
