"""Data on the device trains to the bits of data on the host, and is gathered without a look at the host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_store import small_prompt_dt, small_settings, small_store

from goskill.data import ContextSampler, EpisodeStore, ReplayBuffer, ReplaySampler, SegmentSampler
from goskill.errors import InputError
from goskill.methods import find
from goskill.methods.go_skill import GoSkill
from goskill.methods.prompt_dt import PromptDT
from goskill.methods.td3_bc import TD3BC, TD3BCSettings
from goskill.training import RunFolder, Trainable, Trainer, TrainingSettings
from goskill.training import placement as placement
from goskill.training.placement import sampled_objective


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("data") / "store")


METHODS: dict[str, Any] = {
    "GO-Skill": lambda store, training: GoSkill(small_settings(dropout=0.0), store, training),
    "continuous skills": lambda store, training: GoSkill(
        small_settings(codebook="none", dropout=0.0), store, training
    ),
    "Prompt-DT": lambda store, training: PromptDT(small_prompt_dt(dropout=0.0), store, training),
    "TD3+BC": lambda store, training: TD3BC(
        TD3BCSettings(width=16, layers=2, iterations=6, batch_size=8, policy_noise=0.0, ends="never"),
        store,
        training,
    ),
    "SRTD": lambda store, training: find("srtd_id").method(
        find("srtd_id").settings(SMALL_SRTD), store, training
    ),
}
SMALL_SRTD = {
    "latent": 3,
    "history": 2,
    "skill_width": 16,
    "skill_layers": 2,
    "task_width": 16,
    "width": 16,
    "layers": 2,
    "decomposition_iterations": 4,
    "decomposition_batch": 8,
    "iterations": 4,
    "batch_size": 12,
    "policy_noise": 0.0,
    "ends": "never",
}


def trained(name: str, store: EpisodeStore, path: Path, device: str = "cpu", **settings: Any) -> Trainable:
    training = TrainingSettings(
        device=device, precision="float32", warmup_iterations=2, log_every=1, threads=1, **settings
    )
    method: Trainable = METHODS[name](store, training)
    Trainer(method, RunFolder.create(path, {"training": training}), training, progress=False).train()
    return method


def weights(method: Trainable) -> dict[str, torch.Tensor]:
    return {
        f"{network}.{name}": tensor.cpu()
        for network, module in method.modules.items()
        for name, tensor in module.state_dict().items()
    }


@pytest.mark.parametrize("name", METHODS)
def test_data_on_the_device_trains_to_the_same_bits(name: str, store: EpisodeStore, tmp_path: Path) -> None:
    expected = weights(trained(name, store, tmp_path / "host", data="host"))
    method = trained(name, store, tmp_path / "device", data="device")
    for key, tensor in weights(method).items():
        assert torch.equal(tensor, expected[key]), key


def test_a_resumed_run_goes_on_with_the_next_places(
    store: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = TrainingSettings(
        device="cpu", precision="float32", data="device", threads=1, checkpoint_every=1, warmup_iterations=2
    )
    expected = weights(trained("GO-Skill", store, tmp_path / "whole", data="device"))
    run = RunFolder.create(tmp_path / "cut", {"training": training})
    from goskill.training.step import IterationStep

    original, left = IterationStep.run, [8]

    def stopping(step: IterationStep, iteration: int, iterations: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise RuntimeError("cut")
        original(step, iteration, iterations)

    with monkeypatch.context() as patch:
        patch.setattr(IterationStep, "run", stopping)
        with pytest.raises(RuntimeError, match="cut"):
            Trainer(METHODS["GO-Skill"](store, training), run, training, progress=False).train()
    method = METHODS["GO-Skill"](store, training)
    Trainer(method, run, training, progress=False).train(resume=True)
    for key, tensor in weights(method).items():
        assert torch.equal(tensor, expected[key]), key


@pytest.mark.parametrize("normalize", [False, True])
def test_gathering_never_looks_at_the_host(store: EpisodeStore, normalize: bool) -> None:
    """Meta tensors have no values: whatever reads one, or has a shape that depends on one, raises."""
    store.write_labels("classes", [0] * store.num_steps, 2)
    options: dict[str, Any] = {
        "labels": "classes",
        "normalize": normalize,
        "device": "meta",
        "resident": True,
    }
    segments = SegmentSampler(store, 4, 6, **options)
    contexts = ContextSampler(store, 4, 5, 3, 6, actions=True, **options)
    for sampler in (segments, contexts):
        filled = next(type(sampler)(*sampler_arguments(sampler, store), labels="classes", **actions(sampler)))
        batch = sampler.gather(sampler.places(0))
        assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
            name: (value.shape, value.dtype) for name, value in filled.items()
        }
        assert all(value.is_meta for value in batch.values())


def sampler_arguments(sampler: Any, store: EpisodeStore) -> tuple[Any, ...]:
    return (store, 4, 6) if isinstance(sampler, SegmentSampler) else (store, 4, 5, 3, 6)


def actions(sampler: Any) -> dict[str, bool]:
    return {} if isinstance(sampler, SegmentSampler) else {"actions": True}


def test_a_gpu_keeps_data_that_fits_in_half_of_it(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(
        (shard / f"{name}.npy").stat().st_size
        for shard in store.shard_folders
        for name in ("observations", "actions", "returns_to_go")
    )
    monkeypatch.setattr(placement, "choose_device", lambda name: torch.device("cuda", 0))
    for free, keeps in ((2 * needed - 200, False), (4 * needed, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10 * free))
        assert bool(placement.placement(TrainingSettings(), store)) is keeps
        assert placement.placement(TrainingSettings(data="host"), store) == {}
        assert placement.placement(TrainingSettings(data="device"), store)
        assert placement.placement(TrainingSettings(), store, store) == {}


def test_a_gpu_keeps_a_replay_buffer_that_fits_in_half_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 transitions of 10 floats, which are 4,000 bytes."""
    monkeypatch.setattr(placement, "choose_device", lambda name: torch.device("cuda", 0))
    made = []
    monkeypatch.setattr(
        placement, "ReplayBuffer", lambda *sizes, **options: made.append((sizes, options["device"].type))
    )
    for free, kept in ((7_900, "cpu"), (8_100, "cuda")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10 * free))
        for data in ("auto", "host", "device"):
            placement.replay_buffer(TrainingSettings(data=data), 50, 3, 1, tasks=2)
        assert made == [((50, 3, 1), device) for device in (kept, "cpu", "cuda")]
        made.clear()


def test_a_replay_buffer_on_the_device_is_gathered_inside_the_step() -> None:
    """Meta tensors have no values: whatever reads one raises."""
    objectives = {}
    for device in ("cpu", "meta"):
        buffer = ReplayBuffer(20, 3, 2, tasks=2, device=device)
        buffer._added[:] = 5
        sampler = ReplaySampler(buffer, 4)
        objectives[device] = sampled_objective("critic", sampler, lambda batch: (batch["rewards"], {}), [])
    on_host, on_device = objectives["cpu"], objectives["meta"]
    assert on_host.gather is None
    assert on_device.gather is not None
    batch = on_device.gather(next(iter(on_device.sampler)))
    assert batch["observations"].shape == (2, 4, 3)
    assert all(value.is_meta for value in batch.values())


def test_samplers_that_fill_their_batches_have_no_places(store: EpisodeStore) -> None:
    with pytest.raises(InputError, match="resident: expected a sampler with resident=True"):
        SegmentSampler(store, 4, 6).places(0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("graphs", ["off", "on"])
def test_data_on_a_gpu_trains_as_data_on_the_host(
    name: str, graphs: str, store: EpisodeStore, tmp_path: Path
) -> None:
    """The losses agree, not the weights: AdamW makes whole steps of the rounding in gradients that are zero, such as
    those of the keys' biases."""
    trained(name, store, tmp_path / "host", "cuda", data="host", cuda_graphs="off")
    trained(name, store, tmp_path / "gpu", "cuda", data="device", cuda_graphs=graphs)
    ours, expected = losses(tmp_path / "gpu"), losses(tmp_path / "host")
    assert ours.keys() == expected.keys()
    for key, values in ours.items():
        np.testing.assert_allclose(values, expected[key], rtol=1e-3, err_msg=key)


def losses(run: Path) -> dict[str, list[float]]:
    """Losses and gradient norms of every iteration, by objective."""
    curves: dict[str, list[float]] = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        for key, value in json.loads(line).items():
            if key.endswith(("/loss", "/gradient_norm")):
                curves.setdefault(key, []).append(value)
    assert curves
    return curves


def test_losses_tell_other_data_apart(store: EpisodeStore, tmp_path: Path) -> None:
    """What the comparison on a GPU rests on: another stream of batches is another curve."""
    trained("GO-Skill", store, tmp_path / "one")
    trained("GO-Skill", store, tmp_path / "other", seed=1)
    one, other = losses(tmp_path / "one"), losses(tmp_path / "other")
    assert not np.allclose(one["policy/loss"], other["policy/loss"], rtol=1e-3)
