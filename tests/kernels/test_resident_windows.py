"""Windows gathered by one kernel are those of the native samplers, bit for bit: in the interpreter and on a device."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch

from goskill.data import ContextSampler, EpisodeStore, SegmentSampler, StoreWriter
from goskill.data.resident import ResidentColumns

pytest.importorskip("triton")

# Episodes shorter than a window, and just as long.
LENGTHS = (3, 4, 9, 40, 25)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "store"
    with StoreWriter(path, observation_dim=5, action_dim=3, tasks=["one"]) as writer:
        for steps in LENGTHS:
            writer.append(
                task="one",
                observations=random.normal(size=(steps + 1, 5)),
                actions=random.uniform(-1, 1, (steps, 3)),
                rewards=random.uniform(0, 10, steps),
            )
    store = EpisodeStore.open(path)
    store.write_labels(
        "few", (np.arange(store.num_steps) % 7).tolist(), 200
    )  # beyond what a signed byte holds
    return store


SAMPLERS: dict[str, Any] = {
    "segments": lambda store, **options: SegmentSampler(store, 4, 6, **options),
    "contexts": lambda store, **options: ContextSampler(
        store, 4, 5, 3, 6, actions=True, return_scale=3.0, **options
    ),
    "without prompt": lambda store, **options: ContextSampler(store, 4, 5, 0, 6, **options),
}


def compare(name: str, store: EpisodeStore, labels: str | None, device: str) -> None:
    make, filled = SAMPLERS[name], iter(SAMPLERS[name](store, labels=labels))
    resident = make(store, labels=labels, device=device, resident=True)
    for step in range(12):
        expected = next(filled)
        batch = resident.gather(resident.places(step))
        assert batch.keys() == expected.keys()
        for key, values in batch.items():
            assert torch.equal(values.cpu(), expected[key]), key
            assert values.dtype == expected[key].dtype


@pytest.mark.interpret
@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1",
    reason="needs TRITON_INTERPRET=1 before Triton is imported: TRITON_INTERPRET=1 pytest -m interpret",
)
@pytest.mark.parametrize("labels", [None, "few"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_in_the_interpreter(
    name: str, labels: str | None, store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResidentColumns, "_by_kernel", True)
    compare(name, store, labels, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("labels", [None, "few"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_on_a_device(name: str, labels: str | None, store: EpisodeStore) -> None:
    compare(name, store, labels, "cuda")
