"""Tries an installed wheel, from a folder without goskill's source.

Always: the modules that a wheel holds; a store written, labelled, read and sampled, and nearest codes, beside NumPy,
with every instruction set of this processor. With torch: an operation, and the program's own report.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import goskill
from goskill import _core
from goskill.data import EpisodeStore, StoreWriter


def try_store(folder: Path) -> None:
    """Episodes and labels come back as they went in, and segments are windows of them."""
    rng = np.random.default_rng(0)
    episodes = [(rng.normal(size=(n + 1, 3)).astype(np.float32), rng.random((n, 2))) for n in (7, 40, 1)]
    with StoreWriter(folder, observation_dim=3, action_dim=2, tasks=["one"]) as writer:
        for observations, actions in episodes:
            writer.append(task="one", observations=observations, actions=actions, rewards=actions[:, 0])
    store = EpisodeStore.open(folder)
    for index, (observations, actions) in enumerate(episodes):
        np.testing.assert_array_equal(store.episode(index).observations, observations)
        np.testing.assert_array_equal(store.episode(index).actions, actions.astype(np.float32))
    labels = rng.integers(0, 5, store.num_steps)
    store.write_labels("skills", labels, 5)
    np.testing.assert_array_equal(store.labels("skills"), labels)
    store.verify()

    sampler = _core.SegmentSampler(
        store=store.native,
        labels=store.label_column("skills"),
        horizon=4,
        balance="transition",
        episodes=None,
        task_weights=[],
        episode_weights=[],
        samples_per_task=1,
        mean=None,
        std=None,
        seed=1,
        threads=2,
    )
    batch = {
        "observations": np.empty((64, 5, 3), np.float32),
        "actions": np.empty((64, 4, 2), np.float32),
        "mask": np.empty((64, 4), np.bool_),
        **{name: np.empty(64, np.int64) for name in ("start", "episode", "task", "skill")},
    }
    sampler.fill(0, 64, 0, batch)
    for row, (index, start) in enumerate(zip(batch["episode"], batch["start"], strict=True)):
        observations, actions = episodes[index]
        real = min(4, len(actions) - start)
        np.testing.assert_array_equal(batch["observations"][row, :real], observations[start : start + real])
        np.testing.assert_array_equal(batch["mask"][row], np.arange(4) < real)
        assert batch["skill"][row] == labels[store.episode_start[index] + start]


def try_nearest_code() -> None:
    """The codes of the least distances, for rows and codes around the widths of vectors."""
    rng = np.random.default_rng(1)
    for rows, dim, codes in ((1, 1, 1), (97, 7, 17), (1000, 64, 16)):
        x, codebook = (rng.normal(size=(n, dim)).astype(np.float32) for n in (rows, codes))
        indices, distance = np.empty(rows, np.int64), np.empty(rows, np.float32)
        addresses = {
            name: array.ctypes.data
            for name, array in (
                ("x", x),
                ("codebook", codebook),
                ("indices", indices),
                ("distance", distance),
            )
        }
        _core.nearest_code(
            **addresses,
            dtype=0,
            count=rows,
            dim=dim,
            row_stride=dim,
            column_stride=1,
            codes=codes,
            cosine=False,
            threads=2,
        )
        exact = np.square(x[:, None].astype(np.float64) - codebook).sum(-1)
        np.testing.assert_allclose(exact[np.arange(rows), indices], exact.min(1), atol=1e-4)
        np.testing.assert_allclose(distance, exact.min(1), atol=1e-4)


def try_native_core() -> None:
    with tempfile.TemporaryDirectory() as folder:
        try_store(Path(folder) / "store")
    try_nearest_code()


def main() -> None:
    package = Path(goskill.__file__).parent
    assert (package / "py.typed").exists()
    assert (package / "kernels" / "__init__.py").exists()
    assert (package / "bench" / "__init__.py").exists()
    tried = []
    for name in ("baseline", "avx2", "avx512"):
        command = [sys.executable, __file__, "native-core"]
        process = subprocess.run(
            command, env={**os.environ, "GOSKILL_CPU": name}, capture_output=True, text=True
        )
        if process.returncode and "GOSKILL_CPU must be" not in process.stderr:
            sys.exit(process.stderr)
        tried += [] if process.returncode else [name]
    assert "baseline" in tried
    if importlib.util.find_spec("torch") is not None:
        import torch

        from goskill import ops

        x, codebook = torch.randn(50, 8), torch.randn(5, 8)
        assert torch.equal(ops.nearest_code(x, codebook), torch.cdist(x, codebook).argmin(1))
        subprocess.run([str(Path(sys.executable).with_name("goskill")), "doctor"], check=True)
        tried += ["torch", "goskill doctor"]
    print(f"{sys.version.split()[0]}: {', '.join(tried)}: as expected")


if __name__ == "__main__":
    try_native_core() if "native-core" in sys.argv else main()
