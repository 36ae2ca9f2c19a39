"""The skill policy: the high-level policy that chooses a skill at each decision point."""

from __future__ import annotations

from torch import Tensor, nn

from goskill.models.decision_transformer import DecisionEmbedding, Decisions, DecisionTransformer


class SkillEmbedding(DecisionEmbedding):
    """``skill_size`` is the length of the skill vectors; with ``skill_count`` positive, skills are indices and
    have a table of their own.
    """

    def __init__(
        self, observation_dim: int, skill_size: int, skill_count: int, width: int, max_decisions: int
    ) -> None:
        super().__init__(observation_dim, width, max_decisions)
        self.skill: nn.Module = (
            nn.Embedding(skill_count, width) if skill_count else nn.Linear(skill_size, width)
        )

    def choice(self, choices: Tensor) -> Tensor:
        token: Tensor = self.skill(choices)
        return token


class SkillPolicyTransformer(DecisionTransformer):
    """Scores of the next skill from a prompt and the history, read at the state tokens.

    ``output_size`` is the number of skills, or the embedding size for continuous skills. With ``skill_count``
    positive the policy embeds skill indices instead of skill vectors.
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
        super().__init__(
            SkillEmbedding(observation_dim, embedding_size, skill_count, width, max_decisions),
            SkillEmbedding(observation_dim, embedding_size, skill_count, width, max_decisions),
            width=width,
            layers=layers,
            heads=heads,
            dropout=dropout,
        )
        self.embeds_indices = skill_count > 0
        self.skill_head = nn.Linear(width, output_size)

    def forward(self, history: Decisions, prompt: Decisions | None = None) -> Tensor:
        """Scores of every history row's skill, each from what precedes it: [B, K, output_size].

        Rows that are padding get finite, meaningless scores.
        """
        return self.scores(self.hidden(history, prompt))

    def scores(self, hidden: Tensor) -> Tensor:
        """Hidden states at state tokens [..., width] -> scores of the next skill [..., output_size]."""
        scores: Tensor = self.skill_head(hidden)
        return scores
