"""Samplers and the class index beside their peers. Each test first asserts that both give the same answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from goskill.data import ContextSampler, EpisodeStore, SegmentSampler, StoreWriter

HORIZON, CONTEXT, PROMPT = 10, 20, 10
SEGMENTS, CONTEXTS = 800, 400
TASKS = [f"task-{i:02d}" for i in range(50)]
STEPS = 500
RETURN_SCALE = 1000.0

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """One million transitions of MetaWorld's shapes: 50 tasks of 40 episodes."""
    path = tmp_path_factory.mktemp("data") / "store"
    generator = np.random.default_rng(0)
    with StoreWriter(path, 39, 4, TASKS) as writer:
        for episode in range(2000):
            writer.append(
                task=TASKS[episode % len(TASKS)],
                observations=generator.standard_normal((STEPS + 1, 39), dtype=np.float32),
                actions=generator.standard_normal((STEPS, 4), dtype=np.float32),
                rewards=generator.random(STEPS, dtype=np.float32),
            )
    return EpisodeStore.open(path)


@pytest.fixture(scope="module")
def columns(store: EpisodeStore) -> Arrays:
    """The same data as flat arrays in memory: what vectorised NumPy needs."""
    shards = sorted(store.path.glob("shard-*"))
    names = ("observations", "actions", "returns_to_go")
    return {name: np.concatenate([np.load(shard / f"{name}.npy") for shard in shards]) for name in names}


class NumpySegments:
    """Segment batches by fancy indexing of whole arrays: one gather each for states and actions."""

    def __init__(self, store: EpisodeStore, columns: Arrays) -> None:
        self.generator = np.random.default_rng(0)
        self.columns = columns
        self.by_task = np.stack([np.flatnonzero(store.episode_task == task) for task in range(len(TASKS))])
        self.tasks = np.arange(SEGMENTS) % len(TASKS)

    def __call__(self) -> Arrays:
        choice = self.generator.integers(0, self.by_task.shape[1], SEGMENTS)
        start = self.generator.integers(0, STEPS, SEGMENTS)
        return self.gather(self.by_task[self.tasks, choice], start)

    def gather(self, episode: np.ndarray, start: np.ndarray) -> Arrays:
        offsets = start[:, None] + np.arange(HORIZON + 1)
        mask = offsets[:, :-1] < STEPS
        rows = episode[:, None] * (STEPS + 1) + np.minimum(offsets, STEPS)
        observations = self.columns["observations"][rows]
        observations[:, :-1][~mask] = 0
        actions = self.columns["actions"][episode[:, None] * STEPS + np.minimum(offsets[:, :-1], STEPS - 1)]
        actions[~mask] = 0
        return {
            "observations": observations,
            "actions": actions,
            "mask": mask,
            "start": start,
            "episode": episode,
        }


class LoopSegments(NumpySegments):
    """Segment batches one sample at a time, as training code of the Prompt-DT family builds them."""

    def gather(self, episode: np.ndarray, start: np.ndarray) -> Arrays:
        observations = np.zeros((SEGMENTS, HORIZON + 1, 39), np.float32)
        actions = np.zeros((SEGMENTS, HORIZON, 4), np.float32)
        mask = np.zeros((SEGMENTS, HORIZON), bool)
        for i in range(SEGMENTS):
            first, step = int(episode[i]), int(start[i])
            steps = np.arange(step, min(step + HORIZON, STEPS))
            rows = len(steps)
            states = self.columns["observations"][first * (STEPS + 1) : (first + 1) * (STEPS + 1)]
            observations[i, :rows] = states[steps]
            observations[i, HORIZON] = states[min(step + HORIZON, STEPS)]
            actions[i, :rows] = self.columns["actions"][first * STEPS : (first + 1) * STEPS][steps]
            mask[i, :rows] = True
        return {
            "observations": observations,
            "actions": actions,
            "mask": mask,
            "start": start,
            "episode": episode,
        }


class NumpyContexts:
    """Context batches by fancy indexing of whole arrays."""

    def __init__(self, store: EpisodeStore, columns: Arrays) -> None:
        self.generator = np.random.default_rng(0)
        self.columns = columns
        self.by_task = np.stack([np.flatnonzero(store.episode_task == task) for task in range(len(TASKS))])
        self.best = np.array([store.best_episodes(task, 4) for task in TASKS])
        self.tasks = np.arange(CONTEXTS) % len(TASKS)

    def __call__(self) -> Arrays:
        episode = self.by_task[self.tasks, self.generator.integers(0, self.by_task.shape[1], CONTEXTS)]
        prompt = self.best[self.tasks, self.generator.integers(0, 4, CONTEXTS)]
        start = self.generator.integers(0, STEPS, CONTEXTS) - (CONTEXT - 1) * HORIZON
        return self.gather(episode, start, prompt)

    def gather(self, episode: np.ndarray, start: np.ndarray, prompt: np.ndarray) -> Arrays:
        prompt_start = np.full(CONTEXTS, STEPS - PROMPT * HORIZON)
        windows = self.window(prompt, prompt_start, PROMPT)
        return {
            **self.window(episode, start, CONTEXT),
            **{f"prompt_{name}": value for name, value in windows.items()},
            "start": start,
            "episode": episode,
            "prompt_episode": prompt,
        }

    def window(self, episode: np.ndarray, start: np.ndarray, points: int) -> Arrays:
        steps = start[:, None] + np.arange(points) * HORIZON
        mask = steps >= 0
        real = np.maximum(steps, 0)
        observations = self.columns["observations"][episode[:, None] * (STEPS + 1) + real]
        observations[~mask] = 0
        returns_to_go = self.columns["returns_to_go"][episode[:, None] * STEPS + real] / np.float32(
            RETURN_SCALE
        )
        returns_to_go[~mask] = 0
        timesteps = real // HORIZON
        return {
            "observations": observations,
            "returns_to_go": returns_to_go[..., None],
            "timesteps": timesteps,
            "mask": mask,
        }


def assert_gathered(batch: dict, expected: Arrays) -> None:
    for name, value in expected.items():
        np.testing.assert_array_equal(batch[name].numpy(), value, err_msg=name)


def run(benchmark, function: Callable[[], object]) -> None:
    benchmark.pedantic(function, rounds=200, iterations=1, warmup_rounds=20)


@pytest.mark.benchmark(group="segment batch 800x(11x39+10x4)")
@pytest.mark.parametrize("threads", [1, 2])
def test_segments_goskill(benchmark, store: EpisodeStore, columns: Arrays, threads: int) -> None:
    sampler = SegmentSampler(store, HORIZON, SEGMENTS, threads=threads)
    batch = next(sampler)
    episode, start = batch["episode"].numpy(), batch["start"].numpy()
    assert_gathered(batch, NumpySegments(store, columns).gather(episode, start))
    benchmark.extra_info["threads"] = threads
    run(benchmark, lambda: next(sampler))


@pytest.mark.benchmark(group="segment batch 800x(11x39+10x4)")
def test_segments_numpy(benchmark, store: EpisodeStore, columns: Arrays) -> None:
    run(benchmark, NumpySegments(store, columns))


@pytest.mark.benchmark(group="segment batch 800x(11x39+10x4)")
def test_segments_python_loop(benchmark, store: EpisodeStore, columns: Arrays) -> None:
    loop = LoopSegments(store, columns)
    expected = NumpySegments(store, columns)()
    for name, value in loop.gather(expected["episode"], expected["start"]).items():
        np.testing.assert_array_equal(value, expected[name])
    benchmark.pedantic(loop, rounds=20, iterations=1, warmup_rounds=2)


@pytest.mark.benchmark(group="segment batch 800x(11x39+10x4)")
def test_segments_torchrl(benchmark, store: EpisodeStore, columns: Arrays, tmp_path: Path) -> None:
    """torchrl's SliceSampler over a memory map: slices of H + 1 steps, whole ones only."""
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
    sample = buffer.sample()
    assert sample["observations"].shape == (SEGMENTS * (HORIZON + 1), 39)
    benchmark.pedantic(buffer.sample, rounds=20, iterations=1, warmup_rounds=2)


@pytest.mark.benchmark(group="context batch 400x(20+10)")
@pytest.mark.parametrize("threads", [1, 2])
def test_contexts_goskill(benchmark, store: EpisodeStore, columns: Arrays, threads: int) -> None:
    sampler = ContextSampler(store, HORIZON, CONTEXT, PROMPT, CONTEXTS, threads=threads)
    batch = next(sampler)
    places = (batch[name].numpy() for name in ("episode", "start", "prompt_episode"))
    assert_gathered(batch, NumpyContexts(store, columns).gather(*places))
    benchmark.extra_info["threads"] = threads
    run(benchmark, lambda: next(sampler))


@pytest.mark.benchmark(group="context batch 400x(20+10)")
def test_contexts_numpy(benchmark, store: EpisodeStore, columns: Arrays) -> None:
    run(benchmark, NumpyContexts(store, columns))
