"""The random states that training depends on, as plain JSON."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed PyTorch on every device and NumPy's global generator."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (global state is what third-party code draws from)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, PyTorch draws by a seed of its own on the CPU; afterwards it goes on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def random_state() -> dict[str, Any]:
    """The states of PyTorch's and NumPy's global generators."""
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    state = {
        "torch": _encode(torch.get_rng_state()),
        "numpy": {
            "keys": base64.b64encode(numpy_state["state"]["key"].astype("<u4").tobytes()).decode(),
            "position": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]).hex(),
        },
    }
    if torch.cuda.is_available():
        state["cuda"] = _encode(torch.cuda.get_rng_state())
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what ``random_state`` returned. A CUDA state is left aside where there is no CUDA."""
    torch.set_rng_state(_decode(state["torch"]))
    keys = np.frombuffer(base64.b64decode(state["numpy"]["keys"]), dtype="<u4").astype(np.uint32)
    np.random.set_state(  # noqa: NPY002
        {
            "bit_generator": "MT19937",
            "state": {"key": keys, "pos": state["numpy"]["position"]},
            "has_gauss": state["numpy"]["has_gauss"],
            "gauss": float.fromhex(state["numpy"]["gauss"]),
        }
    )
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(_decode(state["cuda"]))


def _encode(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _decode(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype=np.uint8).copy())
