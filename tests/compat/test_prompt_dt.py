"""The Prompt-DT stand-ins against plain per-window loops with the same random choices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from goskill.compat.prompt_dt import from_store, get_batch_for_skill, get_prompt_batch
from goskill.data import EpisodeStore, StoreWriter
from goskill.errors import InputError

TASKS = ["a", "b", "c"]
KEYS = [
    "observations",
    "next_observations",
    "actions",
    "rewards",
    "terminals",
    "return_to_gos",
    "timesteps",
    "skills",
]


def build() -> tuple[list, list, dict]:
    """Trajectories as that code holds them, prompts and info."""
    generator = np.random.default_rng(0)
    trajectories, info = [], {}
    for index, task in enumerate(TASKS):
        lengths = generator.integers(30, 60, 5 + index)
        trajectories.append([trajectory(generator, int(length)) for length in lengths])
        info[task] = {
            "num_trajectories": len(lengths),
            "p_sample": lengths / lengths.sum(),
            "sorted_inds": np.argsort([t["rewards"].sum() for t in trajectories[-1]]),
            "max_ep_len": 60,
            "state_mean": generator.standard_normal(6),
            "state_std": generator.random(6) + 0.5,
            "scale": 100.0,
            "device": "cpu",
            "task_idx": index,
        }
    prompts = [[trajectory(generator, 40) for _ in range(3)] for _ in TASKS]
    return trajectories, prompts, info


def trajectory(generator: np.random.Generator, length: int) -> dict[str, np.ndarray]:
    rewards = generator.random((length, 1)).astype(np.float32)
    return {
        "observations": generator.standard_normal((length, 6)).astype(np.float32),
        "next_observations": generator.standard_normal((length, 6)),
        "actions": generator.standard_normal((length, 2)).astype(np.float32),
        "rewards": rewards,
        "terminals": np.zeros((length, 1)),
        "rtgs": rewards[::-1].cumsum()[::-1].astype(np.float32),
        "skills": generator.integers(0, 16, length),
    }


def window(data: dict, info: dict, start: int, length: int, interval: int) -> dict[str, np.ndarray]:
    """One window of rows start, start + interval, …; those outside the trajectory are padding."""
    total = len(data["rewards"])
    mean, std = info["state_mean"].astype(np.float32), info["state_std"].astype(np.float32)
    rows = {
        "observations": np.zeros((length, 6), np.float32),
        "next_observations": np.zeros((length, 6), np.float32),
        "actions": np.zeros((length, 2), np.float32),
        "rewards": np.zeros((length, 1), np.float32),
        "terminals": np.full(length, 2),
        "return_to_gos": np.zeros((length, 1), np.float32),
        "timesteps": np.zeros(length, np.int64),
        "skills": np.zeros(length, np.int64),
        "mask": np.zeros(length, np.float32),
    }
    last = None
    for k in range(length):
        t = start + k * interval
        if not 0 <= t < total:
            continue
        last = (data["next_observations"][min(t + interval - 1, total - 1)].astype(np.float32) - mean) / std
        rows["observations"][k] = (data["observations"][t] - mean) / std
        rows["next_observations"][k] = last
        rows["actions"][k] = data["actions"][t]
        rows["rewards"][k] = data["rewards"][t]
        rows["terminals"][k] = data["terminals"][t, 0]
        rows["return_to_gos"][k] = data["rtgs"][t] / np.float32(info["scale"])
        rows["timesteps"][k] = t // interval
        rows["skills"][k] = data["skills"][t]
        rows["mask"][k] = 1
    if last is not None and start + (length - 1) * interval >= total:
        rows["next_observations"][-1] = last
    return rows


def assert_batch(batch: list[torch.Tensor], expected: list[dict[str, np.ndarray]]) -> None:
    for tensor, name in zip(batch, [*KEYS, "mask"], strict=True):
        value = np.stack([row[name] for row in expected])
        assert tensor.dtype == (torch.int64 if value.dtype.kind == "i" else torch.float32), name
        np.testing.assert_array_equal(tensor.numpy(), value, err_msg=name)


@pytest.mark.parametrize(
    ("length", "interval", "l_blank", "r_blank", "skip"),
    [(20, 1, 19, 0, 1), (4, 10, 3, 0, 1), (10, 1, 0, 9, 5)],
)
def test_batches_hold_the_windows_of_the_original(
    length: int, interval: int, l_blank: int, r_blank: int, skip: int
) -> None:
    trajectories, prompts, info = build()
    draw = get_prompt_batch(trajectories, prompts, info, TASKS, True, False, KEYS, interval)
    np.random.seed(3)
    prompt, batch = draw(8, length, 1, 2, no_prompt=True, l_blank=l_blank, r_blank=r_blank, skip_len=skip)
    assert prompt is None
    np.random.seed(3)
    chosen = [
        np.random.choice(len(t), size=8, p=info[n]["p_sample"])
        for n, t in zip(TASKS, trajectories, strict=True)
    ]
    most = [
        len(trajectories[task][i]["rewards"]) + (r_blank + 1) * interval - 1 - length * interval
        for task in range(3)
        for i in chosen[task]
    ]
    starts = np.random.randint(-l_blank * interval, np.array(most) + 1) // skip * skip
    data = [(task, trajectories[task][i]) for task in range(3) for i in chosen[task]]
    expected = [
        window(t, info[TASKS[task]], int(s), length, interval)
        for (task, t), s in zip(data, starts, strict=True)
    ]
    assert_batch(batch, expected)


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("interval", [1, 10])
def test_prompts_are_the_ends_of_demonstrations(stochastic: bool, interval: int) -> None:
    trajectories, prompts, info = build()
    for task in TASKS:
        info[task]["sorted_inds"] = np.arange(3)
    draw = get_prompt_batch(trajectories, prompts, info, TASKS, stochastic, False, KEYS, interval)
    np.random.seed(5)
    prompt, _ = draw(1, 3, 2, 6, l_blank=2)
    np.random.seed(5)
    expected = []
    for task in range(3):
        chosen = np.random.choice(3, size=2) if stochastic else [0, 2]
        points = min(6, 40 // interval)
        start = 40 - points * interval - (6 - points) * interval
        pair = [window(prompts[task][i], info[TASKS[task]], start, 6, interval) for i in chosen]
        expected.append({name: np.concatenate([part[name] for part in pair]) for name in pair[0]})
    assert prompt is not None
    assert_batch(prompt, expected)


def test_batches_by_skill_are_ordered_by_skill_and_task() -> None:
    trajectories, _, info = build()
    index = {skill: [] for skill in range(16)}
    for task, of_task in enumerate(trajectories):
        for number, data in enumerate(of_task):
            for step, skill in enumerate(data["skills"]):
                index[int(skill)].append((task, number, step))
    samples = {skill: np.array(rows) if skill != 7 and rows else None for skill, rows in index.items()}
    draw = get_batch_for_skill(trajectories, None, info, TASKS, None, False, KEYS, None, samples)
    prompt, batch = draw(10, 5, None, None, no_prompt=True, r_blank=4)
    assert prompt is None
    first = batch[KEYS.index("skills")][:, 0]
    present = [skill for skill in range(16) if samples[skill] is not None]
    assert first.tolist() == np.repeat(present, 30 // len(present)).tolist()


def test_a_store_serves_as_trajectories(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    with StoreWriter(tmp_path / "store", 6, 2, TASKS) as writer:
        for i in range(12):
            writer.append(
                task=TASKS[i % 3],
                observations=generator.standard_normal((31, 6)),
                actions=generator.standard_normal((30, 2)),
                rewards=generator.random(30),
            )
    store = EpisodeStore.open(tmp_path / "store")
    store.write_labels("skills", generator.integers(0, 4, store.num_steps), 4)
    trajectories, prompts, info, tasks = from_store(EpisodeStore.open(store.path), labels="skills")
    assert tasks == TASKS
    draw = get_prompt_batch(trajectories, prompts, info, tasks, True, False, [*KEYS, "task_index"], 10)
    prompt, batch = draw(4, 3, 1, 2, l_blank=2)
    assert prompt is not None
    assert [list(tensor.shape) for tensor in batch][:3] == [[12, 3, 6], [12, 3, 6], [12, 3, 2]]
    assert [list(tensor.shape) for tensor in prompt][:3] == [[12, 2, 6], [12, 2, 6], [12, 2, 2]]
    assert batch[-2].tolist() == prompt[-2].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_wrong_arguments_are_refused_by_name() -> None:
    trajectories, prompts, info = build()
    with pytest.raises(InputError, match="keys"):
        get_prompt_batch(trajectories, prompts, info, TASKS, True, False, ["states"])
    with pytest.raises(InputError, match="trajectories_list"):
        get_prompt_batch(trajectories[:2], prompts, info, TASKS, True, False, KEYS)
    with pytest.raises(InputError, match="max_len"):
        get_prompt_batch(trajectories, prompts, info, TASKS, True, False, KEYS)(2, 100, 1, 2)
