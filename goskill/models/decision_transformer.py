"""A decision transformer behind a prompt: what the skill policy and the action policy have in common."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.models.padding import look_up, padding_last, take_rows
from goskill.models.transformer import LAST_POSITION, CausalTransformer, KeyValueCache

TOKENS_PER_DECISION = 3  # return-to-go, state, choice
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


@torch.no_grad()
def scale_tables(tables: Iterable[nn.Embedding], std: float) -> None:
    """Make the rows of new tables smaller: torch's have a standard deviation of 1, many times a state token's."""
    for table in tables:
        table.weight.mul_(std)


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
        time = look_up(self.time.weight, decisions.timesteps)
        return torch.stack(parts, dim=2) + time[:, :, None]

    def return_and_state(self, returns_to_go: Tensor, observation: Tensor, timestep: Tensor) -> Tensor:
        """The first two tokens of one decision: [B, 1], [B, observation_dim], int64 [] -> [B, 2, width]."""
        parts = [self.return_to_go(returns_to_go), self.state(observation)]
        time: Tensor = self.time(timestep)
        return torch.stack(parts, dim=1) + time

    def choice_token(self, choices: Tensor, timestep: Tensor) -> Tensor:
        """The third token of one decision: choices of B sequences, int64 [] -> [B, width]."""
        time: Tensor = self.time(timestep)
        return self.choice(choices) + time


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

    @property
    def time_tables(self) -> list[nn.Embedding]:
        """The embeddings of times, of the history and of the prompt."""
        parts = (self.embedding, self.prompt_embedding)
        return [part.time for part in parts if part is not None]

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
    """What ``batch`` episodes that go on together have shown a policy: their prompt, their last ``context`` decisions.

    Keys and values are kept: the prompt's throughout, the history's until the context slides. Then its first
    decision leaves, which changes everything that has attended to it, and what is left of the history is read
    again behind the cached prompt.

    Everything that changes from one decision to the next lies in tensors that stay where they are, and what is
    done with them depends on ``phase`` alone: decisions of one phase can be captured in one CUDA graph.
    """

    def __init__(self, policy: DecisionTransformer, batch: int, prompt_length: int, context: int) -> None:
        self._policy = policy
        self._context = context
        self._capacity = prompt_length + context
        self._cache = policy.new_cache(batch, self._capacity)
        like = policy.embedding.time.weight
        # Embedded tokens of the decisions in the context, oldest first.
        self._history = like.new_zeros(batch, context, TOKENS_PER_DECISION, like.shape[1])
        shape = (batch, TOKENS_PER_DECISION * self._capacity)
        self._visible = torch.ones(shape, dtype=torch.bool, device=like.device)
        self._prompt_tokens = 0

    def begin(self, prompts: Decisions, rows: Tensor) -> None:
        """New episodes, of which episode b is shown ``prompts`` row ``rows[b]``, int64 [batch]."""
        read = self._policy.read_prompt(prompts, self._capacity)
        self._cache.load(read, rows)
        self._prompt_tokens = read.length
        self._cache.visible = None
        if read.visible is not None:
            torch.index_select(read.visible, 0, rows, out=self._visible)
            self._cache.visible = self._visible

    def phase(self, decisions: int) -> tuple[int, bool]:
        """On what the next decision's computation depends, beside the values in tensors, after so many."""
        return min(decisions, self._context), self._cache.visible is not None

    def read(self, now: Tensor, decisions: int) -> Tensor:
        """The hidden state [B, 1, width] of a decision's state token, from its first two tokens [B, 2, width].

        ``decisions`` of the episodes came before it.
        """
        before = min(decisions, self._context)
        self._cache.length = self._prompt_tokens
        if before == self._context:
            before -= 1
            self._history[:, :-1] = self._history[:, 1:].clone()
            unread = torch.cat([self._history[:, :before].flatten(1, 2), now], dim=1)
        elif before:
            # The last choice was made after its decision had been read.
            self._cache.length += TOKENS_PER_DECISION * before - 1
            unread = torch.cat([self._history[:, before - 1, -1:], now], dim=1)
        else:
            unread = now
        self._history[:, before, :-1] = now
        return self._policy.extend(unread, self._cache)

    def choose(self, token: Tensor, decisions: int) -> None:
        """Complete the decision that was read last by its third token [B, width]."""
        self._history[:, min(decisions, self._context - 1), -1] = token


def _joint_mask(history: Decisions, prompt: Decisions | None) -> Tensor | None:
    parts = [history] if prompt is None else [prompt, history]
    if all(part.mask is None for part in parts):
        return None
    masks = [
        torch.ones_like(part.timesteps, dtype=torch.bool) if part.mask is None else part.mask
        for part in parts
    ]
    return torch.cat(masks, dim=1)
