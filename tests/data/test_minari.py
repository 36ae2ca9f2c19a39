"""Minari datasets: nothing is lost on the way, and ids that Minari does not take are refused by name."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from store_builders import ACTION_DIM, OBSERVATION_DIM, random_episode, write_store

from goskill.data import EpisodeStore, StoreWriter
from goskill.data.convert import from_hdf5, from_minari, minari_export, to_hdf5, to_minari
from goskill.errors import InputError, StoreError

minari = pytest.importorskip("minari")
h5py = pytest.importorskip("h5py")

ABOUT = {"author": "a test", "author_email": "a@b.c", "code_permalink": "https://a.b"}


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def names_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_success_goes_both_ways_for_the_episodes_that_have_it(tmp_path: Path) -> None:
    known = [[False, True, False], None, [True, True, True], [False] * 3]
    generator = np.random.default_rng(0)
    with StoreWriter(tmp_path / "store", OBSERVATION_DIM, ACTION_DIM, ["reach"]) as writer:
        for success in known:
            writer.append(task="reach", success=success, **random_episode(generator, 3))
    dataset = to_minari(EpisodeStore.open(tmp_path / "store"), "goskill/test-v0", "reach", **ABOUT)
    assert dataset[0].infos["success"].tolist() == [False, False, True, False]
    from_minari("goskill/test-v0", tmp_path / "back")
    back = EpisodeStore.open(tmp_path / "back")
    found = [back.episode(i).success for i in range(4)]
    assert [None if one is None else one.tolist() for one in found] == known


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_a_few_episodes_at_a_time_make_the_same_dataset(tmp_path: Path, monkeypatch, batch: int) -> None:
    monkeypatch.setattr("goskill.data.convert.minari_export._EPISODES_PER_BATCH", batch)
    lengths, tasks = [3, 4, 1, 7, 2, 5], [0, 0, 1, 0, 0, 0]
    store = write_store(tmp_path / "store", lengths, tasks)
    dataset = to_minari(store, "goskill/test-v0", "task-0", **ABOUT)
    chosen = np.flatnonzero(np.array(tasks) == 0)
    loaded = minari.load_dataset("goskill/test-v0")
    for found in (dataset, loaded):
        assert (found.total_episodes, found.total_steps) == (5, 21)
        for episode, index in zip(found.iterate_episodes(), chosen, strict=True):
            np.testing.assert_array_equal(episode.observations, store.episode(int(index)).observations)
            np.testing.assert_array_equal(episode.rewards, store.episode(int(index)).rewards)


def test_a_dataset_with_a_slash_in_its_name_goes_on_to_hdf5_and_back(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [3, 4], [0, 0])
    to_minari(store, "my/data-v0", "task-0", **ABOUT)
    from_minari("my/data-v0", tmp_path / "from-minari")
    files = to_hdf5(EpisodeStore.open(tmp_path / "from-minari"), tmp_path / "d4rl")
    assert [file.parent for file in files] == [tmp_path / "d4rl"]
    from_hdf5(tmp_path / "d4rl", tmp_path / "back")
    back = EpisodeStore.open(tmp_path / "back")
    assert back.tasks == ["my/data-v0"]
    for index in range(2):
        np.testing.assert_array_equal(back.episode(index).observations, store.episode(index).observations)


@pytest.mark.parametrize("name", ["no-version", "a b-v0", "../../x-v0", "/tmp/x-v0", "", 3])
def test_a_malformed_id_is_refused_and_nothing_is_written(datasets: Path, tmp_path: Path, name: Any) -> None:
    store = write_store(tmp_path / "store", [3], [0])
    with pytest.raises(
        InputError, match="dataset_id: expected a name such as 'group/name-v0', got"
    ) as caught:
        to_minari(store, name, "task-0", **ABOUT)
    assert repr(name) in str(caught.value)
    assert not datasets.exists()


def test_an_id_that_is_taken_is_refused_and_its_data_stays(datasets: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [3], [0])
    to_minari(store, "goskill/test-v0", "task-0", **ABOUT)
    before = names_below(datasets)
    with pytest.raises(InputError, match="dataset_id: expected a new name or version, got 'goskill/test-v0'"):
        to_minari(store, "goskill/test-v0", "task-0", **ABOUT)
    assert names_below(datasets) == before
    assert len(minari.load_dataset("goskill/test-v0")) == 1


NAMES = ["test-v0", "group/t-v0", "group/deeper/t-v0"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"data_format": "other"}, "Minari dataset '{name}': "),
        ({"author": 3}, "author: expected a string or a set of strings, got 3"),
        ({"author_email": {3}}, "author_email: expected a string or a set of strings, got .3"),
        ({"description": b"x"}, "description: expected a string, got b'x'"),
        ({"nonsense": 1}, "metadata: expected names that Minari knows, got 'nonsense'"),
        ({"buffer": []}, "metadata: expected names that Minari knows, got 'buffer'"),
        ({"env": "nope-v9"}, "Minari dataset '{name}': NameNotFound: .*nope"),
        ({"eval_env": "nope-v9"}, "Minari dataset '{name}': NameNotFound: .*nope"),
        ({"requirements": [b"x"]}, "Minari dataset '{name}': TypeError: .*bytes"),
    ],
)
def test_metadata_that_minari_refuses_is_named_and_nothing_is_left(
    datasets: Path, tmp_path: Path, name: str, metadata: dict[str, Any], message: str
) -> None:
    store = write_store(tmp_path / "store", [3], [0])
    with pytest.raises(InputError, match=message.format(name=name)) as caught:
        to_minari(store, name, "task-0", **{**ABOUT, **metadata})
    assert not isinstance(caught.value, StoreError)
    assert not datasets.exists() or names_below(datasets) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_dataset_that_cannot_be_written_is_named_and_removed(
    datasets: Path, tmp_path: Path, monkeypatch, name: str
) -> None:
    store = write_store(tmp_path / "store", [3], [0])

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minari.dataset._storages.hdf5_storage.HDF5Storage.update_episodes", fail)
    with pytest.raises(StoreError, match=rf"Minari dataset '{name}': .*No space left"):
        to_minari(store, name, "task-0", **ABOUT)
    assert names_below(datasets) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_without_room_is_refused_before_anything_is_written(
    datasets: Path, tmp_path: Path, monkeypatch, name: str
) -> None:
    store, asked = write_store(tmp_path / "store", [3, 4], [0, 0]), []

    def full(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=1000)

    monkeypatch.setattr("shutil.disk_usage", full)
    with pytest.raises(
        InputError, match=rf"{name}: expected room for .* [\d,]+ bytes, got 1,000 free"
    ) as caught:
        to_minari(store, name, "task-0", **ABOUT)
    assert str(datasets) in str(caught.value)
    assert not isinstance(caught.value, StoreError)
    assert asked == [datasets]
    assert names_below(datasets) == []


@pytest.mark.parametrize("lengths", [[1], [1] * 70, [2000], [129, 513], [300] * 20])
@pytest.mark.parametrize("success", [True, False])
def test_a_dataset_takes_no_more_room_than_was_asked_for(
    tmp_path: Path, monkeypatch, lengths: list[int], success: bool
) -> None:
    generator, asked = np.random.default_rng(0), []
    with StoreWriter(tmp_path / "store", OBSERVATION_DIM, ACTION_DIM, ["reach"]) as writer:
        for length in lengths:
            known = generator.random(length) < 0.5 if success else None
            writer.append(task="reach", success=known, **random_episode(generator, length))
    monkeypatch.setattr(minari_export, "_check_room", lambda _, needed: asked.append(needed))
    dataset = to_minari(EpisodeStore.open(tmp_path / "store"), "goskill/test-v0", "reach", **ABOUT)
    folder = Path(dataset.storage.data_path)
    taken = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert taken <= asked[0] <= 2 * taken + (1 << 20)


def test_a_namespace_that_holds_another_dataset_stays(datasets: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [3], [0])
    to_minari(store, "group/t-v0", "task-0", **ABOUT)
    before = names_below(datasets)
    with pytest.raises(InputError, match="nope"):
        to_minari(store, "group/deeper/t-v0", "task-0", **ABOUT, eval_env="nope-v9")
    assert names_below(datasets) == before


def test_a_task_without_episodes_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [3], [1])
    with pytest.raises(InputError, match="task: expected one that has episodes, got 'task-0'"):
        to_minari(store, "test-v0", "task-0", **ABOUT)


def new_dataset(tmp_path: Path) -> Path:
    """The folder of a dataset goskill/test-v0 of two episodes, of 3 and 4 steps."""
    store = write_store(tmp_path / "store", [3, 4], [0, 0])
    return Path(to_minari(store, "goskill/test-v0", "task-0", **ABOUT).storage.data_path)


def without(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        with h5py.File(folder / "main_data.hdf5", "a") as file:
            del file[name]

    return damage


def instead(name: str, value: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        with h5py.File(folder / "main_data.hdf5", "a") as file:
            if name in file:
                del file[name]
            file[name] = value

    return damage


def without_spaces(folder: Path) -> None:
    """Minari asks the environment for them then."""
    spec = {"id": "nope-v9", "entry_point": None}
    (folder / "metadata.json").write_text(json.dumps({"env_spec": json.dumps(spec)}))


def a_pipe(folder: Path) -> None:
    (folder / "main_data.hdf5").unlink()
    os.mkfifo(folder / "main_data.hdf5")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: os.truncate(folder / "main_data.hdf5", 3000),
            "goskill/test-v0: episode 0: is not what",
        ),
        (a_pipe, r"goskill/test-v0: episode 0: is not|main_data\.hdf5: is not a regular file"),
        (without("episode_0"), "goskill/test-v0: episode 0: is not what .*episode_0"),
        (without("episode_1"), "goskill/test-v0: episode 1: is not what .*episode_1"),
        (without("episode_1/observations"), "goskill/test-v0: episode 1: is not what .*observations"),
        (instead("episode_1/rewards", 3.0), "goskill/test-v0: episode 1: is not what"),
        (instead("episode_1/infos", 3.0), "goskill/test-v0: episode 1: is not what .*AssertionError"),
        (
            lambda folder: (folder / "metadata.json").write_text("{}"),
            "Minari dataset 'goskill/test-v0': expected metadata with its observation_space",
        ),
        (
            without_spaces,
            "'goskill/test-v0': expected metadata with its observation_space: Minari would make",
        ),
        (
            lambda folder: (folder / "metadata.json").write_text("{"),
            "Minari dataset 'goskill/test-v0': is not",
        ),
    ],
)
def test_a_damaged_dataset_is_refused_by_name(
    tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(new_dataset(tmp_path))
    with pytest.raises(StoreError, match=message):
        from_minari("goskill/test-v0", tmp_path / "back")


def test_an_environment_that_metadata_name_is_not_made(tmp_path: Path, monkeypatch) -> None:
    folder = new_dataset(tmp_path)
    kept = json.loads((folder / "metadata.json").read_text())
    kept["env_spec"] = json.dumps({"id": "any-v0", "entry_point": "any_module:make"})
    for space in ("observation_space", "action_space"):
        metadata = {name: value for name, value in kept.items() if name != space}
        (folder / "metadata.json").write_text(json.dumps(metadata))
        monkeypatch.setattr("gymnasium.make", lambda *_, **__: pytest.fail("an environment was made"))
        with pytest.raises(StoreError, match=f"'goskill/test-v0': expected metadata with its {space}"):
            from_minari("goskill/test-v0", tmp_path / "back")


@pytest.mark.parametrize("dataset", [3, None, b"goskill/test-v0", ["goskill/test-v0"]])
def test_what_is_no_dataset_is_refused_by_name(tmp_path: Path, dataset: Any) -> None:
    with pytest.raises(InputError, match="dataset: expected a Minari dataset or its id, got"):
        from_minari(dataset, tmp_path / "back")


@pytest.mark.parametrize("name", ["episode_1", "episode_1/observations", "episode_1/infos/deep/success"])
@pytest.mark.parametrize("external", [True, False])
def test_links_are_not_followed(tmp_path: Path, name: str, external: bool) -> None:
    """They lead to what was there before, so that nothing but the link itself is wrong."""
    folder = new_dataset(tmp_path)
    instead("episode_1/infos/deep/success", np.zeros(5, bool))(folder)
    with h5py.File(folder / "main_data.hdf5", "a") as file, h5py.File(tmp_path / "other", "w") as other:
        file.copy(name, other if external else file, "secret")
    link = h5py.ExternalLink(str(tmp_path / "other"), "secret") if external else h5py.SoftLink("/secret")
    instead(name, link)(folder)
    with pytest.raises(
        StoreError, match=f"goskill/test-v0: episode 1: '{name}': expected a dataset, got a link"
    ):
        from_minari("goskill/test-v0", tmp_path / "back")


@pytest.mark.parametrize("kind", ["external", "virtual"])
def test_values_kept_in_other_files_are_refused(tmp_path: Path, kind: str) -> None:
    folder = new_dataset(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(400))
    without("episode_0/rewards")(folder)
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        if kind == "external":
            file.create_dataset("episode_0/rewards", (3,), "f4", external=[(str(tmp_path / "secret"), 0, 12)])
        else:
            layout = h5py.VirtualLayout((3,), "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret"), "rewards", (3,))
            file.create_virtual_dataset("episode_0/rewards", layout)
    with pytest.raises(StoreError, match="episode 0: 'episode_0/rewards': keeps its values in other files"):
        from_minari("goskill/test-v0", tmp_path / "back")


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "truncations", "infos/deep/any"])
@pytest.mark.parametrize("settings", [{}, {"chunks": True}, {"chunks": True, "compression": "gzip"}])
def test_shapes_that_a_file_does_not_hold_are_refused(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    folder = new_dataset(tmp_path)
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        episode = file["episode_1"]
        if name in episode:
            del episode[name]
        episode.create_dataset(name, (2**33, 2), "f4", **settings)
    tracemalloc.start()
    try:
        with pytest.raises(
            StoreError,
            match=r"goskill/test-v0: episode 1: columns .*expected the 687.* bytes .* never written",
        ):
            from_minari("goskill/test-v0", tmp_path / "back")
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


def test_an_episode_too_large_to_be_read_at_once_is_refused(tmp_path: Path) -> None:
    """It is all there, in a few bytes."""
    folder = new_dataset(tmp_path)
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        any_info = file.create_dataset(
            "episode_1/infos/any", (300, 2**20), "u1", chunks=(1, 2**20), compression=9
        )
        for row in range(300):
            any_info[row] = 0
    with pytest.raises(
        StoreError, match="episode 1: expected an episode of at most 268435456 bytes, got 3145"
    ):
        from_minari("goskill/test-v0", tmp_path / "back")


def test_chunks_too_large_to_unpack_are_refused(tmp_path: Path) -> None:
    with h5py.File(new_dataset(tmp_path) / "main_data.hdf5", "a") as file:
        file.create_dataset(
            "episode_1/infos/any", (4,), "i8", maxshape=(None,), chunks=(2**28,), compression="gzip"
        )
    with pytest.raises(
        StoreError, match="episode 1: 'episode_1/infos/any': expected chunks of at most 1073741824"
    ):
        from_minari("goskill/test-v0", tmp_path / "back")


@pytest.mark.parametrize("count", [10**13, -1, "2", None, 1e30])
def test_impossible_numbers_of_episodes_are_refused(tmp_path: Path, count: object) -> None:
    metadata = new_dataset(tmp_path) / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"total_episodes": count}))
    with pytest.raises(StoreError, match="'goskill/test-v0': expected metadata with its total_episodes"):
        from_minari("goskill/test-v0", tmp_path / "back")


def test_groups_without_an_end_are_refused(tmp_path: Path) -> None:
    with h5py.File(new_dataset(tmp_path) / "main_data.hdf5", "a") as file:
        infos = file.create_group("episode_0/infos")
        infos["again"] = infos
    with pytest.raises(StoreError, match="episode 0: 'episode_0/infos/again': expected a group of one name"):
        from_minari("goskill/test-v0", tmp_path / "back")


@pytest.mark.parametrize("shape", [(3,), (3, 1), (4,), (4, 1)])
def test_success_with_or_without_the_reset_is_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    after_steps = np.array([False, True, True])
    with_reset = np.concatenate([[False], after_steps])[-shape[0] :].reshape(shape)
    instead("episode_0/infos/success", with_reset)(new_dataset(tmp_path))
    from_minari("goskill/test-v0", tmp_path / "back")
    assert EpisodeStore.open(tmp_path / "back").episode(0).success.tolist() == after_steps.tolist()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("success", True),
        ("success", np.zeros(2, bool)),
        ("success", np.zeros((4, 2), bool)),
        ("success", np.array([b"yes"] * 4)),
        ("success/deep", np.zeros(4, bool)),
    ],
)
def test_other_success_is_refused_by_name(tmp_path: Path, name: str, values: Any) -> None:
    instead(f"episode_0/infos/{name}", values)(new_dataset(tmp_path))
    with pytest.raises(
        StoreError, match="goskill/test-v0: episode 0: infos/success: expected 3 or 4 numbers, got"
    ):
        from_minari("goskill/test-v0", tmp_path / "back")
