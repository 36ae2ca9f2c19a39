"""GO-Skill's networks put together: from windows of a store to skills, and back to actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.errors import CheckpointError, InputError
from goskill.methods.feedforward import place_of
from goskill.methods.go_skill.settings import GoSkillSettings
from goskill.methods.sequence.checking import loaded, naming_the_missing, normalize_in
from goskill.models import (
    GoalEncoder,
    Normalize,
    SkillDecoder,
    SkillPolicyTransformer,
    StepDecoder,
    scale_tables,
)
from goskill.nn import VectorQuantize
from goskill.ops import nearest_code

GoalFeatures = Callable[[Tensor], Tensor]
"""A user's representation of the goal: raw observations [..., observation_dim] -> float32 [..., G]."""


@dataclass(frozen=True)
class Window:
    """What the skill model makes of windows of H steps.

    ``embedding`` [B, E] is what the encoder says the window achieves; ``reached`` [B, H, E] what it had
    achieved at each step (None without a use for it); ``observations`` [B, H, observation_dim], normalised.
    """

    embedding: Tensor
    reached: Tensor | None
    observations: Tensor


class GoSkillNetworks(nn.Module):
    """Normalisation, goal encoder, codebook, skill decoder and skill policy, as the settings say.

    All observations go in raw, in the store's units. ``goal_features`` replaces the observations (or
    ``settings.goal_dimensions`` of them) as that whose change is the goal; it is never trained. Raises
    InputError for goal dimensions that the observations do not have, and for settings that tell tasks apart and
    name none.
    """

    codebook: VectorQuantize | None

    def __init__(
        self,
        settings: GoSkillSettings,
        normalize: Normalize,
        action_dim: int,
        goal_features: GoalFeatures | None = None,
    ) -> None:
        super().__init__()
        if settings.tell_task and not settings.told_tasks:
            raise InputError("told_tasks: expected at least one with tell_task, got none")
        self.settings = settings
        self.observation_dim = normalize.mean.numel()
        self.action_dim = action_dim
        self.normalize = normalize
        self._check_goal(goal_features)
        self.goal_features = goal_features
        if isinstance(goal_features, nn.Module):
            goal_features.requires_grad_(False)
        self._goal_index: Tensor | None
        index = None if settings.goal_dimensions is None else torch.tensor(settings.goal_dimensions)
        self.register_buffer("_goal_index", index, persistent=False)
        self.encoder = GoalEncoder(
            self._encoder_input_size(),
            settings.embedding_size,
            settings.encoder_width,
            settings.encoder_layers,
        )
        self.codebook = _codebook(settings)
        self.decoder = _decoder(settings, self.observation_dim + len(settings.told_tasks), action_dim)
        self.policy = SkillPolicyTransformer(
            self.observation_dim,
            settings.embedding_size,
            settings.codebook_size if settings.discrete else settings.embedding_size,
            width=settings.policy_width,
            layers=settings.policy_layers,
            heads=settings.policy_heads,
            dropout=settings.dropout,
            max_decisions=settings.max_decisions,
            skill_count=settings.codebook_size if settings.policy_skill_input == "index" else 0,
        )
        scale_tables([self.decoder.embed_step, *self.policy.time_tables], settings.table_std)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Every network by name: what a checkpoint holds."""
        parts: dict[str, nn.Module] = {"normalize": self.normalize, "encoder": self.encoder}
        if self.codebook is not None:
            parts["codebook"] = self.codebook
        if isinstance(self.goal_features, nn.Module):
            parts["goal_features"] = self.goal_features
        return {**parts, "decoder": self.decoder, "policy": self.policy}

    @property
    def abstraction(self) -> list[nn.Module]:
        """What decides which skill a window shows: encoder and codebook."""
        return [self.encoder] if self.codebook is None else [self.encoder, self.codebook]

    def goals(self, observations: Tensor) -> Tensor:
        """That whose change is the goal: raw observations [..., observation_dim] -> [..., G]."""
        return self._goals(observations, None)

    def _goals(self, observations: Tensor, normalized: Tensor | None) -> Tensor:
        """``goals`` of observations that may be normalised already."""
        if self.goal_features is not None:
            with torch.no_grad():
                return self.goal_features(observations)
        if normalized is None:
            normalized = self.normalize(observations)
        return normalized if self._goal_index is None else normalized.index_select(-1, self._goal_index)

    def read_window(self, observations: Tensor, actions: Tensor) -> Window:
        """Windows as the skill model sees them.

        observations [B, H + 1, observation_dim], raw, the goal state last; actions [B, H, action_dim].
        """
        all_normalized = self.normalize(observations)
        normalized = all_normalized[:, :-1]
        if self.settings.skill_source == "actions":
            return Window(self.encoder(actions.flatten(1)), None, normalized)
        goals = self._goals(observations, all_normalized)
        if not self.settings.reached_goal:
            return Window(self.encoder(goals[:, -1] - goals[:, 0]), None, normalized)
        # Reached goals and the skill's own in one pass through the encoder.
        embeddings = self.encoder(goals - goals[:, :1])
        # Split rather than sliced: one gradient is joined, instead of two that are padded and added.
        reached, last = embeddings.split([embeddings.shape[1] - 1, 1], 1)
        return Window(last.squeeze(1), reached, normalized)

    def quantize(self, embedding: Tensor, frozen: bool) -> tuple[Tensor, Tensor | None, Tensor]:
        """Embeddings [B, E] -> skill vectors [B, E], skill indices int64 [B], VQ loss (Eq. 3).

        ``frozen`` keeps the codebook as it is. Without a codebook embeddings are the skills, there is no
        index, and the loss is zero.
        """
        if self.codebook is None:
            return embedding, None, embedding.new_zeros(())
        skill, index, loss = self.codebook(embedding, freeze_codebook=frozen)
        if self.settings.codebook == "gradient" and not frozen:
            code, embedding = F.embedding(index, self.codebook.codebook), embedding.float()
            loss = F.mse_loss(code, embedding.detach())
            loss = loss + self.settings.commitment_weight * F.mse_loss(embedding, code.detach())
        return skill, index, loss

    def assign(self, embedding: Tensor) -> Tensor:
        """The skill of each embedding [..., E]: nearest code int64 [...]; itself without a codebook."""
        return embedding if self.codebook is None else nearest_code(embedding, self.codebook.codebook)

    def vectors(self, skills: Tensor) -> Tensor:
        """Vectors [..., E] of skills as ``assign`` gives them."""
        if self.codebook is None:
            return skills
        return F.embedding(skills, self.codebook.codebook)

    def policy_input(self, skills: Tensor) -> Tensor:
        """What the policy embeds of skills as ``assign`` gives them: vectors, or indices for its table."""
        return skills if self.policy.embeds_indices else self.vectors(skills)

    def told(self, tasks: Sequence[str]) -> Tensor:
        """What the decoder is told of each task: one-hot float32 [len(tasks), told tasks], or nothing [len(tasks), 0].

        Raises InputError for a task that is none of those told apart.
        """
        like, known = self.normalize.mean, self.settings.told_tasks
        if not known:
            return like.new_zeros(len(tasks), 0)
        return torch.eye(len(known), device=like.device)[[place_of(task, known) for task in tasks]]

    def decoder_states(self, normalized: Tensor, told: Tensor) -> Tensor:
        """Normalised states [..., L, observation_dim] as the decoder reads them, behind each ``told`` [..., tasks]."""
        if not told.shape[-1]:
            return normalized
        return torch.cat([normalized, told[..., None, :].expand(*normalized.shape[:-1], -1)], dim=-1)

    def with_tasks(self, tasks: Sequence[str]) -> GoSkillNetworks:
        """Networks whose decoder is told these tasks as well; until it is trained, a new task changes nothing."""
        added = [task for task in dict.fromkeys(tasks) if task not in self.settings.told_tasks]
        if not self.settings.tell_task or not added:
            return self
        settings = replace(self.settings, told_tasks=(*self.settings.told_tasks, *added))
        normalize = Normalize(self.normalize.mean.cpu(), self.normalize.std.cpu())
        networks = GoSkillNetworks(settings, normalize, self.action_dim, self.goal_features)
        state = {name: part.state_dict() for name, part in self.parts.items()}
        columns = state["decoder"]["embed_state.weight"]
        state["decoder"]["embed_state.weight"] = F.pad(columns, (0, len(added)))
        return loaded(networks, state)

    def _encoder_input_size(self) -> int:
        if self.settings.skill_source == "actions":
            return self.settings.horizon * self.action_dim
        return int(self.goals(torch.zeros(1, self.observation_dim)).shape[-1])

    def _check_goal(self, goal_features: GoalFeatures | None) -> None:
        dimensions = self.settings.goal_dimensions
        if dimensions is not None and max(dimensions) >= self.observation_dim:
            raise InputError(
                f"goal_dimensions: expected dimensions below {self.observation_dim}, got {max(dimensions)}"
            )
        if goal_features is not None and (dimensions is not None or self.settings.skill_source == "actions"):
            raise InputError("goal_features: expected None with goal_dimensions or skill_source = 'actions'")


def networks_from_state(
    settings: GoSkillSettings,
    state: Mapping[str, Mapping[str, Tensor]],
    goal_features: GoalFeatures | None = None,
) -> GoSkillNetworks:
    """The networks of a checkpoint: ``state`` maps the names of ``GoSkillNetworks.parts`` to state dicts.

    Sizes of observations and actions come from the tensors. Raises CheckpointError that names the network
    that is missing or unexpected, or the network's key that is missing, unexpected or misshapen.
    """
    with naming_the_missing():
        normalize = normalize_in(state)
        outputs = len(state["decoder"]["action_head.bias"])
    action_dim = outputs // (settings.codebook_size if settings.multi_head_decoder else 1)
    networks = GoSkillNetworks(settings, normalize, action_dim, goal_features)
    if "goal_features" in state and "goal_features" not in networks.parts:
        raise CheckpointError(
            "checkpoint: network 'goal_features' is there: the run was trained with a goal hook, "
            "which must be passed as goal_features="
        )
    return loaded(networks, state)


def _decoder(settings: GoSkillSettings, observation_dim: int, action_dim: int) -> SkillDecoder | StepDecoder:
    sizes = (observation_dim, action_dim, settings.embedding_size, settings.horizon)
    shared: dict[str, Any] = {
        "width": settings.decoder_width,
        "layers": settings.decoder_layers,
        "reached_goal": settings.reached_goal,
        "heads_per_skill": settings.codebook_size if settings.multi_head_decoder else 0,
    }
    if settings.decoder == "mlp":
        return StepDecoder(*sizes, **shared)
    return SkillDecoder(*sizes, heads=settings.decoder_heads, dropout=settings.dropout, **shared)


def _codebook(settings: GoSkillSettings) -> VectorQuantize | None:
    if not settings.discrete:
        return None
    return VectorQuantize(
        settings.embedding_size,
        settings.codebook_size,
        decay=settings.codebook_decay,
        kmeans_init=True,
        kmeans_iters=settings.kmeans_iterations,
        threshold_ema_dead_code=settings.dead_code_threshold,
        commitment_weight=settings.commitment_weight,
        learnable_codebook=settings.codebook == "gradient",
    )
