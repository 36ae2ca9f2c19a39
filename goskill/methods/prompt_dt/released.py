"""Prompt-DT checkpoints of the authors' released code (github.com/DarkDawn233/GoSkill)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from goskill.errors import CheckpointError, InputError
from goskill.methods.prompt_dt.networks import PromptDTNetworks
from goskill.methods.prompt_dt.settings import PromptDTSettings
from goskill.methods.sequence.released import ReleasedState
from goskill.models import Normalize

DECISION = {"return": "return_to_go", "state": "state", "action": "action"}


def load_released(
    model: str | Path,
    *,
    tasks: Sequence[str] = (),
    normalize: Normalize | None = None,
    heads: int = 8,
    context: int = 20,
    prompt_length: int = 10,
) -> PromptDTNetworks:
    """Networks with the weights of a released file, which is read without running what it may contain.

    Args:
        model: state dict of the release's Prompt-DT, multi-head or not.
        tasks: names of the tasks in the order of their heads, needed for a multi-head model.
        normalize: mean and std of the training data, which the file does not hold; None leaves
            observations as they are.
        heads: attention heads, which the file does not tell.
        context, prompt_length: in environment steps, which the file does not tell. The release keeps the
            embeddings of a prompt also in models that were trained without one, for which it is 0.

    Raises:
        CheckpointError: a file that cannot be read, or a key that is missing, unknown or misshapen.
        InputError: not as many tasks as heads.
    """
    state = ReleasedState(model)
    networks = networks_of(state, tasks, normalize, heads, context, prompt_length)
    state.refuse_rest()
    return networks


def networks_of(
    state: ReleasedState,
    tasks: Sequence[str],
    normalize: Normalize | None,
    heads: int,
    context: int,
    prompt_length: int,
) -> PromptDTNetworks:
    """As :func:`load_released`, from a state dict of which something may be left."""
    settings = _settings(state, tasks, heads, context, prompt_length)
    observation_dim = state.shape("embed_state.weight", 2)[1]
    action_dim = state.shape("embed_action.weight", 2)[1]
    identity = Normalize(torch.zeros(observation_dim), torch.ones(observation_dim))
    networks = PromptDTNetworks(settings, normalize or identity, action_dim)
    state.load(networks.policy, "policy", _policy(state, settings))
    return networks.eval()


def _settings(
    state: ReleasedState, tasks: Sequence[str], heads: int, context: int, prompt_length: int
) -> PromptDTSettings:
    if "embed_return.weight" not in state:
        raise CheckpointError(
            f"released file {state.path}: key embed_return.weight is missing "
            "(policies without returns to go are not supported)"
        )
    count = state.count(r"predict_action\.(\d+)\.0\.")
    if len(tasks) != count:
        raise InputError(
            f"tasks: expected {count} names, one for each head in {state.path}, got {len(tasks)}"
        )
    return PromptDTSettings(
        width=state.shape("embed_state.weight", 2)[0],
        layers=state.count(r"transformer\.h\.(\d+)\."),
        heads=heads,
        multi_head=count > 0,
        tasks=tuple(tasks),
        context=context,
        prompt_length=prompt_length,
        max_decisions=state.shape("embed_timestep.weight", 2)[0],
    )


def _policy(released: ReleasedState, settings: PromptDTSettings) -> dict[str, Tensor]:
    state = released.transformer("transformer") | released.pair("embed_ln", "embedding_norm")
    for prefix, embedding in (("", "embedding"), ("prompt_", "prompt_embedding")):
        part = {f"{embedding}.time.weight": released.take(f"{prefix}embed_timestep.weight")}
        for theirs, ours in DECISION.items():
            part |= released.pair(f"{prefix}embed_{theirs}", f"{embedding}.{ours}")
        if embedding == "embedding" or settings.prompt_length:
            state |= part
    if not settings.multi_head:
        return state | released.pair("predict_action.0", "action_head")
    return state | released.heads(len(settings.tasks))
