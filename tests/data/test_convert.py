"""Conversion of the field's datasets: exact transitions, hostile files refused, interrupted runs continued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from store_builders import transitions

from goskill.data import ContextSampler, EpisodeStore
from goskill.data.convert import copying, from_npz
from goskill.envs import jobs
from goskill.errors import InputError, StoreError, WorkerDied


def save_prompts(path: Path, episodes: list[dict[str, np.ndarray]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.empty(len(episodes), dtype=object)
    array[:] = episodes
    np.save(path, array, allow_pickle=True)


def build(root: Path, layout: str, tasks: list[str], count: int, length: int = 6) -> dict[str, list[dict]]:
    """A small dataset in one of the layouts, and what it holds."""
    generator = np.random.default_rng(0)
    data: dict[str, list[dict]] = {}
    for task in tasks:
        data[task] = [
            transitions(generator, length, np.float64 if i % 2 else np.float32) for i in range(count)
        ]
        if layout == "mtdiff":
            folder = root / task / "sac" / "dataset"
            folder.mkdir(parents=True)
            for i in range(0, count, 2):
                pair = data[task][i : i + 2]
                joined = {name: np.concatenate([part[name] for part in pair]) for name in pair[0]}
                joined["terminals"][[j * length + length - 1 for j in range(len(pair))]] = 1
                np.savez_compressed(folder / f"{i}.npz", **joined, task=np.array(task))
            save_prompts(root / "metaworld_prompts" / f"{task}_prompt.npy", data[task][-2:])
            continue
        folder = root / "metaworld" / task if layout == "goskill" else root / task
        folder.mkdir(parents=True)
        for i, episode in enumerate(data[task]):
            np.savez(folder / f"{i}.npz", **episode)
        if layout == "goskill":
            for quality in ("expert", "medium"):
                save_prompts(root / "metaworld" / "prompt" / f"{task}-prompt-{quality}.npy", data[task][-2:])
    return data


def assert_holds(store: EpisodeStore, data: dict[str, list[dict]]) -> None:
    for task, episodes in data.items():
        chosen = np.flatnonzero(store.episode_task == store.task_index(task.removesuffix("-v2")))
        assert len(chosen) == len(episodes)
        for index, expected in zip(chosen, episodes, strict=True):
            episode = store.episode(int(index))
            np.testing.assert_array_equal(
                episode.observations[:-1], expected["observations"].astype(np.float32)
            )
            np.testing.assert_array_equal(
                episode.observations[1:], expected["next_observations"].astype(np.float32)
            )
            np.testing.assert_array_equal(episode.actions, expected["actions"].astype(np.float32))
            np.testing.assert_array_equal(episode.rewards, expected["rewards"].reshape(-1).astype(np.float32))


@pytest.mark.parametrize("layout", ["goskill", "mtdiff", "harmodt"])
def test_every_layout_is_converted_exactly(tmp_path: Path, layout: str) -> None:
    data = build(tmp_path / "source", layout, ["reach-v2", "push-v2"], 12)
    seen = []
    report = from_npz(
        layout, tmp_path / "source", tmp_path / "store", progress=lambda *done: seen.append(done)
    )
    store = EpisodeStore.open(tmp_path / "store")
    store.verify()
    assert_holds(store, data)
    assert store.tasks == ["push", "reach"]
    assert report.episodes == 24
    outside = [(np.abs(one["actions"]) > 1).any(axis=1).sum() for task in data.values() for one in task]
    assert report.actions_outside == sum(outside) > 0
    assert report.fewer_episodes == {"reach": 12, "push": 12}
    assert seen[-1][0] == seen[-1][1]
    if layout != "harmodt":
        assert report.prompt_episodes == {"push": [10, 11], "reach": [22, 23]}
        assert EpisodeStore.open(tmp_path / "store" / "prompts").num_episodes == 4


def test_the_prompts_of_a_report_are_what_a_sampler_draws_from(tmp_path: Path) -> None:
    data = build(tmp_path / "source", "goskill", ["reach", "push"], 6)
    report = from_npz("goskill", tmp_path / "source", tmp_path / "store")
    store = EpisodeStore.open(tmp_path / "store")
    sampler = ContextSampler(store, 2, 3, 3, 64, prompt_episodes=report.prompt_episodes)
    batch = next(sampler)
    for task, episodes in data.items():
        drawn = batch["prompt_observations"][batch["task"] == store.task_index(task)].numpy()
        prompts = [np.asarray(episode["observations"], np.float32)[::2] for episode in episodes[-2:]]
        assert {one.tobytes() for one in drawn} == {prompt.tobytes() for prompt in prompts}


@pytest.mark.parametrize("layout", ["goskill", "mtdiff", "harmodt"])
def test_only_the_tasks_asked_for_are_converted(tmp_path: Path, layout: str) -> None:
    data = build(tmp_path / "source", layout, ["reach-v2", "push-v2", "door-open-v2"], 4)
    report = from_npz(layout, tmp_path / "source", tmp_path / "store", tasks=["reach", "push-v2"])
    store = EpisodeStore.open(tmp_path / "store")
    assert store.tasks == ["push", "reach"]
    assert_holds(store, {task: data[task] for task in ("reach-v2", "push-v2")})
    assert set(report.prompt_episodes) == (set() if layout == "harmodt" else {"push", "reach"})
    with pytest.raises(StoreError, match="tasks"):
        from_npz(layout, tmp_path / "source", tmp_path / "store")
    with pytest.raises(
        InputError, match=r"has no episodes of door-opn, sweep \(door-opn: did you mean 'door-open'"
    ):
        from_npz(layout, tmp_path / "source", tmp_path / "other", tasks=["sweep", "door-opn", "push"])
    assert not (tmp_path / "other").exists()


@pytest.fixture
def processes_at_once(monkeypatch) -> None:
    """Several processes read from the second part on, however little there is."""
    monkeypatch.setattr(copying, "_TRIAL", -1.0)
    monkeypatch.setattr(copying, "_WORTHWHILE", -1.0)
    monkeypatch.setattr("goskill.data.convert.npz._FILES_PER_JOB", 4)


@pytest.mark.usefixtures("processes_at_once")
def test_several_processes_write_the_same_store(tmp_path: Path) -> None:
    data = build(tmp_path / "source", "goskill", ["reach"], 20)
    from_npz("goskill", tmp_path / "source", tmp_path / "store", workers=2)
    assert_holds(EpisodeStore.open(tmp_path / "store"), data)
    from_npz("goskill", tmp_path / "source", tmp_path / "alone")
    of_several, of_one = (EpisodeStore.open(tmp_path / name) for name in ("store", "alone"))
    assert of_several.fingerprint == of_one.fingerprint
    assert of_several.statistics.to_json() == of_one.statistics.to_json()


def test_no_process_is_started_for_what_one_reads_sooner(tmp_path: Path, monkeypatch) -> None:
    data = build(tmp_path / "source", "goskill", ["reach"], 20)
    monkeypatch.setattr(copying, "in_order", None)
    monkeypatch.setattr(copying, "_WORTHWHILE", float("inf"))
    from_npz("goskill", tmp_path / "source", tmp_path / "store", workers=2)
    assert_holds(EpisodeStore.open(tmp_path / "store"), data)


@pytest.mark.usefixtures("processes_at_once")
def test_large_files_are_read_one_at_a_time(tmp_path: Path, monkeypatch) -> None:
    """What processes have read waits in memory, however large the source is."""
    build(tmp_path / "source", "goskill", ["reach"], 8)
    monkeypatch.setattr("goskill.data.convert.npz._JOB_BYTES", 1000)
    given, give = [], copying.in_order

    def remember(jobs: list[list], *arguments: object) -> Iterator:
        given.extend(jobs)
        return give(jobs, *arguments)

    monkeypatch.setattr(copying, "in_order", remember)
    from_npz("goskill", tmp_path / "source", tmp_path / "store", workers=2)
    assert [len(job) for job in given] == [1] * 7  # the first file was read before


@pytest.mark.usefixtures("processes_at_once")
def test_a_killed_process_is_named_and_calling_again_goes_on(tmp_path: Path, monkeypatch) -> None:
    data = build(tmp_path / "source", "goskill", ["reach"], 40)
    started, start = [], jobs.WorkerProcess

    def remember(*arguments: object) -> jobs.WorkerProcess:
        started.append(start(*arguments))
        return started[-1]

    def shoot(done: int, _: int) -> None:
        if done == 2:  # the first that a process read
            for process in started:
                os.kill(process.pid, signal.SIGKILL)

    monkeypatch.setattr(jobs, "WorkerProcess", remember)
    monkeypatch.setattr(jobs, "_AHEAD", 1)  # or one process may have done everything by then
    with pytest.raises(WorkerDied, match=r"reading worker [01] .*SIGKILL"):
        from_npz("goskill", tmp_path / "source", tmp_path / "store", workers=2, progress=shoot)
    from_npz("goskill", tmp_path / "source", tmp_path / "store", workers=2)
    assert_holds(EpisodeStore.open(tmp_path / "store"), data)


@pytest.mark.usefixtures("processes_at_once")
def test_a_damaged_file_is_named_by_several_processes_as_well(tmp_path: Path) -> None:
    build(tmp_path / "source", "goskill", ["reach"], 20)
    damaged = tmp_path / "source" / "metaworld" / "reach" / "17.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"17\.npz: cannot be read"):
        from_npz("goskill", tmp_path / "source", tmp_path / "store", workers=2)


def test_only_the_first_episodes_of_a_quality_are_taken(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("goskill.data.convert.npz._limit", lambda layout, quality: 5)
    data = build(tmp_path / "source", "mtdiff", ["reach"], 8)
    from_npz("mtdiff", tmp_path / "source", tmp_path / "store", quality="sub-optimal")
    assert_holds(EpisodeStore.open(tmp_path / "store"), {"reach": data["reach"][:5]})


@pytest.mark.parametrize(("room", "lengths"), [(1, [5]), (2, [5, 2, 3]), (3, [5, 2, 3, 4, 1])])
def test_episodes_that_are_cut_count_once_and_are_taken_whole(
    tmp_path: Path, monkeypatch, room: int, lengths: list[int]
) -> None:
    """One file of one episode, another of three, of which the second and the third are cut: 5, 2 + 3, 4 + 1, 3 + 3."""
    monkeypatch.setattr("goskill.data.convert.npz._limit", lambda layout, quality: room)
    generator = np.random.default_rng(0)
    episodes = [transitions(generator, length) for length in (5, 5, 5, 6)]
    for episode, cut in zip(episodes[1:], (1, 3, 2), strict=True):
        episode["next_observations"][cut] += 1
    folder = tmp_path / "source" / "reach" / "sac" / "dataset"
    folder.mkdir(parents=True)
    for episode in episodes:
        episode["terminals"][-1] = 1
    np.savez(folder / "0.npz", **episodes[0])
    np.savez(
        folder / "1.npz",
        **{name: np.concatenate([one[name] for one in episodes[1:]]) for name in episodes[0]},
    )
    report = from_npz("mtdiff", tmp_path / "source", tmp_path / "store")
    store = EpisodeStore.open(tmp_path / "store")
    assert store.episode_length.tolist() == lengths
    rewards = np.concatenate([store.episode(i).rewards for i in range(len(store))])
    np.testing.assert_array_equal(rewards, np.concatenate([one["rewards"] for one in episodes[:room]])[:, 0])
    assert report.fewer_episodes == {}


def test_files_that_nothing_was_taken_from_are_not_reported(tmp_path: Path, monkeypatch) -> None:
    """One file of two episodes, then one that was cut, and one whose last step is lost."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "source" / "reach" / "sac" / "dataset"
    folder.mkdir(parents=True)
    pair = [transitions(generator, 5) for _ in range(2)]
    for episode in pair:
        episode["terminals"][-1] = 1
    np.savez(folder / "0.npz", **{name: np.concatenate([one[name] for one in pair]) for name in pair[0]})
    cut, short = transitions(generator, 5), transitions(generator, 5)
    cut["next_observations"][2] += 1
    cut["terminals"][-1] = short["terminals"][-1] = 1
    np.savez(folder / "1.npz", **cut)
    del short["next_observations"]
    np.savez(folder / "2.npz", **short)
    for limit, split, shortened in ((2, 0, 0), (3, 1, 0), (4, 1, 1)):
        monkeypatch.setattr("goskill.data.convert.npz._limit", lambda *_, limit=limit: limit)
        report = from_npz("mtdiff", tmp_path / "source", tmp_path / f"store-{limit}")
        assert (len(report.split), len(report.shortened)) == (split, shortened)


def test_pieces_are_not_counted_as_episodes_that_a_task_has(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("goskill.data.convert.npz._limit", lambda layout, quality: 2)
    folder = tmp_path / "source" / "reach"
    folder.mkdir(parents=True)
    episode = transitions(np.random.default_rng(0), 9)
    episode["next_observations"][3] += 1
    np.savez(folder / "0.npz", **episode)
    for _ in range(2):  # a finished conversion says the same
        assert from_npz("harmodt", tmp_path / "source", tmp_path / "store").fewer_episodes == {"reach": 1}


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_an_interrupted_conversion_goes_on_without_loss_or_repetition(
    tmp_path: Path, monkeypatch, stop: int
) -> None:
    monkeypatch.setattr("goskill.data.convert.copying._SHARD_STEPS", 15)
    data = build(tmp_path / "source", "goskill", ["reach"], 12)

    def interrupt(done: int, _: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        from_npz("goskill", tmp_path / "source", tmp_path / "store", progress=interrupt)
    assert EpisodeStore.open(tmp_path / "store").unfinished
    from_npz("goskill", tmp_path / "source", tmp_path / "store")
    from_npz("goskill", tmp_path / "source", tmp_path / "store")
    assert_holds(EpisodeStore.open(tmp_path / "store"), data)
    assert not EpisodeStore.open(tmp_path / "store").unfinished


def test_other_data_is_not_mixed_in(tmp_path: Path) -> None:
    data = build(tmp_path / "source", "goskill", ["reach", "push"], 2)
    from_npz("goskill", tmp_path / "source", tmp_path / "store", tasks=["reach"])
    for other in ({"tasks": ["reach"], "quality": "sub-optimal"}, {"tasks": ["push"]}, {}):
        with pytest.raises(StoreError, match="other data"):
            from_npz("goskill", tmp_path / "source", tmp_path / "store", **other)
    assert EpisodeStore.open(tmp_path / "store").tasks == ["reach"]
    assert_holds(EpisodeStore.open(tmp_path / "store"), {"reach": data["reach"]})


def test_an_episode_whose_next_observations_jump_is_cut_and_reported(tmp_path: Path) -> None:
    folder = tmp_path / "source" / "reach"
    folder.mkdir(parents=True)
    episode = transitions(np.random.default_rng(0), 9)
    episode["next_observations"][3] += 1
    np.savez(folder / "0.npz", **episode)
    report = from_npz("harmodt", tmp_path / "source", tmp_path / "store")
    store = EpisodeStore.open(tmp_path / "store")
    assert store.episode_length.tolist() == [4, 5]
    observed = np.concatenate([store.episode(i).observations[1:] for i in range(2)])
    np.testing.assert_array_equal(observed, episode["next_observations"])
    assert len(report.split) == 1


def test_oddities_are_reported(tmp_path: Path) -> None:
    folder = tmp_path / "source" / "metaworld" / "reach"
    folder.mkdir(parents=True)
    episode = transitions(np.random.default_rng(0), 4)
    for name in ("observations", "next_observations"):
        episode[name][:, 2] = 0.25
    for i in range(2):
        np.savez(folder / f"{i}.npz", **episode)
    report = from_npz("goskill", tmp_path / "source", tmp_path / "store")
    assert report.constant_dimensions == [2]
    assert report.missing_prompts == ["reach"]
    assert [Path(name).name for name in report.duplicates] == ["1.npz"]


@pytest.mark.parametrize(
    "change",
    [
        {"actions": None},
        {"actions": np.zeros((3, 2))},
        {"observations": np.zeros(4)},
        {"rewards": np.array(["a"] * 4)},
        {"rewards": np.array([{}] * 4, dtype=object)},
        {"rewards": np.full(4, np.nan)},
        {"actions": np.full((4, 2), 1e300)},
        {"next_observations": np.zeros((4, 6))},
        {"actions": np.zeros((4, 0))},
        {"observations": np.zeros((4, 0)), "next_observations": np.zeros((4, 0))},
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path: Path, change: dict) -> None:
    folder = tmp_path / "source" / "reach"
    folder.mkdir(parents=True)
    np.savez(folder / "0.npz", **transitions(np.random.default_rng(0), 4))
    wrong = {**transitions(np.random.default_rng(0), 4), **change}
    np.savez(folder / "1.npz", **{name: value for name, value in wrong.items() if value is not None})
    with pytest.raises(StoreError, match=r"1\.npz"):
        from_npz("harmodt", tmp_path / "source", tmp_path / "store")


@pytest.mark.parametrize(
    ("name", "value", "expected", "got"),
    [
        ("actions", np.zeros((3, 2)), "[4, any]", "dtype float64 and shape [3, 2]"),
        ("observations", np.zeros(4), "[any, any]", "dtype float64 and shape [4]"),
        ("rewards", np.array(["a"] * 4), "[4]", "dtype <U1 and shape [4]"),
        ("terminals", np.zeros(2), "[4]", "dtype float64 and shape [2]"),
        ("next_observations", np.zeros((4, 6)), "[4, 5]", "dtype float64 and shape [4, 6]"),
    ],
)
def test_messages_say_once_where_and_what_was_expected(
    tmp_path: Path, name: str, value: np.ndarray, expected: str, got: str
) -> None:
    folder = tmp_path / "source" / "reach"
    folder.mkdir(parents=True)
    np.savez(folder / "0.npz", **{**transitions(np.random.default_rng(0), 4), name: value})
    with pytest.raises(StoreError) as raised:
        from_npz("harmodt", tmp_path / "source", tmp_path / "store")
    wanted = f"column {name!r}: expected numbers of shape {expected}, got {got}"
    assert str(raised.value) == f"{folder / '0.npz'}: {wanted}"


def test_damaged_archives_are_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "source" / "reach"
    folder.mkdir(parents=True)
    np.savez_compressed(folder / "0.npz", **transitions(np.random.default_rng(0), 40))
    content = (folder / "0.npz").read_bytes()
    for damaged in (b"", b"PK", content[: len(content) // 2], content[:300] + b"\xff" * 40 + content[340:]):
        (folder / "0.npz").write_bytes(damaged)
        with pytest.raises(StoreError, match=r"0\.npz"):
            from_npz("harmodt", tmp_path / "source", tmp_path / "store")


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="layout"):
        from_npz("other", tmp_path, tmp_path / "store")
    with pytest.raises(InputError, match="quality"):
        from_npz("goskill", tmp_path, tmp_path / "store", quality="best")
    with pytest.raises(StoreError, match="no task folders"):
        from_npz("goskill", tmp_path, tmp_path / "store")


def test_missing_packages_are_named() -> None:
    code = "import sys; sys.modules['h5py'] = None; from goskill.data.convert import from_hdf5; from_hdf5('a', 'b')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install h5py" in done.stderr


def test_processes_that_read_episodes_need_no_torch() -> None:
    code = "import sys; import goskill.data.convert.copying; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
