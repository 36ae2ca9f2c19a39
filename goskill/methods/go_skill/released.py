"""Checkpoints of the authors' released code (github.com/DarkDawn233/GoSkill) as GO-Skill's networks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from goskill.errors import CheckpointError
from goskill.methods.go_skill.networks import GoSkillNetworks
from goskill.methods.go_skill.settings import GoSkillSettings
from goskill.methods.sequence.released import ReleasedState
from goskill.models import Normalize

DECODER = {
    "action_embed_skill_vq": "embed_skill",
    "action_embed_state": "embed_state",
    "action_embed_action": "embed_action",
    "action_encoder_embed_ln": "embedding_norm",
}
DECISION = {"return": "return_to_go", "state": "state", "skill": "skill", "timestep": "time"}


def load_released(
    skill_model: str | Path,
    policy: str | Path,
    *,
    normalize: Normalize | None = None,
    heads: int = 8,
    horizon: int | None = None,
    context: int = 20,
    prompt_length: int = 10,
) -> GoSkillNetworks:
    """Networks with the weights of two released files, which are read without running what they may contain.

    Args:
        skill_model: state dict of the release's skill model, multi-head or not.
        policy: state dict of its skill policy, which embeds skill vectors or skill indices.
        normalize: mean and std of the training data, which the files do not hold; None leaves
            observations as they are.
        heads: attention heads of both transformers, which the files do not tell.
        horizon: H; None takes it from the skill model's step embedding.
        context, prompt_length: of the policy, in decision points, which the files do not tell.

    Raises:
        CheckpointError: a file that cannot be read, or a key that is missing, unknown or misshapen.
    """
    skill_state = ReleasedState(skill_model)
    policy_state = ReleasedState(policy)
    settings = _settings(skill_state, policy_state, heads, horizon, context, prompt_length)
    observation_dim = skill_state.shape("action_embed_state.weight", 2)[1]
    action_dim = skill_state.shape("action_embed_action.weight", 2)[1]
    identity = Normalize(torch.zeros(observation_dim), torch.ones(observation_dim))
    networks = GoSkillNetworks(settings, normalize or identity, action_dim)
    assert networks.codebook is not None
    skill_state.load(networks.encoder, "encoder", _encoder(skill_state))
    skill_state.load(networks.codebook, "codebook", _codebook(skill_state))
    skill_state.load(networks.decoder, "decoder", _decoder(skill_state, settings))
    policy_state.load(networks.policy, "policy", _policy(policy_state))
    skill_state.refuse_rest()
    policy_state.refuse_rest()
    return networks.eval()


def _settings(
    skill: ReleasedState,
    policy: ReleasedState,
    heads: int,
    horizon: int | None,
    context: int,
    prompt_length: int,
) -> GoSkillSettings:
    if "embed_return.weight" not in policy:
        raise CheckpointError(
            f"released file {policy.path}: key embed_return.weight is missing "
            "(policies without returns to go are not supported)"
        )
    _, codes, size = skill.shape("skill_vq_layer._codebook.embed", 3)
    if horizon is None:
        horizon = skill.shape("action_embed_timestep.weight", 2)[0]
    linear_layers = skill.count(r"skill_encoder\.(\d+)\.") - 1  # one of them is the LayerNorm
    return GoSkillSettings(
        horizon=horizon,
        codebook_size=codes,
        embedding_size=size,
        multi_head_decoder="predict_action.0.0.weight" in skill,
        encoder_width=skill.shape("skill_encoder.0.weight", 2)[0],
        encoder_layers=linear_layers - 1,
        decoder_width=skill.shape("action_embed_state.weight", 2)[0],
        decoder_layers=skill.count(r"action_encoder\.h\.(\d+)\."),
        decoder_heads=heads,
        policy_width=policy.shape("embed_state.weight", 2)[0],
        policy_layers=policy.count(r"transformer\.h\.(\d+)\."),
        policy_heads=heads,
        # A Linear layer has a bias, a table has none.
        policy_skill_input="vector" if "embed_skill.bias" in policy else "index",
        context=context,
        prompt_length=prompt_length,
        max_decisions=policy.shape("embed_timestep.weight", 2)[0],
    )


def _encoder(skill: ReleasedState) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    linear_and_norm = skill.count(r"skill_encoder\.(\d+)\.")
    for index in [0, 1, *range(2, 2 * (linear_and_norm - 1), 2)]:
        state |= skill.pair(f"skill_encoder.{index}", f"stack.{index}")
    return state


def _codebook(skill: ReleasedState) -> dict[str, Tensor]:
    names = ("cluster_size", "embed_avg", "embed")
    state = {f"_codebook.{name}": skill.take(f"skill_vq_layer._codebook.{name}") for name in names}
    initialized = skill.take("skill_vq_layer._codebook.initted")
    return {**state, "_codebook.initted": initialized.bool().all()}


def _decoder(skill: ReleasedState, settings: GoSkillSettings) -> dict[str, Tensor]:
    state = skill.transformer("action_encoder")
    for released, ours in DECODER.items():
        state |= skill.pair(released, ours)
    if "action_embed_timestep.weight" in skill:
        state["embed_step.weight"] = skill.take("action_embed_timestep.weight")
    else:  # the release's option without step embedding adds nothing
        state["embed_step.weight"] = torch.zeros(settings.horizon, settings.decoder_width)
    if not settings.multi_head_decoder:
        return state | skill.pair("predict_action.0", "action_head")
    return state | skill.heads(settings.codebook_size)


def _policy(policy: ReleasedState) -> dict[str, Tensor]:
    state = policy.transformer("transformer")
    state |= policy.pair("embed_ln", "embedding_norm") | policy.pair("predict_skill", "skill_head")
    for prefix, embedding in (("", "embedding"), ("prompt_", "prompt_embedding")):
        for released, ours in DECISION.items():
            for kind in ("weight", "bias"):
                key = f"{prefix}embed_{released}.{kind}"
                if kind == "weight" or key in policy:
                    state[f"{embedding}.{ours}.{kind}"] = policy.take(key)
    return state
