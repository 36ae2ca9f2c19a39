"""The samplers against plain NumPy, index by index, and their distributions."""

from __future__ import annotations

import pickle
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_oracle import context_batch, segment_batch
from scipy import stats
from torch.utils.data import DataLoader

from goskill import _core
from goskill.data import ContextSampler, EpisodeStore, Normalization, SegmentSampler, StoreWriter
from goskill.errors import InputError, StoreError


def assert_same(batch: dict[str, torch.Tensor], expected: dict[str, np.ndarray]) -> None:
    assert set(batch) == set(expected)
    for name, value in expected.items():
        assert batch[name].numpy().dtype == value.dtype, name
        np.testing.assert_array_equal(batch[name].numpy(), value, err_msg=name)


@pytest.mark.parametrize("balance", ["task", "transition", "skill"])
@pytest.mark.parametrize("horizon", [1, 4, 10])
@pytest.mark.parametrize("normalize", [False, True])
def test_segments_equal_the_numpy_oracle(
    uneven: EpisodeStore, balance: str, horizon: int, normalize: bool
) -> None:
    sampler = SegmentSampler(uneven, horizon, 37, balance, "skills", normalize, seed=11)
    for step in range(4):
        assert_same(next(sampler), segment_batch(uneven, step, 37, horizon, balance, normalize, 11))


def test_batches_of_a_store_in_memory_are_the_same(uneven: EpisodeStore) -> None:
    store = EpisodeStore.open(uneven.path, in_memory=True)
    assert_same(
        next(SegmentSampler(store, 4, 37, "skill", "skills", True, seed=11)),
        segment_batch(uneven, 0, 37, 4, "skill", True, 11),
    )


@pytest.mark.parametrize(("horizon", "context", "prompt"), [(1, 3, 2), (4, 5, 3), (10, 2, 10), (10, 20, 1)])
@pytest.mark.parametrize("normalize", [False, True])
def test_contexts_equal_the_numpy_oracle(
    uneven: EpisodeStore, horizon: int, context: int, prompt: int, normalize: bool
) -> None:
    sampler = ContextSampler(
        uneven,
        horizon,
        context,
        prompt,
        29,
        "skills",
        normalize=normalize,
        actions=True,
        seed=5,
        return_scale=7.0,
    )
    for step in range(4):
        assert_same(
            next(sampler), context_batch(uneven, step, 29, horizon, context, prompt, normalize, 5, 7.0)
        )


@pytest.mark.parametrize(("width", "actions"), [(15, 17), (16, 16), (17, 15), (31, 32), (39, 4), (48, 1)])
@pytest.mark.parametrize("normalize", [False, True])
def test_rows_of_any_width_are_copied_whole(
    tmp_path: Path, width: int, actions: int, normalize: bool
) -> None:
    """Strided rows are copied in blocks of 16 numbers, the last of which may overlap the one before."""
    random = np.random.default_rng(width)
    with StoreWriter(tmp_path / "store", width, actions, ["a", "b"]) as writer:
        for number, length in enumerate((1, 7, 30, 12)):
            shapes = {"observations": (length + 1, width), "actions": (length, actions), "rewards": length}
            columns = {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
            writer.append(task="ab"[number % 2], **columns)
    store = EpisodeStore.open(tmp_path / "store")
    store.write_labels("skills", np.arange(store.num_steps) % 3, 3)
    sampler = ContextSampler(store, 3, 4, 2, 29, "skills", normalize=normalize, actions=True, return_scale=7)
    assert_same(next(sampler), context_batch(store, 0, 29, 3, 4, 2, normalize, 0, 7.0))


_WITHOUT_THREADS = """
import resource
import numpy as np
from goskill import _core

labels = np.random.default_rng(0).integers(0, 16, 100_000).astype(np.uint8)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_STACK, (1 << 23, resource.RLIM_INFINITY))
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 26), resource.RLIM_INFINITY))  # not for 1,000 stacks
for threads in (1000, 1000, 2):
    order, offsets = _core.class_index(labels, 16, threads)
    assert (order == np.argsort(labels, kind="stable")).all()
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs to know the memory in use")
def test_work_goes_on_where_the_system_gives_no_more_threads() -> None:
    ran = subprocess.run([sys.executable, "-c", _WITHOUT_THREADS], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@settings(max_examples=30, deadline=None)
@given(
    episodes=st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True),
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 2**40),
    batch_size=st.integers(1, 20),
    balance=st.sampled_from(["task", "transition", "skill"]),
)
def test_segments_of_chosen_episodes_equal_the_oracle(
    uneven: EpisodeStore, episodes: list[int], seed: int, step: int, batch_size: int, balance: str
) -> None:
    sampler = SegmentSampler(uneven, 3, batch_size, balance, "skills", seed=seed, episodes=episodes)
    sampler.load_state_dict({"step": step, "seed": seed})
    expected = segment_batch(uneven, step, batch_size, 3, balance, False, seed, sorted(episodes))
    assert_same(next(sampler), expected)


def test_segments_without_labels_have_no_skill(uneven: EpisodeStore) -> None:
    assert "skill" not in next(SegmentSampler(uneven, 4, 8))


needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("normalize", [False, True])
def test_batches_gathered_on_the_device_are_the_same(
    uneven: EpisodeStore, device: str, normalize: bool
) -> None:
    common = {"labels": "skills", "normalize": normalize, "seed": 8}
    for build in (
        lambda **place: SegmentSampler(uneven, 4, 50, "skill", **common, **place),
        lambda **place: ContextSampler(
            uneven, 4, 5, 3, 50, actions=True, return_scale=7.0, **common, **place
        ),
        lambda **place: ContextSampler(uneven, 10, 3, 0, 50, **common, **place),
    ):
        resident, filled = build(device=device, resident=True), build()
        for _ in range(3):
            batch = {name: value.cpu() for name, value in next(resident).items()}
            assert all(value.is_contiguous() for value in batch.values())
            assert_same(batch, {name: value.numpy() for name, value in next(filled).items()})


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("classes", [256, 300, 1 << 16, 70_000])
def test_classes_of_any_width_are_gathered_on_the_device(make_store, device: str, classes: int) -> None:
    store = make_store([7, 30], [0, 0])
    store.write_labels("skills", np.random.default_rng(0).integers(classes // 2, classes, 37), classes)
    resident = SegmentSampler(store, 4, 50, labels="skills", device=device, resident=True)
    np.testing.assert_array_equal(
        next(resident)["skill"].cpu(), next(SegmentSampler(store, 4, 50, labels="skills"))["skill"]
    )


@pytest.mark.parametrize(
    "place", [pytest.param(p, marks=needs_gpu) for p in ({"device": "cuda"}, {"pin_memory": True})]
)
def test_batches_through_pinned_memory_are_the_same_and_may_be_kept(
    uneven: EpisodeStore, place: dict
) -> None:
    kept = [batch for batch, _ in zip(SegmentSampler(uneven, 4, 50, **place), range(20), strict=False)]
    for batch, expected in zip(kept, SegmentSampler(uneven, 4, 50), strict=False):
        copied = {name: value.cpu() for name, value in batch.items()}
        assert_same(copied, {name: value.numpy() for name, value in expected.items()})


def test_weighted_tasks_follow_their_weights(uneven: EpisodeStore) -> None:
    sampler = SegmentSampler(uneven, 2, 6000, task_weights={"task-0": 1, "task-2": 3})
    counts = np.bincount(next(sampler)["task"].numpy(), minlength=3)
    assert counts[1] == 0
    assert stats.chisquare(counts[[0, 2]], [1500, 4500]).pvalue > 1e-4


def test_starts_are_uniform_over_all_steps(uneven: EpisodeStore) -> None:
    sampler = SegmentSampler(uneven, 4, 20_000, "transition", seed=2)
    batch = next(sampler)
    steps = uneven.episode_start[batch["episode"].numpy()] + batch["start"].numpy()
    assert stats.chisquare(np.bincount(steps, minlength=uneven.num_steps)).pvalue > 1e-4


def test_each_task_has_its_share_and_uniform_starts(uneven: EpisodeStore) -> None:
    batch = next(SegmentSampler(uneven, 4, 30_000, "task", seed=3))
    tasks = batch["task"].numpy()
    assert (np.bincount(tasks) == 10_000).all()
    steps = uneven.episode_start[batch["episode"].numpy()] + batch["start"].numpy()
    for task in range(3):
        counts = np.bincount(steps[tasks == task], minlength=uneven.num_steps)
        owned = np.repeat(uneven.episode_task, uneven.episode_length) == task
        assert counts[~owned].sum() == 0
        assert stats.chisquare(counts[owned]).pvalue > 1e-4


def test_each_class_has_its_share_and_uniform_steps(uneven: EpisodeStore) -> None:
    batch = next(SegmentSampler(uneven, 4, 20_000, "skill", "skills", seed=4))
    skills = batch["skill"].numpy()
    labels = uneven.labels("skills")
    assert np.bincount(skills, minlength=5).tolist() == [5000, 5000, 0, 5000, 5000]
    steps = uneven.episode_start[batch["episode"].numpy()] + batch["start"].numpy()
    for skill in (0, 1, 3, 4):
        counts = np.bincount(steps[skills == skill], minlength=uneven.num_steps)
        assert stats.chisquare(counts[labels == skill]).pvalue > 1e-4


def test_context_starts_and_prompts_are_uniform(uneven: EpisodeStore) -> None:
    batch = next(ContextSampler(uneven, 3, 4, 2, 30_000, seed=6))
    last = batch["start"].numpy() + 9
    steps = uneven.episode_start[batch["episode"].numpy()] + last
    tasks = batch["task"].numpy()
    for task in range(3):
        owned = np.repeat(uneven.episode_task, uneven.episode_length) == task
        counts = np.bincount(steps[tasks == task], minlength=uneven.num_steps)
        assert stats.chisquare(counts[owned]).pvalue > 1e-4
        best = uneven.best_episodes(f"task-{task}", 4)
        chosen = np.bincount(batch["prompt_episode"].numpy()[tasks == task], minlength=uneven.num_episodes)
        assert chosen[best].sum() == 10_000
        assert stats.chisquare(chosen[best]).pvalue > 1e-4


@pytest.mark.parametrize("threads", [0, 2, 3, 7])
def test_the_stream_does_not_depend_on_threads(uneven: EpisodeStore, threads: int) -> None:
    for one, many in (
        (SegmentSampler(uneven, 4, 50), SegmentSampler(uneven, 4, 50, threads=threads)),
        (ContextSampler(uneven, 4, 5, 2, 50), ContextSampler(uneven, 4, 5, 2, 50, threads=threads)),
    ):
        for _ in range(5):
            assert_same(next(many), {name: value.numpy() for name, value in next(one).items()})


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_partition_the_stream_of_one(uneven: EpisodeStore, world_size: int) -> None:
    whole = SegmentSampler(uneven, 4, 6 * world_size, "skill", "skills")
    ranks = [
        SegmentSampler(uneven, 4, 6, "skill", "skills", rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for _ in range(3):
        parts = [next(rank) for rank in ranks]
        joined = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        assert_same(next(whole), joined)


def test_resuming_continues_the_stream_exactly(uneven: EpisodeStore) -> None:
    sampler = ContextSampler(uneven, 4, 5, 2, 16, seed=9)
    for _ in range(3):
        next(sampler)
    state = sampler.state_dict()
    assert state == {"step": 3, "seed": 9}
    expected = {name: value.clone().numpy() for name, value in next(sampler).items()}
    fresh = ContextSampler(uneven, 4, 5, 2, 16, seed=0)
    fresh.load_state_dict(state)
    assert_same(next(fresh), expected)
    assert_same(
        next(pickle.loads(pickle.dumps(sampler))), {k: v.numpy() for k, v in sampler.batch(4).items()}
    )


def test_a_kept_batch_never_changes(uneven: EpisodeStore) -> None:
    sampler = SegmentSampler(uneven, 4, 16)
    kept = [next(sampler) for _ in range(12)]
    rows = [sampler.batch(step)["observations"][3:5, 1:] for step in range(12)]
    for _ in range(20):
        next(sampler)
    for step, (batch, part) in enumerate(zip(kept, rows, strict=True)):
        expected = sampler.batch(step)
        assert torch.equal(batch["observations"], expected["observations"])
        assert torch.equal(part, expected["observations"][3:5, 1:])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="prefetches are looked for by x86-64's names")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump to read the built extension")
def test_the_compiler_kept_the_prefetches() -> None:
    """GCC drops functions that do nothing else: batches then take twice as long and nothing else tells."""
    listing = subprocess.run(["objdump", "-d", _core.__file__], capture_output=True, text=True, check=True)
    assert len(re.findall(r"\sprefetcht0\s", listing.stdout)) >= 5


def test_memory_of_dropped_batches_is_used_again(uneven: EpisodeStore) -> None:
    sampler = SegmentSampler(uneven, 4, 16)
    addresses = {next(sampler)["observations"].data_ptr() for _ in range(20)}
    assert len(addresses) <= 2


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_of_a_data_loader_give_the_same_stream(uneven: EpisodeStore, start_method: str) -> None:
    sampler = SegmentSampler(uneven, 4, 6, threads=2)
    next(sampler)
    sampler.load_state_dict({"step": 5, "seed": 0})
    loader = DataLoader(sampler, batch_size=None, num_workers=2, multiprocessing_context=start_method)
    for step, batch in zip(range(5, 9), loader, strict=False):
        assert_same(batch, {name: value.numpy() for name, value in sampler.batch(step).items()})


def test_a_data_loader_without_workers_and_a_bare_loop_agree(uneven: EpisodeStore) -> None:
    loader = DataLoader(SegmentSampler(uneven, 4, 6), batch_size=None)
    for one, other, _ in zip(loader, SegmentSampler(uneven, 4, 6), range(3), strict=False):
        assert_same(one, {name: value.numpy() for name, value in other.items()})


def normalization(mean: float = 0.0, std: float = 1.0, dim: int = 5) -> Normalization:
    """One whose first dimension has these values, and the others 0 and 1."""
    means, stds = np.zeros(dim, np.float32), np.ones(dim, np.float32)
    means[0], stds[0] = mean, std
    return Normalization(means, stds)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": 0}, "horizon"),
        ({"horizon": 2**31}, "horizon: expected an integer from 1 to 2147483647, got 2147483648"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"batch_size": 2**31}, "batch_size: expected an integer from 1 to 2147483647"),
        ({"balance": "class"}, "balance"),
        ({"balance": "skill"}, "labels"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"threads": -1}, "threads"),
        ({"episodes": []}, "episodes"),
        ({"episodes": [0, 12]}, "episodes"),
        ({"episodes": [0, 0]}, "episodes"),
        ({"episodes": [0.5]}, "episodes"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"device": "gpu"}, "device"),
        ({"task_weights": {"task-7": 1.0}}, "task-7"),
        ({"task_weights": [1.0, 1.0]}, "task_weights: expected weights by task name"),
        ({"task_weights": {"task-0": "much"}}, "task_weights: .*'much' for 'task-0'"),
        ({"task_weights": {"task-0": -1.0}}, "task_weights"),
        ({"task_weights": {"task-0": 0.0}}, "task_weights"),
        ({"task_weights": {"task-0": 1e308, "task-2": 1e308}}, "task_weights: expected a finite sum"),
        ({"threads": 2**40}, "threads"),
        ({"normalize": normalization(dim=2)}, "normalize: expected a mean of 5 dimensions"),
        (
            {"normalize": normalization(mean=np.inf)},
            "normalize: expected a mean of finite values, got inf at 0",
        ),
        (
            {"normalize": normalization(std=0)},
            "normalize: expected a std of finite values above 0, got 0.0 at 0",
        ),
        ({"normalize": normalization(std=-1)}, "normalize: expected a std"),
        ({"normalize": normalization(std=np.inf)}, "normalize: expected a std"),
        ({"normalize": normalization(std=np.nan)}, "normalize: expected a std"),
        ({"normalize": Normalization(np.zeros(5), np.ones(4))}, "normalize: expected a std of 5 dimensions"),
        ({"normalize": Normalization(np.zeros(5), np.full(5, 1e-60))}, "normalize: expected a std of finite"),
        ({"normalize": "yes"}, "normalize: expected True, False or a Normalization, got 'yes'"),
        ({"normalize": 1}, "normalize: expected True, False or a Normalization, got 1"),
        ({"resident": "no"}, "resident: expected True or False, got 'no'"),
        ({"pin_memory": "no"}, "pin_memory: expected True or False, got 'no'"),
    ],
)
def test_wrong_settings_are_refused_by_name(uneven: EpisodeStore, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SegmentSampler(uneven, **{"horizon": 4, "batch_size": 8, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": 0}, "context"),
        ({"horizon": 2**62}, "horizon"),  # whose product with the context overflows
        ({"context": 2**61}, "context"),
        ({"prompt": 2**60}, "prompt"),
        ({"prompt": -1}, "prompt"),
        ({"return_scale": 0.0}, "return_scale"),
        ({"return_scale": "x"}, "return_scale: expected a finite number above 0, got 'x'"),
        ({"return_scale": np.nan}, "return_scale"),
        ({"return_scale": True}, "return_scale"),
        ({"actions": "no"}, "actions: expected True or False, got 'no'"),
        ({"prompt_episodes": {"task-0": [0]}}, "task-1"),
        ({"prompt_episodes": {"task-0": [99]}}, "prompt_episodes"),
    ],
)
def test_wrong_context_settings_are_refused_by_name(
    uneven: EpisodeStore, settings: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ContextSampler(uneven, **{"horizon": 4, "context": 3, "prompt": 2, "batch_size": 8, **settings})


@pytest.mark.parametrize("state", [{}, {"step": 3}, {"seed": 0, "position": 1}, None, 3, "step, seed"])
def test_a_state_that_lacks_something_is_refused(uneven: EpisodeStore, state: Any) -> None:
    sampler = SegmentSampler(uneven, horizon=4, batch_size=8)
    with pytest.raises(InputError, match="state: expected 'step' and 'seed'"):
        sampler.load_state_dict(state)


def test_a_state_takes_the_seeds_that_a_sampler_takes(uneven: EpisodeStore) -> None:
    sampler = SegmentSampler(uneven, horizon=4, batch_size=8, seed=2**63 - 1)
    sampler.load_state_dict({"step": 2, "seed": 2**63 - 1})
    for seed in (-1, 2**63, 2**64):
        with pytest.raises(InputError, match="seed: expected an integer from 0 to 9223372036854775807"):
            SegmentSampler(uneven, horizon=4, batch_size=8, seed=seed)
        with pytest.raises(InputError, match="seed: expected an integer from 0 to 9223372036854775807"):
            sampler.load_state_dict({"step": 0, "seed": seed})
    assert sampler.state_dict()["seed"] == 2**63 - 1


def test_missing_labels_are_named(uneven: EpisodeStore) -> None:
    with pytest.raises(StoreError, match=r"'unknown'.*'skills'"):
        SegmentSampler(uneven, 4, 8, labels="unknown")


def test_an_empty_store_is_refused(make_store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no episodes"):
        SegmentSampler(make_store([], []), 4, 8)
