"""HarmoDT checkpoints of the authors' released code (github.com/charleshsc/HarmoDT)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from goskill.errors import CheckpointError, InputError, closest
from goskill.methods.harmodt.networks import HarmoDTNetworks
from goskill.methods.harmodt.settings import HarmoDTSettings
from goskill.methods.prompt_dt.networks import PromptDTNetworks
from goskill.methods.prompt_dt.released import networks_of
from goskill.methods.prompt_dt.settings import PromptDTSettings
from goskill.methods.sequence.released import BLOCK, ReleasedState, is_state, read_released
from goskill.models import Normalize

# Of returns and states, and one from actions to tokens: nothing that acts needs them.
HEADS = r"(predict_return|predict_state|prompt_predict_action)\.(weight|bias)"
# The release has masks for these as well, and never applies them.
NOT_MASKED = re.compile(r".*(embed|predict).*|transformer\.wte\.weight")
_THEIRS = {ours: theirs for theirs, ours in BLOCK.items()}


def load_released(
    model: str | Path,
    *,
    normalize: Normalize | None = None,
    heads: int = 8,
    context: int = 20,
    prompt_length: int = 5,
) -> HarmoDTNetworks:
    """Networks of all tasks of a released file, which is read without running what it may contain.

    Args:
        model: what the release's trainer saves: ``model``, a state dict, and ``env_masks``, by task and parameter.
        normalize: mean and std of the training data, which the file does not hold; None leaves
            observations as they are.
        heads: attention heads, which the file does not tell.
        context, prompt_length: in environment steps, which the file does not tell.

    Raises CheckpointError for a file that cannot be read, for a key that is missing, unknown or misshapen (so are
    embeddings of each task's own, ``--special_embedding``), and for masks that hide biases or LayerNorms, which the
    release's updates may come to: of such a file, :func:`load_released_task` loads a task.
    """
    file = _File(model)
    for task, masks in file.masks.items():
        for name, mask in masks.items():
            if mask.ndim < 2 and not NOT_MASKED.fullmatch(name) and not mask.bool().all():
                raise CheckpointError(
                    f"released file {model}: env_masks: {task}: hides entries of {name}, and masks here are on "
                    "weights of linear layers alone; load_released_task loads it for one task"
                )
    plain = file.networks(file.state, normalize, heads, context, prompt_length)
    values = {field.name: getattr(plain.settings, field.name) for field in fields(PromptDTSettings)}
    settings = HarmoDTSettings(**values | {"tasks": tuple(file.masks)})
    networks = HarmoDTNetworks(settings, plain.normalize, plain.action_dim)
    networks.policy.load_state_dict(networks.policy.state_dict() | plain.policy.state_dict())
    networks.set_masks(torch.stack([_flat(networks, file, task) for task in file.masks]))
    return networks.eval()


def load_released_task(
    model: str | Path,
    task: str,
    *,
    normalize: Normalize | None = None,
    heads: int = 8,
    context: int = 20,
    prompt_length: int = 5,
) -> PromptDTNetworks:
    """Prompt-DT's networks with what a task's mask leaves of a released file. Arguments are :func:`load_released`'s.

    Raises InputError for a task without a mask, and CheckpointError as :func:`load_released` does.
    """
    file = _File(model)
    if task not in file.masks:
        raise InputError(
            f"task: expected one with a mask, got {task!r:.80}; {closest(task, list(file.masks))}"
        )
    own = file.masks[task]
    masked = {
        name: value * own[name].to(value.dtype) if name in own and not NOT_MASKED.fullmatch(name) else value
        for name, value in file.state.items()
    }
    return file.networks(masked, normalize, heads, context, prompt_length)


class _File:
    """A released file: its state dict, and masks by task and parameter that have the parameters' shapes."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        read = read_released(path)
        if not isinstance(read, Mapping) or not {"model", "env_masks"} <= read.keys():
            raise CheckpointError(f"released file {path}: expected model and env_masks")
        self.state: dict[str, Tensor] = ReleasedState(path, read["model"]).tensors
        masks = read["env_masks"]
        if (
            not isinstance(masks, Mapping)
            or not masks
            or not all(isinstance(task, str) and is_state(own) for task, own in masks.items())
        ):
            raise CheckpointError(f"released file {path}: env_masks: expected masks by task and parameter")
        self.masks: dict[str, Mapping[str, Tensor]] = dict(masks)
        for task, own in self.masks.items():
            for name, mask in own.items():
                if name not in self.state or mask.shape != self.state[name].shape:
                    raise CheckpointError(
                        f"released file {path}: env_masks: {task}: {name}: expected the shape of a parameter, "
                        f"got {tuple(mask.shape)}"
                    )
                if ((mask != 0) & (mask != 1)).any():
                    raise CheckpointError(
                        f"released file {path}: env_masks: {task}: {name}: expected the values 0 and 1"
                    )

    def networks(
        self,
        tensors: Mapping[str, Tensor],
        normalize: Normalize | None,
        heads: int,
        context: int,
        prompt_length: int,
    ) -> PromptDTNetworks:
        """Prompt-DT's networks of these weights."""
        state = ReleasedState(self.path, tensors)
        networks = networks_of(state, (), normalize, heads, context, prompt_length)
        state.ignore(HEADS)
        state.refuse_rest()
        return networks


def _flat(networks: HarmoDTNetworks, file: _File, task: str) -> Tensor:
    """A task's mask over all masked weights: bool [weights]."""
    own, parts = file.masks[task], []
    for index, _ in enumerate(networks.policy.transformer.blocks):
        for ours in ("query_key_value", "attention_output", "feedforward_input", "feedforward_output"):
            name = f"transformer.h.{index}.{_THEIRS[ours]}.weight"
            if name not in own:
                raise CheckpointError(f"released file {file.path}: env_masks: {task}: {name} is missing")
            parts.append(own[name].mT.bool().flatten())  # the release's Conv1D keeps [in, out]
    return torch.cat(parts)
