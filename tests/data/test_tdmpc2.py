"""TD-MPC2's chunks: every transition as it was, padding and tasks resolved, nothing run, little memory."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tdmpc2_chunks import DIMENSIONS, NAMES, episodes_of, save, save_as_published

from goskill.data import EpisodeStore
from goskill.data.convert import copying, from_tdmpc2, tdmpc2
from goskill.data.convert.torch_archive import TorchArchive
from goskill.envs import tasks_of
from goskill.errors import InputError, StoreError

TASKS = [30, 0, 79, 79, 4, 33, 15, 30]
Save = Callable[[Path, dict[str, Any]], None]


@pytest.fixture(params=["published", "tensordict"])
def saved(request) -> Save:
    """Writes a chunk."""
    if request.param == "tensordict":
        pytest.importorskip("tensordict", reason="writes chunks with the original library")
        return save
    return save_as_published


@pytest.fixture
def chunk(tmp_path: Path) -> Callable[..., Path]:
    """Writes a chunk with some columns replaced, and returns its path."""

    def write(tasks: list[int] = TASKS, name: str = "chunk_0.pt", seed: int = 0, **changes: Any) -> Path:
        (tmp_path / "mt80").mkdir(exist_ok=True)
        columns = episodes_of(tasks, seed) | changes
        kept = {key: values for key, values in columns.items() if values is not None}
        save_as_published(tmp_path / "mt80" / name, kept)
        return tmp_path / "mt80" / name

    return write


def assert_holds(
    store: EpisodeStore, columns: dict[str, np.ndarray], tasks: list[int], first: int = 0
) -> None:
    for i, task in enumerate(tasks):
        episode, (states, actions) = store.episode(first + i), DIMENSIONS[task]
        assert episode.task == NAMES[task]
        np.testing.assert_array_equal(episode.observations[:, :states], columns["obs"][i][:, :states])
        np.testing.assert_array_equal(episode.actions[:, :actions], columns["action"][i][1:, :actions])
        np.testing.assert_array_equal(episode.rewards, columns["reward"][i][1:])
        assert not episode.observations[:, states:].any()
        assert not episode.actions[:, actions:].any()
        assert episode.success is None
        assert not episode.columns["terminated"].any()
        assert np.flatnonzero(episode.columns["truncated"]).tolist() == [len(episode.rewards) - 1]


def test_every_transition_is_there(saved: Save, tmp_path: Path) -> None:
    columns = episodes_of(TASKS)
    saved(tmp_path / "chunk_0.pt", columns)
    report = from_tdmpc2(tmp_path / "chunk_0.pt", tmp_path / "store")
    store = EpisodeStore.open(tmp_path / "store")
    store.verify()
    assert (report.episodes, report.steps) == (8, 40)
    assert (store.observation_dim, store.action_dim, len(store.tasks)) == (39, 6, 80)
    assert_holds(store, columns, TASKS)
    assert store.action_repeat == 2
    (origin,) = store.provenance
    assert (origin["layout"], origin["reward_version"]) == ("tdmpc2", "v2")


def test_the_tasks_are_those_of_the_datasets() -> None:
    known = tdmpc2.known_tasks()
    assert len(known) == 80
    assert sorted(name for name, _, _ in known[30:]) == sorted(tasks_of("mt50"))
    assert {size for size in known[30:] if size[1:] != (39, 4)} == set()
    assert max(size[1] for size in known[:30]) == 24  # the width of MT30's observations
    for index, name in NAMES.items():
        assert known[index][0] == name
    known_sizes = {index: sizes for index, (_, *sizes) in enumerate(known)}
    assert {index: tuple(known_sizes[index]) for index in (0, 4, 30)} == {
        i: DIMENSIONS[i] for i in (0, 4, 30)
    }


def test_narrow_chunks_have_no_tasks_of_metaworld(chunk, tmp_path: Path) -> None:
    """MT30's rows are of DMControl's 24 observations; nothing of MetaWorld is said of them."""
    tasks = [15, 0, 4]
    columns = episodes_of(tasks, width=24)
    path = chunk(**columns)
    report = from_tdmpc2(path, tmp_path / "store")
    store = EpisodeStore.open(tmp_path / "store")
    assert (store.observation_dim, store.action_dim, len(store.tasks)) == (24, 6, 30)
    assert_holds(store, columns, tasks)
    assert "reward_version" not in store.provenance[0]
    assert report.fewer_episodes == {task: 0 for task in store.tasks if task not in {NAMES[i] for i in tasks}}
    with pytest.raises(
        InputError,
        match=r"may have, whose rows are of 24 observations and 6 actions, got 'assembly' of 39 and 4",
    ):
        from_tdmpc2(path, tmp_path / "other", tasks=["walker-stand", "assembly"])
    path = chunk(name="thin.pt", **columns | {"obs": columns["obs"][..., :2]})
    with pytest.raises(
        StoreError, match=r"thin\.pt: expected rows of some task of TD-MPC2, got 2 observations"
    ):
        from_tdmpc2(path, tmp_path / "thin")


def test_chunks_without_the_wanted_tasks_are_refused(chunk, tmp_path: Path) -> None:
    path = chunk([0, 4])
    for _ in range(2):  # nothing is taken for finished
        with pytest.raises(StoreError, match=r"chunk_0\.pt: holds no episodes of assembly"):
            from_tdmpc2(path, tmp_path / "store", tasks=["assembly"])
    report = from_tdmpc2(path, tmp_path / "other", tasks=["assembly", "reacher-easy"])
    assert report.fewer_episodes == {"assembly": 0}
    again = from_tdmpc2(path, tmp_path / "other", tasks=["assembly", "reacher-easy"])
    assert again.fewer_episodes == {"assembly": 0}


def test_some_tasks_are_as_wide_as_they_need(chunk, tmp_path: Path) -> None:
    columns = episodes_of(TASKS)
    source = chunk().parent
    from_tdmpc2(source, tmp_path / "metaworld", tasks=["assembly", "mw-hand-insert"])
    store = EpisodeStore.open(tmp_path / "metaworld")
    assert (store.observation_dim, store.action_dim, store.tasks) == (39, 4, ["assembly", "hand-insert"])
    kept = [i for i, task in enumerate(TASKS) if task in (30, 79)]
    assert_holds(store, {key: rows[kept] for key, rows in columns.items()}, [TASKS[i] for i in kept])
    from_tdmpc2(source, tmp_path / "small", tasks=["reacher-easy", "walker-stand"])
    store = EpisodeStore.open(tmp_path / "small")
    assert (store.observation_dim, store.action_dim) == (24, 6)
    assert_holds(store, {key: rows[[1, 4]] for key, rows in columns.items()}, [0, 4])
    assert "reward_version" not in store.provenance[0]
    for wrong in (["assembli"], []):
        with pytest.raises(InputError, match="tasks: expected"):
            from_tdmpc2(source, tmp_path / "none", tasks=wrong)


def test_chunks_follow_one_another_by_number(chunk, tmp_path: Path) -> None:
    for number in (10, 2, 1):
        chunk([30, 79], f"chunk_{number}.pt", number)
    from_tdmpc2(tmp_path / "mt80", tmp_path / "store", tasks=["assembly", "hand-insert"])
    store = EpisodeStore.open(tmp_path / "store")
    for place, number in enumerate((1, 2, 10)):
        assert_holds(store, episodes_of([30, 79], number), [30, 79], 2 * place)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_conversion_goes_on(chunk, tmp_path: Path, monkeypatch, workers: int) -> None:
    monkeypatch.setattr(tdmpc2, "_BYTES_PER_PART", 3 * 4 * 6 * 39)
    monkeypatch.setattr(copying, "_SHARD_STEPS", 20)
    if workers > 1:
        monkeypatch.setattr(copying, "_TRIAL", -1.0)
        monkeypatch.setattr(copying, "_WORTHWHILE", -1.0)
    for number in range(2):
        chunk(TASKS, f"chunk_{number}.pt", number)

    def interrupt(done: int, _: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        from_tdmpc2(tmp_path / "mt80", tmp_path / "store", workers=workers, progress=interrupt)
    assert EpisodeStore.open(tmp_path / "store").unfinished
    from_tdmpc2(tmp_path / "mt80", tmp_path / "store", workers=workers)
    store = EpisodeStore.open(tmp_path / "store")
    for number in range(2):
        assert_holds(store, episodes_of(TASKS, number), TASKS, 8 * number)
    chunk(TASKS, "chunk_1.pt", 5)
    with pytest.raises(StoreError, match=r"chunk_1\.pt: is not what"):
        from_tdmpc2(tmp_path / "mt80", tmp_path / "store")


def test_episodes_that_repeat_are_reported(chunk, tmp_path: Path) -> None:
    columns = episodes_of(TASKS)
    path = chunk(**{key: np.concatenate([values, values[3:4]]) for key, values in columns.items()})
    assert from_tdmpc2(path, tmp_path / "store").duplicates == [f"{path}: episode 8"]


def test_memory_does_not_grow_with_the_chunk(tmp_path: Path, monkeypatch) -> None:
    """A chunk of 47 MB in parts of half a MiB."""
    monkeypatch.setattr(tdmpc2, "_BYTES_PER_PART", 1 << 19)
    save_as_published(tmp_path / "chunk_0.pt", episodes_of([30] * 2500, rows=101))
    tdmpc2._archive.cache_clear()
    tracemalloc.start()
    try:
        from_tdmpc2(tmp_path / "chunk_0.pt", tmp_path / "store", tasks=["assembly"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert EpisodeStore.open(tmp_path / "store").num_steps == 250_000
    assert peak < 16 << 20


def changed(name: str, place: tuple, value: float) -> dict[str, np.ndarray]:
    columns = episodes_of(TASKS)
    columns[name][place] = value
    return {name: columns[name]}


FULL = episodes_of(TASKS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": None}, "expected obs, action, reward and task, got obs, action, task"),
        ({"obs": FULL["obs"][:-1]}, r"of \[episodes, steps \+ 1\], got obs \[7, 6, 39\]"),
        ({"action": FULL["action"][:, 1:]}, r"action \[8, 5, 6\]"),
        ({"task": FULL["task"][:, :3]}, r"task \[8, 3\]"),
        ({name: rows[:, :1] for name, rows in FULL.items()}, r"steps \+ 1\], got obs \[8, 1, 39\]"),
        ({name: rows[:0] for name, rows in FULL.items()}, r"steps \+ 1\], got obs \[0, 6, 39\]"),
        (changed("task", (2, 3), 31), "expected one task in an episode"),
        (changed("task", (2,), 80), "expected tasks 0 to 79, got 80"),
        (changed("task", (2,), -1), "expected tasks 0 to 79, got -1"),
        (
            changed("obs", (1, 2, 30), 0.5),
            "obs: expected 24 values for tasks such as walker-stand, and zeros behind",
        ),
        (changed("action", (0, 2, 4), np.nan), "action: expected 4 values for tasks such as assembly"),
        (changed("obs", (0, 2, 4), np.nan), "observations: expected finite values, got nan"),
        (changed("action", (0, 2, 1), np.inf), "actions: expected finite values, got inf"),
        (changed("reward", (0, 1), np.nan), "rewards: expected finite values, got nan"),
        ({"obs": torch.zeros(39, 6, 2000).permute(2, 1, 0)[:8]}, "'obs': expected rows one after another"),
    ],
)
def test_wrong_chunks_are_refused_by_name(chunk, tmp_path: Path, changes: dict, message: str) -> None:
    path = chunk(**changes)
    with pytest.raises(StoreError, match=rf"chunk_0\.pt: .*{message}"):
        from_tdmpc2(path, tmp_path / "store")


def test_tensors_that_share_or_skip_values_are_read(chunk, tmp_path: Path) -> None:
    columns = episodes_of(TASKS)
    wide = torch.zeros(8, 6, 78)
    wide[..., ::2] = torch.as_tensor(columns["obs"])
    tasks = torch.as_tensor(columns["task"][:, 0])
    path = chunk(
        obs=wide[..., ::2],
        task=tasks[:, None].expand(8, 6),
        action=torch.as_tensor(columns["action"]).double(),
    )
    from_tdmpc2(path, tmp_path / "store")
    assert_holds(EpisodeStore.open(tmp_path / "store"), columns, TASKS)
    path = chunk(name="one.pt", task=tasks.long())
    from_tdmpc2(path, tmp_path / "other")
    assert_holds(EpisodeStore.open(tmp_path / "other"), columns, TASKS)


def rewritten(path: Path, change: Callable[[zipfile.ZipInfo, bytes], bytes | None], **settings: Any) -> None:
    """Write the archive again with other members."""
    with zipfile.ZipFile(path) as archive:
        members = [(member, archive.read(member)) for member in archive.infolist()]
    with zipfile.ZipFile(path, "w", **settings) as archive:
        for member, content in members:
            new = change(member, content)
            if new is not None:
                archive.writestr(member.filename, new)


def test_a_damaged_value_is_found(chunk, tmp_path: Path) -> None:
    path = chunk()
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = next(
            member.header_offset for member in archive.infolist() if member.filename.endswith("data/0")
        )
    content[place + 3000] ^= 4
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"chunk_0\.pt: the checksum of 'obs' does not hold"):
        from_tdmpc2(path, tmp_path / "store")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda member, content: None if member.filename.endswith("data/1") else content,
            "'action' are missing",
        ),
        (
            lambda member, content: content[:999] if member.filename.endswith("data/0") else content,
            "'obs' has shape",
        ),
        (lambda member, content: b"big" if member.filename.endswith("byteorder") else content, "byte order"),
        (
            lambda member, content: None if member.filename.endswith("data.pkl") else content,
            "one data.pkl, got 0",
        ),
        (
            lambda member, content: bytes(2 << 20) if member.filename.endswith("pkl") else content,
            "more than 1,048",
        ),
    ],
)
def test_archives_that_do_not_hold_what_they_say_are_refused(
    chunk, tmp_path: Path, change: Callable, message: str
) -> None:
    path = chunk()
    rewritten(path, change)
    with pytest.raises(StoreError, match=rf"chunk_0\.pt: is not what torch\.save writes: .*{message}"):
        from_tdmpc2(path, tmp_path / "store")


def test_compressed_and_short_archives_are_refused(chunk, tmp_path: Path) -> None:
    path = chunk()
    raw = path.read_bytes()
    rewritten(path, lambda _, content: content, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(StoreError, match="'obs' are compressed"):
        from_tdmpc2(path, tmp_path / "store")
    for content in (b"", b"PK", raw[: len(raw) // 2], pickle.dumps({"obs": 1})):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"chunk_0\.pt: is not what torch\.save writes"):
            from_tdmpc2(path, tmp_path / "store")
    for name in ("folder.pt", "pipe.pt"):
        (tmp_path / name).mkdir() if name.startswith("folder") else os.mkfifo(tmp_path / name)
    with pytest.raises(StoreError, match=r"pipe\.pt: is not a regular file"):
        from_tdmpc2(tmp_path / "pipe.pt", tmp_path / "store")
    with pytest.raises(StoreError, match=r"folder\.pt: found no \.pt files"):
        from_tdmpc2(tmp_path / "folder.pt", tmp_path / "store")
    with pytest.raises(StoreError, match="there is no such file or folder"):
        from_tdmpc2(tmp_path / "nothing", tmp_path / "store")


class Calls:
    """Pickled as a call."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.reduced


def with_pickle(path: Path, content: bytes) -> None:
    rewritten(path, lambda member, old: content if member.filename.endswith("data.pkl") else old)


@pytest.mark.parametrize(
    "content",
    [
        Calls(os.system, "touch goskill-was-here"),
        {"obs": Calls(os.system, "touch goskill-was-here")},
        Calls(eval, "open('goskill-was-here', 'w')"),
        Calls(torch._utils._rebuild_tensor_v2, 1, 0, (8, 6, 39), (234, 39, 1), False, None),
        {"obs": Calls(torch._utils._rebuild_tensor_v2, 1, 0, (8, 6, 39), (234, 39, 1), False, None)},
        {"obs": Calls(torch._utils._rebuild_tensor_v2, "x")},
        {"obs": torch.Size([1])},
        {"obs": Calls(torch.Size, (1,), state={"x": 1})},
        [1, 2],
        {1: 2},
        None,
    ],
)
def test_pickles_of_anything_else_are_refused_without_running(
    chunk, tmp_path: Path, monkeypatch, content: object
) -> None:
    path = chunk()
    monkeypatch.chdir(tmp_path)
    with_pickle(path, pickle.dumps(content, protocol=2))
    with pytest.raises(StoreError, match=r"chunk_0\.pt: "):
        from_tdmpc2(path, tmp_path / "store")
    assert not Path("goskill-was-here").exists()


class _Storages(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        return value.said if isinstance(value, Said) else None


class Said:
    def __init__(self, *said: object) -> None:
        self.said = said


GOOD = ("storage", torch.FloatStorage, "0", "cpu", 1872)


@pytest.mark.parametrize(
    ("storage", "shape"),
    [
        (GOOD, (0, (9, 6, 39), (234, 39, 1))),  # one episode beyond the end
        (GOOD, (-4, (8, 6, 39), (234, 39, 1))),
        (GOOD, (0, (8, 6, 39), (-234, 39, 1))),
        (GOOD, (0, (8, 6, -39), (234, 39, 1))),
        (GOOD, (0, (8, 6), (234, 39, 1))),
        (GOOD, (0, [8, 6, 39], (234, 39, 1))),
        (GOOD, (0, (8.0, 6, 39), (234, 39, 1))),
        (GOOD, (True, (8, 6, 39), (234, 39, 1))),
        (GOOD, (0, (2**60, 6, 39), (0, 39, 1))),
        (("storage", torch.DoubleStorage, "0", "cpu", 1872), (0, (8, 6, 39), (234, 39, 1))),
        (("storage", torch.FloatStorage, "../data.pkl", "cpu", 1), (0, (1,), (1,))),
        (("storage", torch.FloatStorage, 0, "cpu", 1), (0, (1,), (1,))),
        (("storage", "no type", "0", "cpu", 1), (0, (1,), (1,))),
        (("other", torch.FloatStorage, "0"), (0, (1,), (1,))),
        ((), (0, (1,), (1,))),
    ],
)
def test_tensors_that_reach_beyond_their_values_are_refused(
    chunk, tmp_path: Path, storage: tuple, shape: tuple
) -> None:
    path, stream = chunk(), io.BytesIO()
    tensor = Calls(torch._utils._rebuild_tensor_v2, Said(*storage), *shape, False, {})
    _Storages(stream, protocol=2).dump({"obs": tensor})
    with_pickle(path, stream.getvalue())
    with pytest.raises(StoreError, match=r"chunk_0\.pt: is not what torch\.save writes"):
        TorchArchive(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_pickles_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    save_as_published(tmp_path / "chunk_0.pt", episodes_of([30, 79]))
    path = tmp_path / "chunk_0.pt"
    with zipfile.ZipFile(path) as archive:
        content = bytearray(archive.read("chunk_0/data.pkl"))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with_pickle(path, bytes(content))
    with contextlib.suppress(StoreError):
        archive = TorchArchive(path)
        for name, tensor in archive.tensors.items():
            if tensor.shape:
                archive.rows(name, 0, min(2, tensor.shape[0]))
