"""State dicts of the authors' released code (github.com/DarkDawn233/GoSkill), read without running anything in them."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from goskill.errors import CheckpointError
from goskill.files import read_bytes
from goskill.methods.sequence.checking import load_part

# GPT-2's buffers, and a token table that the release never uses.
UNUSED = re.compile(r"(wte\.weight|h\.\d+\.attn\.(bias|masked_bias))")

_GLOBAL = re.compile(r"GLOBAL (\S{1,80})")  # what torch says that it did not run
_NUMBERS = frozenset(
    (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
)

BLOCK = {
    "ln_1": "attention_norm",
    "attn.c_attn": "query_key_value",
    "attn.c_proj": "attention_output",
    "ln_2": "feedforward_norm",
    "mlp.c_fc": "feedforward_input",
    "mlp.c_proj": "feedforward_output",
}


def read_released(path: str | Path) -> Any:
    """What torch.save wrote into a released file, on the CPU. Raises CheckpointError for one that cannot be read."""
    try:
        return torch.load(io.BytesIO(read_bytes(path)), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = _GLOBAL.search(str(error))
        what = f"it asks for {asked[1]}" if asked else "its pickle is damaged, or asks for something else"
        raise CheckpointError(
            f"released file {path} cannot be read: expected tensors alone, {what}"
        ) from None
    # A damaged or hostile pickle can raise nearly anything.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"released file {path} cannot be read: {reason}") from None


def is_state(value: Any) -> bool:
    """Whether a value that was read is a state dict: real numbers that are there, by names."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(part, Tensor) and _is_plain(part) for name, part in value.items()
    )


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.device.type == "cpu" and tensor.dtype in _NUMBERS


class ReleasedState:
    """A released state dict that knows which of its tensors have been taken."""

    def __init__(self, path: str | Path, state: Any = None) -> None:
        """The state dict that the file is, or ``state``, a part of it."""
        self.path = Path(path)
        loaded = read_released(self.path) if state is None else state
        if not is_state(loaded):
            raise CheckpointError(
                f"released file {self.path}: expected a state dict of numbers by names, "
                f"got {type(loaded).__name__}"
            )
        self._tensors: dict[str, Tensor] = dict(loaded)
        self._taken: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of them, by key."""
        return dict(self._tensors)

    def take(self, key: str) -> Tensor:
        if key not in self._tensors:
            raise CheckpointError(f"released file {self.path}: key {key} is missing")
        if not self._tensors[key].isfinite().all():
            raise CheckpointError(f"released file {self.path}: key {key}: expected finite values")
        self._taken.add(key)
        return self._tensors[key]

    def require_returns(self) -> None:
        """Raise CheckpointError for a policy that is not conditioned on returns."""
        if "embed_return.weight" not in self:
            raise CheckpointError(
                f"released file {self.path}: key embed_return.weight is missing "
                "(policies without return-to-go are not supported)"
            )

    def ignore(self, pattern: str) -> None:
        """Take all whose whole keys match, and do nothing with them."""
        self._taken |= {key for key in self._tensors if re.fullmatch(pattern, key)}

    def shape(self, key: str, dimensions: int) -> tuple[int, ...]:
        shape = tuple(self.take(key).shape)
        if len(shape) != dimensions or 0 in shape:
            raise CheckpointError(
                f"released file {self.path}: key {key}: expected {dimensions} dimensions, got shape {shape}"
            )
        return shape

    def count(self, pattern: str) -> int:
        """How many different first groups the keys that match have."""
        matches = (re.match(pattern, key) for key in self._tensors)
        return len({match[1] for match in matches if match})

    def pair(self, released: str, ours: str, transposed: bool = False) -> dict[str, Tensor]:
        """Weight and bias of a layer under our name."""
        weight = self.take(f"{released}.weight")
        return {
            f"{ours}.weight": weight.mT if transposed and weight.ndim == 2 else weight,
            f"{ours}.bias": self.take(f"{released}.bias"),
        }

    def action_head(self, heads: int) -> dict[str, Tensor]:
        """The layer that predicts actions; that of ``heads`` > 0 heads is theirs, one below the other."""
        if not heads:
            return self.pair("predict_action.0", "action_head")
        parts = [self.pair(f"predict_action.{index}.0", "action_head") for index in range(heads)]
        for index, part in enumerate(parts):
            for name, value in part.items():
                if value.shape != parts[0][name].shape or not value.ndim:
                    raise CheckpointError(
                        f"released file {self.path}: key predict_action.{index}.0.{name.split('.')[1]}: expected "
                        f"the shape of the first head's, {tuple(parts[0][name].shape)}, got {tuple(value.shape)}"
                    )
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def transformer(self, prefix: str) -> dict[str, Tensor]:
        state = self.pair(f"{prefix}.ln_f", "transformer.final_norm")
        for layer in range(self.count(rf"{re.escape(prefix)}\.h\.(\d+)\.")):
            for released, ours in BLOCK.items():
                # The release's Conv1D keeps [in, out]; LayerNorm weights have one dimension.
                name = f"transformer.blocks.{layer}.{ours}"
                state |= self.pair(f"{prefix}.h.{layer}.{released}", name, transposed=True)
        self._taken |= {
            key
            for key in self._tensors
            if key.startswith(f"{prefix}.") and UNUSED.fullmatch(key[len(prefix) + 1 :])
        }
        return state

    def load(self, part: nn.Module, name: str, state: Mapping[str, Tensor]) -> None:
        try:
            load_part(part, state, name)
        except CheckpointError as error:
            raise CheckpointError(f"released file {self.path} does not fit: {error}") from None

    def refuse_rest(self) -> None:
        rest = sorted(self._tensors.keys() - self._taken)
        if rest:
            raise CheckpointError(f"released file {self.path}: key {rest[0]} is unknown")
