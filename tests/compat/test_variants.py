"""Prompt-DT's and HarmoDT's batches against plain loops over windows, which say themselves where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from goskill.compat.prompt_dt import from_store, get_prompt_batch
from goskill.data import EpisodeStore, StoreWriter
from goskill.errors import InputError

TASKS = ["a", "b", "c"]
VARIANT = {
    "batch_size": 6,
    "K": 7,
    "prompt_episode": 2,
    "prompt_length": 5,
    "stochastic_prompt": True,
    "no_state_normalize": True,
    "no_r": False,
    "no_rtg": False,
}
NAMES = ["observations", "actions", "rewards", "terminals", "returns_to_go", "timesteps", "mask"]
DTYPES = [torch.float32, torch.float32, torch.float32, torch.int64, torch.float32, torch.int64, torch.float64]


def build(lengths: tuple[int, ...] = (3, 5, 12, 40)) -> tuple[list, dict]:
    """Trajectories whose states hold their task, their number, the step, and something random."""
    generator = np.random.default_rng(0)
    trajectories, info = [], {}
    for index, task in enumerate(TASKS):
        of_task = []
        for number, length in enumerate(lengths):
            steps = np.arange(length)
            told = np.stack([np.full(length, index), np.full(length, number), steps], axis=1)
            rewards = generator.random((length, 1)).astype(np.float32)
            ends = "terminals" if index else "dones"
            of_task.append(
                {
                    "observations": np.hstack([told, generator.random((length, 3))]).astype(np.float32),
                    "actions": generator.random((length, 2)).astype(np.float32),
                    "rewards": rewards,
                    ends: steps == length - 1,
                }
            )
        trajectories.append(of_task)
        order = np.argsort([float(t["rewards"].sum()) for t in of_task])
        info[task] = {
            "num_trajectories": len(order),
            "sorted_inds": order,
            "p_sample": np.array(lengths)[order] / sum(lengths),
            "max_ep_len": 30,
            "state_mean": np.full(6, index - 0.5),
            "state_std": np.full(6, index + 1.5),
            "scale": 50.0,
            "device": "cpu",
        }
    return trajectories, info


def window(data: dict, info: dict, start: int, length: int) -> list[np.ndarray]:
    total = len(data["rewards"])
    steps = list(range(start, min(start + length, total)))
    rows: dict[str, Any] = {
        "observations": np.zeros((length, 6)),
        "actions": np.full((length, 2), -10.0),
        "rewards": np.zeros((length, 1)),
        "terminals": np.full(length, 2),
        "returns_to_go": np.zeros((length + 1, 1)),
        "timesteps": np.zeros(length, int),
        "mask": np.zeros(length),
    }
    for row, step in enumerate(steps, length - len(steps)):
        for name in ("observations", "actions", "rewards"):
            rows[name][row] = data[name][step]
        rows["terminals"][row] = data["terminals" if "terminals" in data else "dones"][step]
        rows["timesteps"][row] = min(step, info["max_ep_len"] - 1)
        rows["mask"][row] = 1
    for row, step in enumerate([*steps, steps[-1] + 1], length - len(steps)):
        rows["returns_to_go"][row] = data["rewards"][step:].astype(np.float64).sum() / info["scale"]
    return [rows[name] for name in NAMES]


def expected(tensors: tuple, trajectories: list, info: dict, length: int, prompts: bool) -> list[np.ndarray]:
    """The same windows, from the places that the states of the first real row of each tell."""
    samples = []
    for states, mask in zip(tensors[0].numpy(), tensors[-1].numpy(), strict=True):
        parts = []
        for begin in range(0, len(states), length):
            first = begin + int(np.argmax(mask[begin : begin + length]))
            task, number, start = (int(value) for value in states[first, :3])
            data = trajectories[task][number]
            if prompts:
                assert start == max(len(data["rewards"]) - length - 1, 0)
            parts.append(window(data, info[TASKS[task]], start, length))
            if prompts:
                parts[-1][4] = parts[-1][4][:-1]
        samples.append([np.concatenate(column) for column in zip(*parts, strict=True)])
    return [np.stack(column) for column in zip(*samples, strict=True)]


def assert_equal(tensors: tuple, arrays: list[np.ndarray], dtypes: list[torch.dtype] = DTYPES) -> None:
    for name, tensor, array, dtype in zip(NAMES, tensors, arrays, dtypes, strict=True):
        assert tensor.dtype == dtype, name
        np.testing.assert_allclose(tensor.numpy(), array, rtol=1e-6, atol=1e-6, err_msg=name)


def test_prompt_dt_code_gets_its_windows_of_all_tasks() -> None:
    trajectories, info = build()
    draw = get_prompt_batch(trajectories, [], info, VARIANT, TASKS)
    np.random.seed(0)
    starts = set()
    for _ in range(20):
        prompt, batch = draw()
        assert_equal(batch, expected(batch, trajectories, info, 7, prompts=False))
        assert_equal(prompt, expected(prompt, trajectories, info, 5, prompts=True))
        assert batch[0].shape == (18, 7, 6)
        assert batch[4].shape == (18, 8, 1)
        assert prompt[0].shape == (18, 10, 6)
        real = batch[-1].numpy().argmax(axis=1)
        first = batch[0].numpy()[np.arange(18), real]
        assert first[:, 0].tolist() == np.repeat(np.arange(3), 6).tolist()
        starts |= {tuple(row) for row in first[:, 1:3].tolist()}
    assert (3.0, 39.0) in starts or (3.0, 38.0) in starts  # windows may begin at the last steps
    assert {number for number, _ in starts} == {0.0, 1.0, 2.0, 3.0}
    assert draw(batch_size=2)[1][0].shape == (6, 7, 6)


def test_harmodt_code_gets_its_windows_of_one_task() -> None:
    trajectories, info = build()
    prompts, prompt_info = build((20, 9))
    draw = get_prompt_batch(trajectories, prompts, info, prompt_info, VARIANT, TASKS)
    prompt, batch = draw(4, index="b")
    assert batch[-1] == "b"
    assert_equal(batch[:-1], expected(batch[:-1], trajectories, info, 7, prompts=False))
    assert (batch[0][:, -1, 0] == 1).all()
    dtypes = [torch.float32] * 6 + [torch.float64]
    assert_equal(prompt, expected(prompt, prompts, prompt_info, 5, prompts=True), dtypes)
    with pytest.raises(InputError, match="index: expected the name of a task, got 'd'"):
        draw(4, index="d")


def test_states_are_normalised_as_asked_padding_included() -> None:
    trajectories, info = build()
    np.random.seed(1)
    prompt, batch = get_prompt_batch(trajectories, None, info, VARIANT, TASKS)()
    np.random.seed(1)
    settings = {**VARIANT, "no_state_normalize": False, "no_r": True, "no_rtg": True}
    ours_prompt, ours = get_prompt_batch(
        trajectories, None, info, variant=settings, train_env_name_list=TASKS
    )()
    mean, std = (
        np.stack([info[task][name] for task in TASKS for _ in range(6)])[:, None]
        for name in ("state_mean", "state_std")
    )
    for raw, normalised in ((batch, ours), (prompt, ours_prompt)):
        np.testing.assert_allclose(normalised[0], (raw[0].numpy() - mean) / std, rtol=1e-5, atol=1e-6)
    assert not ours[2].any()
    assert not ours[4].any()
    assert ours_prompt[4].any()


def test_the_best_demonstrations_are_counted_from_the_end_as_there() -> None:
    trajectories, info = build((20, 20, 20))
    draw = get_prompt_batch(trajectories, None, info, {**VARIANT, "stochastic_prompt": False}, TASKS)
    prompt, _ = draw(1)
    for task, states in enumerate(prompt[0].numpy()):
        order = info[TASKS[task]]["sorted_inds"]
        assert states[[0, 5], 1].tolist() == [order[0], order[-1]]


def test_a_store_serves_every_kind_of_code(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    with StoreWriter(tmp_path / "store", 6, 2, TASKS) as writer:
        for i in range(12):
            length = int(generator.integers(1, 40))
            writer.append(
                task=TASKS[i % 3],
                observations=generator.standard_normal((length + 1, 6)),
                actions=generator.standard_normal((length, 2)),
                rewards=generator.random(length),
            )
    trajectories, prompts, info, tasks = from_store(EpisodeStore.open(tmp_path / "store"))
    for task, of_task in zip(tasks, trajectories, strict=True):
        returns = [float(trajectory["rewards"].sum()) for trajectory in of_task]
        assert returns == sorted(returns)
        lengths = np.array([len(trajectory["rewards"]) for trajectory in of_task])
        np.testing.assert_allclose(info[task]["p_sample"], lengths / lengths.sum())
    prompt, batch = get_prompt_batch(trajectories, prompts, info, VARIANT, tasks)()
    assert prompt[0].shape == (18, 10, 6)
    assert batch[0].shape == (18, 7, 6)
    prompt, batch = get_prompt_batch(trajectories, None, info, info, VARIANT, tasks)(index="c")
    assert batch[0].shape == (6, 7, 6)


def test_missing_settings_are_refused_by_name() -> None:
    trajectories, info = build()
    settings = {name: value for name, value in VARIANT.items() if name != "K"}
    with pytest.raises(InputError, match="variant: expected the setting 'K'"):
        get_prompt_batch(trajectories, None, info, settings, TASKS)
