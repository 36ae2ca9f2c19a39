"""Samplers and the class index beside their peers. Each test first asserts that both give the same answer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from goskill import _core
from goskill.bench.peers.released import ReleasedBatches
from goskill.bench.peers.sampling import (
    CONTEXT,
    CONTEXTS,
    HORIZON,
    PROMPT,
    SEGMENTS,
    STEPS,
    TASKS,
    TRANSITIONS,
    Arrays,
    LoopSegments,
    NumpyContexts,
    NumpySegments,
    NumpyTransitions,
)
from goskill.data import ContextSampler, EpisodeStore, SegmentSampler, StoreWriter, TransitionSampler
from goskill.data.layout import FORMAT, SHARD_FORMAT, VERSION
from goskill.data.store_files import MANIFEST, write_manifest


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """One million transitions of MetaWorld's shapes: 50 tasks of 40 episodes."""
    path = tmp_path_factory.mktemp("data") / "store"
    generator = np.random.default_rng(0)
    with StoreWriter(path, 39, 4, TASKS, columns={"terminated": bool}) as writer:
        for episode in range(2000):
            writer.append(
                task=TASKS[episode % len(TASKS)],
                observations=generator.standard_normal((STEPS + 1, 39), dtype=np.float32),
                actions=generator.standard_normal((STEPS, 4), dtype=np.float32),
                rewards=generator.random(STEPS, dtype=np.float32),
                columns={"terminated": episode % 2 == 0},
            )
    os.sync()  # or the system would write it out while batches are timed
    return EpisodeStore.open(path)


@pytest.fixture(scope="module")
def columns(store: EpisodeStore) -> Arrays:
    """The same data as flat arrays in memory: what vectorised NumPy needs."""
    shards = sorted(store.path.glob("shard-*"))
    names = ("observations", "actions", "returns_to_go", "rewards", "terminated")
    return {name: np.concatenate([np.load(shard / f"{name}.npy") for shard in shards]) for name in names}


def assert_gathered(batch: dict, expected: Arrays) -> None:
    for name, value in expected.items():
        np.testing.assert_array_equal(batch[name].numpy(), value, err_msg=name)


def run(benchmark, function: Callable[[], object]) -> None:
    benchmark.pedantic(function, rounds=5000, iterations=1, warmup_rounds=500)


def medians_in_turn(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of both, timed in turn, a few calls each: what else the machine does meets both alike."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(200):
        for function, times in zip((first, second), seconds, strict=True):
            for i in range(30):
                start = time.perf_counter()
                function()
                if i >= 5:  # the first ones find the other's data in the caches
                    times.append(time.perf_counter() - start)
    return float(np.median(seconds[0])), float(np.median(seconds[1]))


def run_in_turn(benchmark, function: Callable[[], object], peer: str, other: Callable[[], object]) -> None:
    """Runs ``function`` as a benchmark, after ``peer`` and it were timed in turn."""
    of_other, own = medians_in_turn(other, function)
    benchmark.extra_info["in_turn"] = {peer: round(of_other / own, 2)}
    run(benchmark, function)


@pytest.mark.benchmark(group="two threads over one")
@pytest.mark.parametrize("kind", ["segments", "contexts"])
def test_two_threads(benchmark, store: EpisodeStore, kind: str) -> None:
    def sampler(threads: int) -> SegmentSampler | ContextSampler:
        if kind == "segments":
            return SegmentSampler(store, HORIZON, SEGMENTS, threads=threads)
        return ContextSampler(store, HORIZON, CONTEXT, PROMPT, CONTEXTS, threads=threads)

    one, two = sampler(1), sampler(2)
    for batch, other in zip(next(one).values(), next(two).values(), strict=True):
        assert batch.equal(other)
    run_in_turn(benchmark, lambda: next(two), "one thread", lambda: next(one))


@pytest.mark.benchmark(group="segment batch 800x(11x39+10x4)")
@pytest.mark.parametrize("threads", [1, 2])
def test_segments_goskill(benchmark, store: EpisodeStore, columns: Arrays, threads: int) -> None:
    sampler = SegmentSampler(store, HORIZON, SEGMENTS, threads=threads)
    batch = next(sampler)
    episode, start = batch["episode"].numpy(), batch["start"].numpy()
    peer = NumpySegments(store, columns)
    assert_gathered(batch, peer.gather(episode, start))
    benchmark.extra_info["threads"] = threads
    run_in_turn(benchmark, lambda: next(sampler), "numpy", peer)


@pytest.mark.benchmark(group="segment batch 800x(11x39+10x4)")
def test_segments_numpy(benchmark, store: EpisodeStore, columns: Arrays) -> None:
    benchmark.extra_info["peer"] = True
    run(benchmark, NumpySegments(store, columns))


@pytest.mark.benchmark(group="segment batch 800x(11x39+10x4)")
def test_segments_python_loop(benchmark, store: EpisodeStore, columns: Arrays) -> None:
    benchmark.extra_info["peer"] = True
    loop = LoopSegments(store, columns)
    expected = NumpySegments(store, columns)()
    for name, value in loop.gather(expected["episode"], expected["start"]).items():
        np.testing.assert_array_equal(value, expected[name])
    benchmark.pedantic(loop, rounds=20, iterations=1, warmup_rounds=2)


@pytest.mark.benchmark(group="segment batch 800x(11x39+10x4)")
def test_segments_torchrl(benchmark, store: EpisodeStore, columns: Arrays, tmp_path: Path) -> None:
    """torchrl's SliceSampler over a memory map: slices of H + 1 steps, whole ones only, not normalised."""
    benchmark.extra_info["peer"] = True
    torch = pytest.importorskip("torch")
    torchrl = pytest.importorskip("torchrl.data")
    from tensordict import TensorDict

    episodes = np.arange(store.num_episodes)
    rows = (episodes[:, None] * (STEPS + 1) + np.arange(STEPS)).reshape(-1)
    storage = torchrl.LazyMemmapStorage(store.num_steps, scratch_dir=tmp_path)
    buffer = torchrl.TensorDictReplayBuffer(
        storage=storage,
        sampler=torchrl.SliceSampler(slice_len=HORIZON + 1, traj_key="episode", cache_values=True),
        batch_size=SEGMENTS * (HORIZON + 1),
    )
    buffer.extend(
        TensorDict(
            {
                "observations": torch.from_numpy(columns["observations"][rows]),
                "actions": torch.from_numpy(columns["actions"]),
                "episode": torch.from_numpy(np.repeat(episodes, STEPS)),
            },
            batch_size=[store.num_steps],
        )
    )
    sample, found = buffer.sample(return_info=True)
    index = np.asarray(found["index"]).reshape(SEGMENTS, HORIZON + 1)
    assert (np.diff(index, axis=1) == 1).all()
    assert (index // STEPS == index[:, :1] // STEPS).all()
    for name, expected in (("observations", columns["observations"][rows]), ("actions", columns["actions"])):
        np.testing.assert_array_equal(sample[name].numpy(), expected[index.reshape(-1)])
    benchmark.pedantic(buffer.sample, rounds=20, iterations=1, warmup_rounds=2)


@pytest.mark.benchmark(group="context batch 400x(20+10)")
@pytest.mark.parametrize("threads", [1, 2])
def test_contexts_goskill(benchmark, store: EpisodeStore, columns: Arrays, threads: int) -> None:
    sampler = ContextSampler(store, HORIZON, CONTEXT, PROMPT, CONTEXTS, threads=threads)
    batch = next(sampler)
    places = (batch[name].numpy() for name in ("episode", "start", "prompt_episode"))
    peer = NumpyContexts(store, columns)
    assert_gathered(batch, peer.gather(*places))
    benchmark.extra_info["threads"] = threads
    run_in_turn(benchmark, lambda: next(sampler), "numpy", peer)


@pytest.mark.benchmark(group="context batch 400x(20+10)")
def test_contexts_numpy(benchmark, store: EpisodeStore, columns: Arrays) -> None:
    benchmark.extra_info["peer"] = True
    run(benchmark, NumpyContexts(store, columns))


@pytest.mark.benchmark(group="transition batch 1280x(39+4+1+39+1)")
@pytest.mark.parametrize("place", ["in memory", "in the page cache"])
def test_transitions_goskill(benchmark, store: EpisodeStore, columns: Arrays, place: str) -> None:
    """Beside NumPy on arrays that are where the store's are: in memory, or files that are mapped."""
    opened = EpisodeStore.open(store.path, in_memory=place == "in memory")
    (shard,) = store.shard_folders
    mapped = {name: np.load(shard / f"{name}.npy", mmap_mode="r") for name in columns}
    peer = NumpyTransitions(columns if place == "in memory" else mapped)
    sampler = TransitionSampler(opened, TRANSITIONS)
    batch = next(sampler)
    assert_gathered(batch, peer.gather(batch["episode"].numpy(), batch["start"].numpy()))
    run_in_turn(benchmark, lambda: next(sampler), "numpy", peer)


@pytest.mark.benchmark(group="transition batch 1280x(39+4+1+39+1)")
def test_transitions_numpy(benchmark, columns: Arrays) -> None:
    benchmark.extra_info["peer"] = True
    run(benchmark, NumpyTransitions(columns))


@pytest.mark.benchmark(group="transition batch 1280x(39+4+1+39+1)")
def test_transitions_torchrl(benchmark, store: EpisodeStore, columns: Arrays, tmp_path: Path) -> None:
    """torchrl's replay buffer over a memory map, which holds both states of every transition."""
    benchmark.extra_info["peer"] = True
    torch = pytest.importorskip("torch")
    torchrl = pytest.importorskip("torchrl.data")
    from tensordict import TensorDict

    storage = torchrl.LazyMemmapStorage(store.num_steps, scratch_dir=tmp_path)
    buffer = torchrl.TensorDictReplayBuffer(storage=storage, batch_size=TRANSITIONS)
    steps = np.arange(store.num_steps)
    rows = NumpyTransitions(columns).gather(steps // STEPS, steps % STEPS)
    data = {name: torch.from_numpy(value) for name, value in rows.items()}
    buffer.extend(TensorDict(data, batch_size=[store.num_steps]))
    sample, found = buffer.sample(return_info=True)
    index = np.asarray(found["index"])
    for name, value in rows.items():
        np.testing.assert_array_equal(sample[name].numpy(), value[index])
    benchmark.pedantic(buffer.sample, rounds=200, iterations=1, warmup_rounds=20)


@pytest.mark.benchmark(group="normalised segment batch 800x(11x39+10x4)")
def test_normalized_segments_goskill(benchmark, store: EpisodeStore, columns: Arrays) -> None:
    sampler = SegmentSampler(store, HORIZON, SEGMENTS, normalize=True)
    batch = next(sampler)
    peer = normalized_numpy(store, columns)
    assert_gathered(batch, peer(batch["episode"].numpy(), batch["start"].numpy()))
    run(benchmark, lambda: next(sampler))


@pytest.mark.benchmark(group="normalised segment batch 800x(11x39+10x4)")
def test_normalized_segments_numpy(benchmark, store: EpisodeStore, columns: Arrays) -> None:
    benchmark.extra_info["peer"] = True
    peer, places = normalized_numpy(store, columns), NumpySegments(store, columns)

    def batch() -> Arrays:
        choice = places.generator.integers(0, places.by_task.shape[1], SEGMENTS)
        start = places.generator.integers(0, STEPS, SEGMENTS)
        return peer(places.by_task[places.tasks, choice], start)

    run(benchmark, batch)


@pytest.mark.benchmark(group="normalised segment batch 800x(11x39+10x4)")
def test_normalized_segments_released_way(benchmark, store: EpisodeStore) -> None:
    """As the released code feeds its skill model: next observations are gathered beside the observations."""
    benchmark.extra_info["peer"] = True
    peer = ReleasedBatches.of_store(store, ["observations", "next_observations", "actions"])
    batch = next(SegmentSampler(store, HORIZON, SEGMENTS, normalize=True))
    order = np.argsort(batch["task"].numpy(), kind="stable")
    episode, start = (batch[name].numpy()[order].reshape(len(TASKS), -1) for name in ("episode", "start"))
    states, following, actions, mask = peer.windows(
        list(zip(episode // len(TASKS), start, strict=True)), HORIZON
    )
    real = mask.numpy() > 0
    observations = batch["observations"].numpy()[order]
    np.testing.assert_array_equal(real, batch["mask"].numpy()[order])
    np.testing.assert_array_equal(states, observations[:, :-1])
    np.testing.assert_array_equal(actions, batch["actions"].numpy()[order])
    np.testing.assert_array_equal(following[:, -1], observations[:, -1])
    next_real = real[:, 1:]
    np.testing.assert_array_equal(following[:, :-1].numpy()[next_real], observations[:, 1:-1][next_real])
    per_task = SEGMENTS // len(TASKS)
    benchmark.pedantic(
        lambda: peer.draw(per_task, HORIZON, right=HORIZON - 1), rounds=20, iterations=1, warmup_rounds=2
    )


def normalized_numpy(store: EpisodeStore, columns: Arrays) -> Callable[[np.ndarray, np.ndarray], Arrays]:
    gather = NumpySegments(store, columns).gather
    normalization = store.normalization()

    def normalized(episode: np.ndarray, start: np.ndarray) -> Arrays:
        batch = gather(episode, start)
        batch["observations"] -= normalization.mean
        batch["observations"] /= normalization.std
        batch["observations"][:, :-1][~batch["mask"]] = 0
        return batch

    return normalized


def sparse_store(path: Path, episodes: int) -> EpisodeStore:
    """A store whose large columns are holes in files: any size, no disk."""
    shard = path / "shard-000000"
    shard.mkdir(parents=True)
    steps = episodes * STEPS
    shapes = {
        "observations": ("<f4", (steps + episodes, 39)),
        "actions": ("<f4", (steps, 4)),
        "rewards": ("<f4", (steps,)),
        "returns_to_go": ("<f4", (steps,)),
        "success": ("|i1", (steps,)),
    }
    for name, (dtype, shape) in shapes.items():
        np.lib.format.open_memmap(shard / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
    np.save(shard / "episode_start.npy", np.arange(episodes) * STEPS)
    np.save(shard / "episode_length.npy", np.full(episodes, STEPS))
    np.save(shard / "episode_task.npy", np.arange(episodes) % len(TASKS))
    np.save(shard / "episode_return.npy", np.zeros(episodes))
    moments = {name: [0.0] * 39 for name in ("mean", "squares", "minimum", "maximum")}
    description = {
        "steps": steps,
        "episodes": episodes,
        "columns": {},
        "statistics": {"count": steps, **moments},
    }
    write_manifest(
        shard / MANIFEST, {"format": SHARD_FORMAT, "version": VERSION, **description, "provenance": {}}
    )
    dimensions = {"observation_dim": 39, "action_dim": 4, "tasks": TASKS, "shards": 1, "provenance": []}
    write_manifest(path / MANIFEST, {"format": FORMAT, "version": VERSION, **dimensions})
    return EpisodeStore.open(path)


def sampler_of_size(path: Path, millions: int, place: str, kind: str) -> SegmentSampler | ContextSampler:
    written = sparse_store(path / f"{millions}", millions * 1_000_000 // STEPS)
    for name in ("observations", "actions", "returns_to_go"):
        with open(written.path / "shard-000000" / f"{name}.npy", "rb", buffering=0) as file:
            while file.read(1 << 24):
                pass
    store = EpisodeStore.open(written.path, in_memory=place == "in memory")
    if kind == "segments":
        return SegmentSampler(store, HORIZON, SEGMENTS)
    return ContextSampler(store, HORIZON, CONTEXT, PROMPT, CONTEXTS)


@pytest.mark.benchmark(group="batch of 20M transitions against 1M")
@pytest.mark.parametrize("place", ["in memory", "in the page cache"])
@pytest.mark.parametrize("kind", ["segments", "contexts"])
def test_batches_by_size(benchmark, tmp_path: Path, kind: str, place: str) -> None:
    small, large = (sampler_of_size(tmp_path, millions, place, kind) for millions in (1, 20))
    for sampler in (small, large):
        for _ in range(3000):  # every page has been looked at once
            next(sampler)
    run_in_turn(benchmark, lambda: next(large), "1M transitions", lambda: next(small))


def anonymous_bytes() -> int:
    """This process's memory beyond files that are mapped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.benchmark(group="memory of sampling 100M transitions")
def test_memory_at_100_million_transitions(benchmark, tmp_path: Path) -> None:
    before = anonymous_bytes()
    store = sparse_store(tmp_path / "store", 200_000)
    segments = SegmentSampler(store, HORIZON, SEGMENTS)
    contexts = ContextSampler(store, HORIZON, CONTEXT, PROMPT, CONTEXTS)

    def step() -> None:
        next(segments)
        next(contexts)

    benchmark.pedantic(step, rounds=200, iterations=1)
    used = anonymous_bytes() - before
    benchmark.extra_info["process_memory_mib"] = round(used / 2**20)
    assert used < 2**30


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """100M labels of 16 classes that last a few steps each, as skills do."""
    return np.repeat(np.random.default_rng(0).integers(0, 16, 20_000_000, dtype=np.uint8), 5)


@pytest.mark.benchmark(group="class index of 100M labels")
@pytest.mark.parametrize("threads", [1, 2])
def test_class_index_goskill(benchmark, labels: np.ndarray, threads: int) -> None:
    order, offsets = _core.class_index(labels[:1_000_000], 16, threads)
    np.testing.assert_array_equal(order, np.argsort(labels[:1_000_000], kind="stable"))
    np.testing.assert_array_equal(np.diff(offsets), np.bincount(labels[:1_000_000], minlength=16))
    benchmark.extra_info["threads"] = threads
    benchmark.pedantic(_core.class_index, (labels, 16, threads), rounds=3, iterations=1)


@pytest.mark.benchmark(group="class index of 100M labels")
def test_class_index_numpy(benchmark, labels: np.ndarray) -> None:
    """A stable argsort, which is a radix sort for small integers."""
    benchmark.extra_info["peer"] = True
    benchmark.pedantic(lambda: np.argsort(labels, kind="stable"), rounds=2, iterations=1)
