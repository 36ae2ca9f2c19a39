"""Conversion of npz episodes and of TD-MPC2's chunks beside reading them alone, which is its limit."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from goskill.data import EpisodeStore
from goskill.data.convert import from_npz, from_tdmpc2
from goskill.envs import tasks_of

STEPS = 500
CHUNK = "a chunk of 20,000 episodes of TD-MPC2"
ALONE = """import resource, sys
from goskill.data.convert import from_tdmpc2
from goskill.envs import tasks_of
from_tdmpc2(sys.argv[1], sys.argv[2], tasks_of("mt50"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture(scope="module", params=["compressed float64", "plain float32"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 episodes of MetaWorld's shapes: compressed, or as large as those of the field's dataset."""
    root = tmp_path_factory.mktemp("npz")
    generator = np.random.default_rng(0)
    compressed = request.param == "compressed float64"
    save, dtype = (np.savez_compressed, np.float64) if compressed else (np.savez, np.float32)
    for task in range(4):
        folder = root / f"task-{task}"
        folder.mkdir()
        for episode in range(100):
            states = generator.standard_normal((STEPS + 1, 39)).round(3).astype(dtype)
            save(
                folder / f"{episode}.npz",
                observations=states[:-1],
                next_observations=states[1:],
                actions=generator.standard_normal((STEPS, 4)).astype(dtype),
                rewards=generator.random(STEPS).astype(dtype),
                terminals=np.zeros(STEPS, dtype),
            )
    return root


@pytest.fixture(scope="module", params=[400, 4800])
def npz_source(
    request: pytest.FixtureRequest, written: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """As many episodes: the same ones several times, under other names of tasks."""
    root = tmp_path_factory.mktemp("tasks")
    for number in range(request.param // 100):
        (root / f"task-{number:02d}").symlink_to(written / f"task-{number % 4}")
    return root


@pytest.fixture(autouse=True)
def group(benchmark, request: pytest.FixtureRequest) -> None:
    """Names the group before the measurement, which keeps the name that it finds then."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    kind = (
        f"{parameters['npz_source']} npz episodes, {parameters['written']}"
        if "written" in parameters
        else CHUNK
    )
    benchmark.group = f"conversion of {kind}"


def add_facts(benchmark, source: Path) -> None:
    files = source.glob("*/*.npz") if source.is_dir() else [source]
    size = sum(file.stat().st_size for file in files)
    benchmark.extra_info["source_bytes"] = size
    benchmark.extra_info["megabytes_per_second"] = round(size / 1e6 / benchmark.stats.stats.median)


@pytest.mark.parametrize("workers", [1, 2])
def test_conversion_goskill(benchmark, npz_source: Path, tmp_path: Path, workers: int) -> None:
    def convert() -> None:
        from_npz("harmodt", npz_source, tmp_path / "store", workers=workers)

    def forget() -> None:
        shutil.rmtree(tmp_path / "store", ignore_errors=True)

    benchmark.pedantic(convert, setup=forget, rounds=3, iterations=1, warmup_rounds=1)
    add_facts(benchmark, npz_source)


def test_conversion_decompression_alone(benchmark, npz_source: Path) -> None:
    """The limit: reading the source by NumPy in one process, and doing nothing with it."""
    benchmark.extra_info["peer"] = True

    def read() -> None:
        for file in npz_source.glob("*/*.npz"):
            with np.load(file) as content:
                for name in content.files:
                    content[name]

    benchmark.pedantic(read, rounds=3, iterations=1, warmup_rounds=1)
    add_facts(benchmark, npz_source)


@pytest.fixture(scope="module")
def chunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 episodes of MetaWorld's tasks, as MT80 has them."""
    path, episodes, rows = tmp_path_factory.mktemp("mt80") / "chunk_0.pt", 20_000, 101
    generator = torch.Generator().manual_seed(0)
    columns = {
        "obs": torch.rand(episodes, rows, 39, generator=generator),
        "action": 2 * torch.rand(episodes, rows, 6, generator=generator) - 1,
        "reward": torch.rand(episodes, rows, generator=generator),
        "task": (30 + torch.arange(episodes, dtype=torch.int32) % 50)[:, None].repeat(1, rows),
    }
    columns["action"][..., 4:] = 0
    columns["action"][:, 0] = columns["reward"][:, 0] = float("nan")
    torch.save(columns, path)
    return path


@pytest.mark.benchmark(timer=time.process_time)
def test_conversion_tdmpc2(benchmark, chunk: Path, tmp_path: Path) -> None:
    """In one process, in seconds of the processor; and the most memory of a process that does nothing else."""

    def forget() -> None:
        shutil.rmtree(tmp_path / "store", ignore_errors=True)

    def convert() -> None:
        from_tdmpc2(chunk, tmp_path / "store", tasks_of("mt50"))

    benchmark.pedantic(convert, setup=forget, rounds=3, iterations=1, warmup_rounds=1)
    store = EpisodeStore.open(tmp_path / "store")
    columns = torch.load(chunk)
    for index in (0, 7, 19_999):
        episode = store.episode(index)
        np.testing.assert_array_equal(episode.observations, columns["obs"][index])
        np.testing.assert_array_equal(episode.actions, columns["action"][index, 1:, :4])
        np.testing.assert_array_equal(episode.rewards, columns["reward"][index, 1:])
    add_facts(benchmark, chunk)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(chunk), str(tmp_path / "again")], capture_output=True, check=True
    )
    benchmark.extra_info["most_memory_mib"] = int(done.stdout) // 1024


@pytest.mark.benchmark(timer=time.process_time)
def test_conversion_tdmpc2_reading_alone(benchmark, chunk: Path) -> None:
    """The limit: torch.load into memory, and doing nothing with it."""
    benchmark.extra_info["peer"] = True
    benchmark.pedantic(lambda: torch.load(chunk), rounds=3, iterations=1, warmup_rounds=1)
    add_facts(benchmark, chunk)
