"""Downloads by name, from a stand-in of huggingface_hub: checked, continued, and converted file by file."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tdmpc2_chunks import episodes_of, save_as_published

from goskill.data import EpisodeStore, hub
from goskill.errors import InputError, StoreError

REVISION = "0123abcd"


class FakeHub:
    """A repository in a folder. Files are LFS's unless they lie in ``meta``; what was fetched is noted."""

    def __init__(self, root: Path) -> None:
        self.root, self.fetched, self.revisions, self.fault = root, [], [], None
        self.sha, self.wrong = REVISION, set()

    def dataset_info(self, repository: str, *, revision: str | None, files_metadata: bool) -> Any:
        assert files_metadata
        self.revisions.append(revision)
        if self.fault:
            raise self.fault
        files = [path for path in sorted(self.root.rglob("*")) if path.is_file()]
        return SimpleNamespace(sha=revision or self.sha, siblings=[self._listed(path) for path in files])

    def _listed(self, path: Path) -> Any:
        name, content = str(path.relative_to(self.root)), path.read_bytes()
        if name in self.wrong:
            content = b"something else"
        blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        lfs = None if name.startswith("meta/") else {"sha256": hashlib.sha256(content).hexdigest(), "size": 1}
        return SimpleNamespace(rfilename=name, size=len(content), blob_id=blob, lfs=lfs)

    def hf_hub_download(
        self, repository: str, name: str, *, repo_type: str, revision: str, local_dir: Path
    ) -> str:
        assert repo_type == "dataset"
        assert revision == self.sha
        if self.fault:
            raise self.fault
        target = Path(local_dir) / name
        if not target.exists():
            self.fetched.append(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((self.root / name).read_bytes())
            (Path(local_dir) / ".cache" / "huggingface").mkdir(parents=True, exist_ok=True)
        return str(target)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch) -> FakeHub:
    """Three chunks of MT80, and a file that belongs to something else."""
    for number in (2, 10, 1):
        path = tmp_path / "there" / "mt80" / f"chunk_{number}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_as_published(path, episodes_of([30, 79], number))
    (tmp_path / "there" / "README.md").write_text("what it is")
    fake, module = FakeHub(tmp_path / "there"), types.ModuleType("huggingface_hub")
    module.HfApi, module.hf_hub_download = lambda: fake, fake.hf_hub_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return fake


CHUNKS = [f"mt80/chunk_{number}.pt" for number in (1, 2, 10)]


def assert_holds(path: Path) -> None:
    store = EpisodeStore.open(path)
    assert not store.unfinished
    store.verify()
    assert len(store) == 6
    for place, number in enumerate((1, 2, 10)):
        expected = episodes_of([30, 79], number)
        np.testing.assert_array_equal(store.episode(2 * place).observations, expected["obs"][0])
    assert store.action_repeat == 2


def test_all_files_of_a_dataset_come_and_nothing_else(repository: FakeHub, tmp_path: Path) -> None:
    seen = []
    assert hub.download("tdmpc2-mt80", tmp_path / "here", progress=lambda *done: seen.append(done)) is None
    assert repository.fetched == CHUNKS
    for name in CHUNKS:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert seen == [(1, 3), (2, 3), (3, 3)]
    hub.download("tdmpc2-mt80", tmp_path / "here")
    assert repository.fetched == CHUNKS


@pytest.mark.parametrize("keep", [True, False])
def test_files_are_converted_one_by_one(repository: FakeHub, tmp_path: Path, keep: bool) -> None:
    most = []

    def look(done: int, _: int) -> None:
        most.append(len(list((tmp_path / "here").rglob("*.pt"))))

    tasks = ["assembly", "hand-insert"]
    report = hub.download("tdmpc2-mt80", tmp_path / "here", tmp_path / "store", keep, tasks, progress=look)
    assert_holds(tmp_path / "store")
    assert report.episodes == 6
    assert EpisodeStore.open(tmp_path / "store").tasks == tasks
    assert most == ([1, 2, 3] if keep else [0, 0, 0])
    assert (tmp_path / "here").exists() == keep
    (origin,) = EpisodeStore.open(tmp_path / "store").provenance
    assert (origin["dataset"], origin["revision"]) == ("tdmpc2-mt80", REVISION)
    repository.fetched.clear()
    again = hub.download("tdmpc2-mt80", tmp_path / "here", tmp_path / "store", keep, tasks)
    assert again == report
    assert repository.fetched == []


@pytest.mark.parametrize("stop", [1, 2])
def test_an_interrupted_download_goes_on_with_the_same_revision(
    repository: FakeHub, tmp_path: Path, stop: int
) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.download("tdmpc2-mt80", tmp_path / "here", tmp_path / "store", keep=False, progress=interrupt)
    assert EpisodeStore.open(tmp_path / "store").unfinished
    hub.download("tdmpc2-mt80", tmp_path / "here", tmp_path / "store", keep=False)
    assert repository.fetched == CHUNKS
    assert repository.revisions == [None, REVISION]
    assert_holds(tmp_path / "store")


def test_a_file_that_is_not_what_is_listed_is_removed(repository: FakeHub, tmp_path: Path) -> None:
    repository.wrong = {CHUNKS[1]}
    with pytest.raises(
        StoreError, match=r"chunk_2\.pt: its checksum is not what nicklashansen/tdmpc2 lists: removed"
    ):
        hub.download("tdmpc2-mt80", tmp_path / "here")
    assert (tmp_path / "here" / CHUNKS[0]).exists()
    assert not (tmp_path / "here" / CHUNKS[1]).exists()
    repository.wrong = set()
    hub.download("tdmpc2-mt80", tmp_path / "here")


@pytest.mark.parametrize("fault", [ConnectionError("no route\nto host"), RuntimeError(), OSError(5, "gone")])
def test_without_a_network_there_is_one_line(repository: FakeHub, tmp_path: Path, fault: Exception) -> None:
    repository.fault = fault
    with pytest.raises(
        InputError, match=r"tdmpc2-mt80: cannot be downloaded from huggingface\.co: "
    ) as raised:
        hub.download("tdmpc2-mt80", tmp_path / "here")
    assert "\n" not in str(raised.value)


def test_wrong_arguments_are_refused_by_name(repository: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"name: expected a dataset .*'tdmpc2-mt8'; did you mean 'tdmpc2-mt80'"
    ):
        hub.download("tdmpc2-mt8", tmp_path / "here")
    with pytest.raises(InputError, match="keep: expected a store to convert into"):
        hub.download("tdmpc2-mt80", tmp_path / "here", keep=False)
    with pytest.raises(InputError, match=r"tdmpc2-mt30: found no files mt30/\*\.pt in nicklashansen/tdmpc2"):
        hub.download("tdmpc2-mt30", tmp_path / "here")
    hub.download("tdmpc2-mt80", tmp_path / "here", tmp_path / "store")
    with pytest.raises(StoreError, match="store: holds other data than metaworld-mt50"):
        hub.download("metaworld-mt50", tmp_path / "here", tmp_path / "store")
    repository.fetched.clear()
    with pytest.raises(InputError, match=r"tasks: expected tasks of TD-MPC2, got 'assmbly'.*'assembly'"):
        hub.download("tdmpc2-mt80", tmp_path / "new", tmp_path / "other", tasks=["assmbly"])
    with pytest.raises(InputError, match="tasks: expected a store to convert them into, got none"):
        hub.download("tdmpc2-mt80", tmp_path / "new", tasks=["assembly"])
    assert repository.fetched == []
    path = tmp_path / "there" / "v1.5" / "lift" / "ph" / "low_dim_v15.hdf5"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="tasks: expected none for the layout robomimic"):
        hub.download("robomimic-lift-ph", tmp_path / "here", tmp_path / "other", tasks=["reach"])


def test_metadata_comes_first_and_is_held_to_gits_checksum(repository: FakeHub, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from test_lerobot import NAMES, frames, write

    repository.root = write(tmp_path / "frames", frames())
    report = hub.download("metaworld-mt50", tmp_path / "here", tmp_path / "store", keep=False)
    store = EpisodeStore.open(tmp_path / "store")
    assert [store.tasks[task] for task in store.episode_task] == NAMES
    assert repository.fetched[:2] == ["meta/info.json", "meta/tasks.parquet"]
    assert report.episodes == 5
    assert not (tmp_path / "here").exists()
    repository.wrong = {"meta/tasks.parquet"}
    with pytest.raises(StoreError, match=r"tasks\.parquet: its checksum is not"):
        hub.download("metaworld-mt50", tmp_path / "other")


def test_every_dataset_has_a_layout_and_is_described() -> None:
    from goskill.data.convert import LAYOUTS

    assert {"tdmpc2-mt30", "tdmpc2-mt80", "metaworld-mt50", "robomimic-tool-hang-ph"} <= set(hub.DATASETS)
    for dataset in hub.DATASETS.values():
        assert dataset.layout in LAYOUTS
        assert dataset.about


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "sys.modules['huggingface_hub'] = None",
            "error: downloads need the package huggingface_hub: pip install",
        ),
        ("import huggingface_hub", "error: metaworld-mt50: cannot be downloaded from huggingface.co: "),
    ],
)
def test_the_command_says_in_one_line_what_is_missing(tmp_path: Path, code: str, message: str) -> None:
    if "import" in code:
        pytest.importorskip("huggingface_hub", reason="its own offline mode stands in for a missing network")
    program = f"import sys; {code}; from goskill.cli import main; sys.argv[1:] = ['download', 'metaworld-mt50']; main()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
