"""What is meta-trained: a task encoder, a policy and twin critics, both given the task's embedding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from goskill.errors import InputError
from goskill.methods.sequence.checking import loaded, naming_the_missing
from goskill.methods.simpl.decisions import DecisionDistribution, SingleActions, decisions
from goskill.methods.simpl.settings import EmbeddingSettings, MetaSettings, TaskSettings
from goskill.methods.skill_rl import SkillModel, model_from_state
from goskill.models import DiagonalNormal, EnsembleMLP, SetTransformer
from goskill.models.temperature import Temperature
from goskill.training.targets import TargetNetwork

SMALL, LARGE = 0, 1  # temperatures by the size of contexts


class MetaAgent(nn.Module):
    """One agent for all tasks that decides on skills or actions: batches are [tasks, B, ...], observations raw."""

    def __init__(self, settings: MetaSettings, skills: SkillModel | SingleActions) -> None:
        super().__init__()
        self.settings, self.skills = settings, skills
        seen = skills.observation_dim + settings.embedding_dim
        hidden = [settings.width] * settings.layers
        self.encoder = SetTransformer(
            2 * skills.observation_dim + skills.skill_size + 2,
            2 * settings.embedding_dim,
            settings.encoder_width,
            settings.encoder_heads,
            settings.encoder_points,
        )
        # One member, so that agents of target tasks, which begin with these weights, have them in the same shape.
        self.policy_network = EnsembleMLP(1, [seen, *hidden, 2 * skills.skill_size])
        begin_without_residual(self.policy_network)
        self.critic = EnsembleMLP(2, [seen + skills.skill_size, *hidden, 1])
        self.temperature = Temperature(2, settings.initial_temperature)
        # Of embeddings' divergence from N(0, 1), where it is learned.
        learned = any(aim is not None for aim in settings.embedding_aims)
        self.embedding_weights = Temperature(2, settings.embedding_weight) if learned else None
        self.target = TargetNetwork(self.critic, settings.target_rate)
        self.target_critic = self.target.module

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Every network by name, those of the skills included: what a checkpoint holds."""
        weights = self.embedding_weights
        return {
            **({} if weights is None else {"embedding_weights": weights}),
            **self.skills.parts,
            "task_encoder": self.encoder,
            "policy": self.policy_network,
            "critic": self.critic,
            "target_critic": self.target_critic,
            "temperature": self.temperature,
        }

    def temperatures(self) -> Tensor:
        """Weights of what decisions cost: [2], for small and large contexts."""
        learned: Tensor = self.temperature.value
        if self.settings.fixed_temperature is None:
            return learned
        return torch.stack([torch.full_like(learned[0], self.settings.fixed_temperature), learned[1]])

    def encode(self, context: Mapping[str, Tensor]) -> DiagonalNormal:
        """q(e | context) of decisions [tasks, n, ...] as a replay buffer has them: [tasks, embedding_dim].

        Raises InputError for contexts without decisions.
        """
        if not context["rewards"].shape[-1]:
            raise InputError("context: expected at least one decision to encode a task from, got none")
        elements = [
            self.skills.normalize(context["observations"]),
            context["actions"],
            context["rewards"][..., None] * self.settings.reward_scale,
            context["terminated"][..., None].float(),
            self.skills.normalize(context["next_observations"]),
        ]
        return DiagonalNormal.from_output(self.encoder(torch.cat(elements, -1)))

    def policy(self, observations: Tensor, embedding: Tensor) -> DecisionDistribution:
        """pi(z | s, e): observations [..., observation_dim], embeddings [..., embedding_dim]."""
        seen = torch.cat([self.skills.normalize(observations), embedding], -1)
        output = self.policy_network(seen.flatten(0, -2))[0].view(*seen.shape[:-1], -1)
        return decisions(self.skills, observations, output, self.settings)

    def values(
        self,
        observations: Tensor,
        embedding: Tensor,
        skill: Tensor,
        weights: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """What both critics expect, [2, tasks, B], for inputs [tasks, B, ...].

        ``weights`` stand for the critic's own, by their names.
        """
        seen = torch.cat([self.skills.normalize(observations), embedding, skill], -1)
        flat = seen.flatten(0, -2)
        if weights is None:
            values = self.critic(flat)
        else:
            values = torch.func.functional_call(self.critic, dict(weights), (flat,))
        result: Tensor = values[..., 0].float().view(2, *seen.shape[:-1])
        return result


@torch.no_grad()
def begin_without_residual(network: EnsembleMLP) -> None:
    """Zero the last layer, so that a policy over skills begins as the prior."""
    for parameter in network.layers[-1].parameters():
        parameter.zero_()


def agent_from_state(settings: MetaSettings, state: Mapping[str, Mapping[str, Tensor]]) -> MetaAgent:
    """The agent of a checkpoint: ``state`` maps the names of ``MetaAgent.parts`` to state dicts.

    Raises CheckpointError that names the network that is missing or unexpected, or the key that does not fit.
    """
    return loaded(MetaAgent(settings, skills_from_state(settings, state, "policy")), state)


def skills_from_state(
    settings: EmbeddingSettings, state: Mapping[str, Mapping[str, Tensor]], policy: str
) -> SkillModel | SingleActions:
    """What an agent of a checkpoint decides on, by its settings and the network ``policy``.

    Raises CheckpointError that names the network or key that is missing.
    """
    if isinstance(settings, TaskSettings):
        return model_from_state(settings, state)
    with naming_the_missing():
        first = state[policy]["layers.0.weight"]
        last = state[policy][f"layers.{settings.layers}.weight"]
    return SingleActions(first.shape[1] - settings.embedding_dim, last.shape[2] // 2)
